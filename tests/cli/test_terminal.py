"""Output to a terminal: names are escaped, and a closed pipe or a full disk gives no traceback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from probes import Batch
from probes.errors import DataError
from probes.storage.writer import create
from repanalysis.cli._failures import exit_code_of, sentence_of
from tests.cli.running import DIGITS, refused, run, write_acts

CLEAR = "\x1b[2J\r\u202e\x9b31m"


@pytest.fixture
def forged(tmp_path: Path) -> Path:
    """A file in which every name contains terminal control sequences."""
    rng = np.random.default_rng(0)
    path = tmp_path / "forged.h5"
    writer = create(
        path, attrs={"model": f"m{CLEAR}\nstate            complete", f"key{CLEAR}": CLEAR}, class_names=[CLEAR, "b", "c"]
    )
    layers = {f"conv{CLEAR}": rng.normal(size=(60, 4)), "fc": np.zeros((60, 2))}
    writer.append(Batch(ids=np.arange(60), layers=layers, labels=np.arange(60) % 3))
    writer.close(complete=True)
    return path


def harmless(text: str) -> None:
    assert not set(text) & {"\x1b", "\r", "\u202e", "\x9b", "\x07"}


@pytest.mark.parametrize(
    "words",
    [
        ["info", "FILE"],
        ["info", "FILE", "--json"],
        ["doctor", "FILE"],
        ["doctor", "FILE", "--json"],
        ["analyze", "FILE", "--groups", 0],
        ["analyze", "FILE", "--json", "-m", "nc1", "--groups", 0],
        ["analyze", "FILE", "-l", "conv?"],
        ["compare", "FILE"],
        ["compare", "FILE", "--json"],
        ["analyze", "FILE", "-m", f"x{CLEAR}"],
        ["analyze", f"{CLEAR}.h5"],
        ["analyze", "FILE", "--classes", CLEAR],
        ["analyze", "FILE", "--seed", CLEAR],
        [CLEAR],
        ["analyze", "FILE", CLEAR, CLEAR],
        ["verify", DIGITS, "FILE"],
        ["verify", DIGITS, "FILE", "--trust-file"],
        ["filters", "FILE", "-o", "f.csv", "--bootstrap", 0],
    ],
)
def test_control_sequences_in_names_are_escaped(forged: Path, monkeypatch: pytest.MonkeyPatch, words: list[object]) -> None:
    monkeypatch.chdir(forged.parent)
    result = run(*(forged.name if word == "FILE" else word for word in words))
    harmless(result.stdout)
    harmless(result.stderr)


def test_a_line_feed_in_an_attribute_starts_no_new_line(forged: Path) -> None:
    lines = run("info", forged).stdout.splitlines()
    assert [line.split() for line in lines if line.startswith("state")] == [["state", "complete"]]


def test_json_contains_names_unescaped(forged: Path) -> None:
    info = json.loads(run("info", forged, "--json").stdout)
    assert info["layers"][0]["name"] == f"conv{CLEAR}"


def test_a_path_that_is_not_utf8_is_printed(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.h5"))
    write_acts(path)
    words = [sys.executable, "-m", "repanalysis.cli"]
    for arguments in (["analyze", path, "-m", "nc1", "--groups", "0"], ["analyze", f"{path}x"]):
        completed = subprocess.run([*words, *arguments], capture_output=True, check=False)
        assert b"Traceback" not in completed.stderr
        assert completed.returncode == (2 if str(arguments[1]).endswith("x") else 0), completed.stderr
    completed = subprocess.run([*words, "doctor", path], capture_output=True, check=False)
    assert b"\\udcff" in completed.stdout


def test_a_closed_pipe_ends_the_command_without_a_message(acts: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "repanalysis.cli", "info", acts]
    completed = subprocess.run(words, stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (completed.returncode, completed.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_output_device_has_a_one_sentence_error(acts: Path) -> None:
    for words in (["info", acts], ["--help"]):
        with Path("/dev/full").open("w") as full:
            completed = subprocess.run(
                [sys.executable, "-m", "repanalysis.cli", *words], stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert (completed.returncode, completed.stderr) == (1, "Error: The output can't be written: the disk is full.\n"), words


@pytest.mark.parametrize(
    ("error", "sentence", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "out.csv: the disk is full.", 1),
        (OSError(errno.ENOSPC, "No space left on device", "x.h5"), "x.h5: the disk is full.", 1),
        (PermissionError(errno.EACCES, "Permission denied", b"x\x1b"), r"x\x1b: permission denied.", 1),
        (OSError(errno.EROFS, "Read-only file system", "x"), "x: the file system is read-only.", 1),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x"), "x: the name is too long.", 1),
        (OSError(errno.EIO, "Input/output error", "x"), "x: Input/output error.", 1),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "There is no file x.", 2),
        (FileNotFoundError("There is no weights file x."), "There is no weights file x.", 2),
        (
            MemoryError(),
            "The memory does not suffice; try a smaller --batch-size, a coarser --pool, fewer layers or a --limit.",
            1,
        ),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried 9 bytes.\nmore"),
            "The memory does not suffice ([enforce fail] DefaultCPUAllocator: not enough memory: you tried 9 bytes.); try "
            "a smaller --batch-size, a coarser --pool, fewer layers or a --limit.",
            1,
        ),
        (DataError("Layer 'a\nb' is odd."), r"Layer 'a\nb' is odd.", 1),
        (RuntimeError("first\nsecond"), "RuntimeError: first", 1),
        (RuntimeError(), "RuntimeError.", 1),
    ],
)
def test_a_system_error_names_the_file_and_the_reason(error: BaseException, sentence: str, code: int) -> None:
    assert sentence_of(error, output="out.csv") == sentence
    assert exit_code_of(error) == code


def test_options_that_are_repeated_or_empty_are_refused(acts: Path) -> None:
    assert "'--seed': it is given twice" in refused("analyze", acts, "--seed", 1, "--seed", 2, code=2)
    assert "An argument is empty" in refused("analyze", acts, "--metrics", "", code=2)
    assert "An argument is empty" in refused("analyze", acts, "--metrics=", code=2)
    assert run("analyze", acts, "-q", "-q", "-m", "nc1", "--groups", 0, "-l", "conv", "-l", "relu").exit_code == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b'seed = "abc"', "seed in o.toml is 'abc'; a whole number is needed"),
        (b"seed = 1.5", "seed in o.toml is 1.5; a whole number is needed"),
        (b"seed = true", "seed in o.toml is true; a whole number is needed"),
        (b"seed = [1]", "seed in o.toml is a list; a whole number is needed"),
        (b"[seed]\na = 1", "seed in o.toml is a table; a whole number is needed"),
        (b"metrics = ['a']", "metrics in o.toml is a list; a text is needed"),
        (b"metrics = ''", "metrics in o.toml is ''; a text is needed"),
        (b"metrics = 1979-05-27", "metrics in o.toml is 1979-05-27; a text is needed"),
        (b"quiet = 1", "quiet in o.toml is 1; true or false is needed"),
        (b"layers = [1, [2]]", "layers in o.toml is a list; a text is needed"),
        (b"output = 3", "output in o.toml is 3; a path is needed"),
        (b"seed = -1", "'--seed'"),
        (b"state_budget = nan", "'--state-budget'"),
        (b"[analyse]\nseed = 1", "Unknown table in o.toml 'analyse'. Did you mean 'analyze'?"),
        (b"config = 'o.toml'", "Unknown key of analyze in o.toml 'config'"),
        (b"metrics = '\xe9'", "is no TOML file: byte 11 is no UTF-8"),
        (b"seed = ", "is no TOML file"),
        (b"a = " + b"[" * 3000, "is no TOML file"),
    ],
)
def test_an_options_file_with_wrong_types_is_refused(
    acts: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, sentence: str
) -> None:
    monkeypatch.chdir(acts.parent)
    Path("o.toml").write_bytes(text)
    assert sentence in refused("analyze", acts, "--config", "o.toml", code=2)


def test_a_valid_options_file_is_applied(acts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(acts.parent)
    Path("o.toml").write_bytes(
        b"\xef\xbb\xbfseed = 3\nstate_budget = 1\n[analyze]\nlayers = 'conv'\nmetrics = 'nc1'\n[extract]\nsize = 32"
    )
    completed = run("analyze", acts, "--config", "o.toml", "--groups", 0, "--json")
    assert completed.exit_code == 0, completed.stderr
    assert {row["layer"] for row in json.loads(completed.stdout)["rows"]} == {"conv"}

"""Malformed calls of every verb: one sentence and a documented exit code, no traceback, no file left behind.

The calls are derived from the commands: every option of every command gets the values that its type does not allow, so
that a new option is covered without a change here.
"""

from __future__ import annotations

import inspect
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from probes.errors import EXIT_CODES
from repanalysis.cli import app
from repanalysis.cli._config import kind_of
from repanalysis.table import Table
from tests.cli.running import DIGITS, run, write_acts

# The shortest valid call of each command.
CALLS: dict[str, list[str]] = {
    "demo": ["-o", "demo"],
    "layers": [DIGITS, "--data", "digits"],
    "plan": [DIGITS, "--data", "digits"],
    "extract": [DIGITS, "--data", "digits", "-o", "out.h5"],
    "analyze": ["acts.h5"],
    "train": [DIGITS, "--data", "digits", "-o", "run"],
    "stability": [DIGITS, "--data", "digits", "-p", "shift:1", "-o", "out.csv"],
    "filter-energy": [DIGITS, "-o", "out.csv"],
    "study": [DIGITS, "--data", "digits", "-o", "runs"],
    "plot": ["table.csv", "-o", "out.svg"],
    "compare": ["acts.h5"],
    "merge": ["acts.h5", "-o", "out.h5"],
    "info": ["acts.h5"],
    "verify": [DIGITS, "acts.h5", "--data", "digits"],
    "doctor": ["acts.h5"],
    "redunet build": ["--data", "digits", "-o", "out.safetensors"],
    "redunet plan": ["--data", "digits"],
    "redunet study": ["translation", "--layers", "1", "-o", "study"],
    "filters measure": ["acts.h5", "-o", "out.csv"],
    "filters prune": [DIGITS, "--data", "digits", "-o", "out.csv"],
    "filters prune-head": ["acts.h5", "-o", "out.csv"],
    "filters labels": ["acts.h5", "-o", "out.csv"],
    "filters widths": ["table.csv", "-o", "out.csv"],
}
# Invalid values of each type.
BAD: dict[type, list[str]] = {
    int: ["x", "1.5", "-1", "nan", "99999999999999999999", "", "0x10", "1,2"],
    float: ["x", "nan", "inf", "-inf", "1e999", "", "1,2", "0.1.2"],
    str: ["", "\0"],
    Path: ["", "missing/\0.csv", "/dev/zero", "pipe", "x" * 300 + ".csv", "acts.h5/inside.csv", "/proc/none/out.csv"],
}
# Invalid values of options with their own syntax.
WORDS: dict[str, list[str]] = {
    "weights": ["none.pt", "acts.h5", "table.csv", ".", "/dev/zero", "empty", "text.safetensors", "/dev/full"],
    "data": [
        "",
        "nonsense",
        "digit",
        "npz:none.npz",
        "npz:.",
        "npz:empty",
        "npz:text.npz",
        "imagefolder:none",
        "imagefolder:/dev/zero",
        "imagefolder:empty",
        "imagefolder:pictures",
        "imagefolder:empty_folder",
        "gaussians:d=100000",
        "gaussians:n=0",
        "gaussians:K=x",
        "gaussians:seed=-1",
        "gaussians:d=1,d=2",
        "gaussians:n=1e30",
        "gaussians:noise=nan",
        "scale-detection:pixels=100000",
        "npz:x,integers=y",
    ],
    "split": ["tset", "../.."],
    "layers": ["re:(", "re:", "nothing*", "type:Nothing", ""],
    "pool": ["meen", "grid:0", "grid:x", "project:-1", "project:", "x=", "=mean", "project:99999999999"],
    "axes": ["fc*", "fc*=QQ", "fc*=BCTHW", "=", "fc*=(B"],
    "dtype": ["float", "int8"],
    "size": ["0", "x", "3,4", "-5", "1x0x1", "99999999999999999999"],
    "mean": ["x", "1,2", "nan", "1,,2", "inf"],
    "std": ["0", "x", "-1", "0,0,0", "nan", "1,2"],
    "device": ["nope", "cuda:99", "meta", "cuda:x"],
    "precision": ["float", "int8", "bf16 "],
    "compression": ["zip", "gzip:99"],
    "metrics": [
        "fischer",
        "fisher_ratio:ridge",
        "fisher_ratio:ridge=x",
        "rate_reduction:eps_sq=-1",
        "fisher_ratio:nope=1",
        ",",
        ":",
        "rate_reduction:eps_sq=1e999",
        "fisher_ratio:ridge=[[[",
    ],
    "budget": ["20 apples", "-1GB", "0", "nanGB", "1..2GB", "9" * 400 + "GB"],
    "perturb": [
        "wobble:1",
        "shift:1..",
        "shift:3..1",
        "shift:0..99999999999",
        "noise:match=nothing",
        "shift:x",
        "diffeo:delta=nan",
        "noise:",
        ":",
        "shift:1..inf",
        "diffeo:0.1..10/99999999",
    ],
    "diffeo": ["wobble:1", "diffeo:delta=x"],
    "classes": ["nobody", ","],
    "superclasses": ["none.toml", "text.safetensors", ".", "numbers.toml", "latin.toml"],
    "head": ["none", "none.pt:fc", ":", "acts.h5:fc", "x:"],
    "dask": ["nowhere", "tcp://127.0.0.1:1", "tcp://x:y"],
    "method": ["ckaa"],
    "x": ["sideways"],
    "metric": ["fischer"],
    "variant": ["none"],
    "theta": ["-1", "2"],
    "order": ["random"],
    "gauge": ["middle"],
    "solver": ["adam"],
    "group": ["x", "x=0", "x=y", "=3"],
    "statistic": ["mode"],
    "batch_norm": ["walking"],
    "schedule": ["never"],
    "loss": ["mse"],
    "optimizer": ["lion"],
    "rate": ["0", "-1"],
    "momentum": ["-1"],
    "decay": ["-1"],
    "noise": ["-1"],
    "layer": ["nothing"],
    "output": ["acts.h5"],
    "figure": ["out.jpeg", "out", ".", "acts.h5"],
    "sheet": ["out.jpeg"],
    "heads": ["out.pt"],
    "save": ["out.pt"],
    "filter": ["99999"],
    "threads": ["0", "99999"],
    "workers": ["99999"],
    "seed": ["4294967296"],
    "config": [
        "none.toml",
        "latin.toml",
        "acts.h5",
        ".",
        "/dev/zero",
        "list.toml",
        "table.toml",
        "word.toml",
        "unknown.toml",
        "nul.toml",
    ],
    "model": [
        "",
        "resnet18",
        "tim:x",
        "timm:nothing",
        "py:os:system",
        "py:nowhere:f",
        "py:os",
        "py::",
        "small:nothing",
        "small:lenet,width=x",
        "scattering:J=-1",
        "scattering:J=x",
        "scale-net:blocks=0",
        "hf:",
        "torchvision:nothing",
        "py:os:getpid",
        "py:shutil:rmtree",
    ],
    "path": ["none.h5", "empty", "text.safetensors", "empty_folder", "table.csv"],
    "source": ["none", "empty", "empty_folder"],
    "a": ["none.h5", "empty", "empty_folder", "table.csv"],
    "b": ["none.h5", "empty", "other.h5"],
    "sources": ["none.h5", "empty", "empty_folder", "latin.toml"],
    "train": ["none.h5", "empty", "empty_folder"],
    "test": ["none.h5", "empty"],
    "tables": ["none.csv", "empty.csv", "acts.h5", "binary.csv", "cut.csv", "."],
}
# Values from the lists above that are valid.
RIGHT = {("config", "empty"), ("ignore_labels", "-1"), ("b", "other.h5")}
# Files that no command can read, for every argument that is an input file.
GARBAGE = ["foreign.h5", "half.png", "half.h5", "binary.csv", "text.safetensors", "empty", "empty_folder", "none.h5"]
READ = ("path", "source", "a", "b", "sources", "train", "test", "tables", "config", "superclasses", "head", "weights")


def verbs() -> Iterator[tuple[str, Any]]:
    commands = get_command(app).commands  # type: ignore[attr-defined]  # a group
    for name, command in commands.items():
        for inner, verb in getattr(command, "commands", {"": command}).items():
            yield f"{name} {inner}".strip(), verb


def malformed() -> list[tuple[str, str, str]]:
    """Command, parameter and value."""
    calls = []
    for name, verb in verbs():
        kinds = {key: kind_of(p.annotation)[0] for key, p in inspect.signature(verb.callback).parameters.items()}
        for parameter in verb.params:
            kind = kinds.get(parameter.name, bool)
            if kind is bool:
                continue
            garbage = GARBAGE if parameter.name in READ and (kind is Path or parameter.name == "weights") else []
            values = list(dict.fromkeys(BAD[kind] + WORDS.get(parameter.name, []) + garbage))
            calls += [(name, parameter.name, value) for value in values]
    return [call for call in calls if call[1:] not in RIGHT]


EVERY = malformed()


def words_of(name: str, parameter: str, value: str) -> list[str]:
    """The valid call of a command with the value of one parameter replaced."""
    verb = dict(verbs())[name]
    option = next(p for p in verb.params if p.name == parameter)
    words = list(CALLS[name])
    if option.param_type_name == "argument":
        arguments = [p.name for p in verb.params if p.param_type_name == "argument"]
        at = arguments.index(parameter)
        words[at : at + (at < _positional(words))] = [value]
        return [*name.split(), *words]
    for flag in option.opts:
        if flag in words:
            at = words.index(flag)
            del words[at : at + 2]
    return [*name.split(), *words, option.opts[0], value]


def _positional(words: list[str]) -> int:
    return next((at for at, word in enumerate(words) if word.startswith("-")), len(words))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Valid files, and some invalid ones."""
    place = tmp_path_factory.mktemp("malformed")
    write_acts(place / "acts.h5")
    write_acts(place / "other.h5", {"conv": np.zeros((9, 4))})
    rows = [{"run": "a", "layer": f"l{i}", "order": i, "metric": "nc1", "value": i, "n": 9} for i in range(3)]
    Table.from_rows(rows, {"a": {"source": "a.h5"}}).to_csv(place / "table.csv")
    content = (place / "table.csv").read_bytes()
    (place / "cut.csv").write_bytes(content[: len(content) // 2])
    for name in ("empty", "empty.csv"):
        (place / name).touch()
    (place / "empty_folder").mkdir()
    h5py.File(place / "foreign.h5", "w").close()
    (place / "half.h5").write_bytes((place / "acts.h5").read_bytes()[:4000])
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(place / "half.png")
    (place / "half.png").write_bytes((place / "half.png").read_bytes()[:40])
    (place / "pictures" / "cat").mkdir(parents=True)
    shutil.copy(place / "half.png", place / "pictures" / "cat" / "half.png")
    (place / "text.safetensors").write_text("hello")
    (place / "text.npz").write_text("hello")
    (place / "binary.csv").write_bytes(bytes(range(256)))
    (place / "latin.toml").write_bytes(b"seed = 1 # \xe9")
    (place / "numbers.toml").write_text("animal = 3")
    (place / "list.toml").write_text("seed = [1, 2]")
    (place / "table.toml").write_text("[seed]\nx = 1")
    (place / "word.toml").write_text('seed = "abc"')
    (place / "unknown.toml").write_text("nonsense = 1")
    (place / "nul.toml").write_text('config = "a\\u0000b"')
    os.mkfifo(place / "pipe")
    return place


def contents(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.lstat().st_size for path in folder.rglob("*")}


def check(folder: Path, words: list[str]) -> str:
    """Assert one sentence on stderr, a documented exit code and no file written."""
    before = contents(folder)
    result = run(*words)
    context = f"{words}: {result.exit_code}\n{result.stderr}\n{result.stdout[-500:]}"
    after = contents(folder)
    if words[0] in ("train", "study"):  # these may have started a run
        before, after = (
            {name: size for name, size in listing.items() if not name.startswith("run")} for listing in (before, after)
        )
        for name in ("run", "runs"):
            shutil.rmtree(folder / name, ignore_errors=True)
    for name in after.keys() - before.keys():  # so that the following calls start from the same files
        target = folder / name
        shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    assert result.exit_code in set(EXIT_CODES) - {0}, context
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, context
    assert "Traceback" not in result.output, context
    sentence = errors[0].removeprefix("Error: ")
    kinds = (
        "AssertionError",
        "AttributeError",
        "IndexError",
        "KeyError",
        "NameError",
        "RecursionError",
        "UnboundLocalError",
        "TypeError",
        "ValueError",
        "OverflowError",
        "ZeroDivisionError",
        "RuntimeError",
    )
    assert not sentence.startswith(kinds), context
    assert sentence.isprintable(), context
    assert after == before, f"{context} left {sorted(after.keys() ^ before.keys())}"
    return sentence


def test_every_command_has_a_valid_call() -> None:
    assert set(CALLS) == {name for name, _ in verbs()}
    assert len(EVERY) >= 300


# A sample over all options: all calls take minutes and run with -m slow.
QUICK = [call for call in EVERY if call[1] != "dask"]  # which would wait for a scheduler
FEW = QUICK[:: len(QUICK) // 300]


@pytest.mark.filterwarnings("default")
def test_malformed_calls_of_a_sample_have_one_sentence_errors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert len(FEW) >= 300
    failed = []
    for call in FEW:
        try:
            check(folder, words_of(*call))
        except AssertionError as error:
            failed.append(" ".join(str(error).split())[:400])
    assert not failed, "\n".join(failed)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", sorted(CALLS))
def test_every_malformed_call_has_a_one_sentence_error(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(folder)
    failed = []
    for call in EVERY:
        if call[0] == name:
            try:
                check(folder, words_of(*call))
            except AssertionError as error:
                failed.append(" ".join(str(error).split())[:400])
    assert not failed, "\n".join(failed)

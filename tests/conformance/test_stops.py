"""Every command that writes, stopped between its writes, leaves the old or the new file and then gives the same result."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from probes.checking import doctor
from repanalysis.table import Table
from tests.analyses.pruning.test_recorded_heads import planted
from tests.cli.running import write_acts
from tests.conformance.stopping import Server, server
from tests.conformance.test_crashes import content as h5_content

MLP, LENET = "small:mlp,width=2,colours=1,size=8", "small:lenet,width=4,colours=1,size=8"
TRAINING = ["--split", "train", "--limit", "64", "--epochs", "2", "--batch-size", "32", "--lr", "0.1", "--test-split", "test"]


@dataclass(frozen=True)
class Case:
    """A command that writes.

    Attributes
    ----------
    words : str
        The arguments a user types.
    rerun : str
        Option added to resume or overwrite.
    old : tuple of str
        Files that exist before the run.
    incremental : bool
        Whether it writes valid intermediate files that are neither old nor new.
    """

    words: str
    rerun: str = "--overwrite"
    old: tuple[str, ...] = ()
    incremental: bool = False
    env: dict[str, str] = field(default_factory=dict)


EXTRACT = f"extract {MLP} --data digits --limit 40 --batch-size 8"
ANALYZE = "analyze ../inputs/a.h5 -m fisher_ratio --groups 0"
STABILITY = f"stability {MLP} --data digits --limit 8 -p shift:1"
HEADS = "../inputs/train.npz ../inputs/test.npz"
PRUNE = f"filters prune {LENET} --weights random --data digits --limit 128 --epochs 1 --controls 0"
STUDY = f"study {MLP} --data digits --noise 0 --noise 1 --noise 2 --epochs 1 --batch-size 32 --limit 64 --images 8"
CASES = {
    "extract": Case(f"{EXTRACT} -o acts.h5", "--resume", incremental=True),
    "shards": Case(f"{EXTRACT} -o acts", "--resume", incremental=True, env={"RANK": "1", "WORLD_SIZE": "2"}),
    "extract metrics": Case(f"{EXTRACT} -m fisher_ratio -o t.csv", old=("t.csv",)),
    "merge": Case("merge ../inputs/shards -o acts.h5", incremental=True),
    "analyze": Case(f"{ANALYZE} -o t.csv -f t.png", old=("t.csv", "t.png")),
    "analyze parquet": Case(f"{ANALYZE} -o t.parquet", old=("t.parquet",)),
    "compare": Case("compare ../inputs/a.h5 --groups 0 -o c.csv -f c.png", old=("c.csv",)),
    "stability": Case(f"{STABILITY} -o s.csv -f s.png", old=("s.csv", "s.png")),
    "filter-energy": Case(f"filter-energy {LENET} -o e.csv", old=("e.csv",)),
    "filters": Case(f"filters {HEADS} --bootstrap 0 -o f.csv --heads h.safetensors -f f.png", old=("f.csv", "h.safetensors")),
    "filter sheet": Case(f"filters {HEADS} --bootstrap 0 -o f.csv --sheet s.png", old=("s.png",)),
    "prune-head": Case(f"filters prune-head {HEADS} --theta 0.3 --controls 1 -o p.csv -f p.png", old=("p.csv", "p.png")),
    "labels": Case(f"filters labels {HEADS} --size 2 --size 3 --size 4 --subsets 1 -o l.csv -f l.png", old=("l.csv",)),
    "prune": Case(f"{PRUNE} -o p.csv --save p.safetensors", old=("p.safetensors",)),
    "train": Case(f"train {MLP} --data digits {' '.join(TRAINING)} -o run", "--resume", incremental=True),
    "study": Case(f"{STUDY} -o study", "", incremental=True),
    "plot": Case("plot ../inputs/t.csv -m fisher_ratio -o p.png", old=("p.png",)),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stops")


@pytest.fixture(scope="module")
def runs(place: Path) -> Iterator[Server]:
    inputs = place / "inputs"
    inputs.mkdir()
    write_acts(inputs / "a.h5")
    for split, seed, start in (("train", 0, 0), ("test", 1, 10_000)):
        x, y, _ = planted(120, seed, k=5, f=8)
        np.savez(inputs / f"{split}.npz", layer=x[:, :, 0], labels=y, ids=np.arange(120) + start)
    with server() as running:
        for rank in "01":
            assert running.run(inputs, [*EXTRACT.split(), "-o", "shards"], env={"RANK": rank, "WORLD_SIZE": "2"})["code"] == 0
        assert running.run(inputs, ["analyze", "a.h5", "-m", "fisher_ratio", "--groups", "0", "-o", "t.csv"])["code"] == 0
        yield running


def state(folder: Path) -> dict[str, Any]:
    """The contents of a folder except times, drafts and journals."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not hidden(path)]
    return {path.relative_to(folder).as_posix(): content(path) for path in files}


def hidden(path: Path) -> bool:
    """Whether a file is a draft, or the journal of a file that is being written."""
    return path.name.startswith(".") or ".journal" in path.name or path.suffix == ".part"


def content(path: Path) -> Any:
    """The content of a file except times."""
    if path.stat().st_size < 10:
        return path.read_bytes()  # an old file is a single word
    if path.suffix == ".h5":
        return {name: (values.dtype.str, values.tolist()) for name, values in h5_content(path).items()}
    if path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name).tolist() for name in file.keys()}  # noqa: SIM118  # not a mapping
            return timeless(json.dumps(file.metadata(), sort_keys=True)), tensors
    if path.suffix == ".parquet":
        return timeless(Table.load(path)._with_provenance().to_csv())
    if path.name == "log.csv":
        return pd.read_csv(path).drop(columns="seconds").to_csv()
    return timeless(path.read_text()) if path.suffix in (".csv", ".json", ".svg") else path.read_bytes()


def timeless(text: str) -> str:
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:+.]+", "TIME", text)
    text = re.sub(r'""command"": "".*?""', "COMMAND", text)
    text = re.sub(r'[0-9a-f]{10}(?=[")])', "", text)  # identifiers within a figure are random
    return re.sub(r'seconds\\+": [\d.e-]+', "SECONDS", text)


def drafts(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def fresh(case: Case, place: Path) -> Path:
    """A folder with the old files."""
    folder = place / "work"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in case.old:
        (folder / name).write_bytes(b"old")
    return folder


def is_valid(path: Path, final: Any) -> bool:
    """Whether an intermediate file of a run is valid."""
    if path.suffix == ".h5":
        (status,) = doctor(path, progress=False)
        return status.state in ("resumable", "empty", "whole")
    current = content(path)  # reads the entire file
    if path.suffix == ".csv":
        lines = current.splitlines()
        return bool(lines) and (path.name != "log.csv" or lines == final.splitlines()[: len(lines)])
    return path.suffix == ".safetensors" or current == final


def check(case: Case, runs: Server, place: Path, new: dict[str, Any], at: int, how: str, moment: str) -> None:
    """Stop a run at a moment, check the files it left, and run it again."""
    folder = fresh(case, place)
    old = state(folder)
    words = [*case.words.split(), *(["--overwrite"] if case.old else [])]
    result = runs.run(folder, words, at=at, how=how, env=case.env)
    assert result["code"] in ({"kill": (-9,), "interrupt": (0, 130)}[how]), (moment, result)
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not hidden(path):
            assert (case.incremental and is_valid(path, new.get(name))) or content(path) in (old.get(name), new[name]), (
                moment,
                name,
            )
    assert all((folder / name).exists() for name in old), f"{moment}: an old file is gone"
    if how == "interrupt":
        assert not drafts(folder), moment
        assert result["code"] == 0 or "Stopped." in result["output"], (moment, result)
    rerun = runs.run(folder, [*case.words.split(), *case.rerun.split()], env=case.env)
    assert rerun["code"] == 0, (moment, rerun)
    assert state(folder) == new, moment
    assert not drafts(folder), moment


def sweep(name: str, runs: Server, place: Path, n_stops: int | None) -> None:
    case = CASES[name]
    words = [*case.words.split(), *(["--overwrite"] if case.old else [])]
    folder = fresh(case, place)
    result = runs.run(folder, words, env=case.env)
    assert result["code"] == 0, result["output"]
    new, moments = state(folder), result["moments"]
    assert set(case.old) < {*new, ""}
    written = {moment.split()[-1] for moment in moments if moment.startswith("after open")}
    assert written.isdisjoint({Path(file).name for file in new if not file.endswith(".h5")}), "all is written to drafts"
    assert any("os.replace" in moment for moment in moments)
    assert any("os.fsync" in moment for moment in moments)
    if n_stops is None:
        stops = [(at, kind) for at in range(len(moments)) for kind in ("kill", "interrupt")]
    else:  # around renames, and at random moments
        rng = np.random.default_rng(len(moments))
        renames = [at for at, moment in enumerate(moments) if "os.replace" in moment]
        indices = [*rng.choice(renames, 1), *rng.choice(len(moments), n_stops - 1)]
        stops = [(int(at), ("kill", "interrupt")[number % 2]) for number, at in enumerate(indices, len(name))]
    for at, kind in stops:
        if kind == "interrupt" and name in ("extract", "shards", "merge"):
            kind = "kill"  # test_interrupts.py tests interrupts of HDF5 writers   # noqa: PLW2901
        check(case, runs, place, new, at, kind, f"{name}, {kind} at {at}, {moments[at]}")


@pytest.mark.parametrize("old", ["old", None])
@pytest.mark.parametrize("how", ["kill", "interrupt"])
def test_replacing_a_file_leaves_the_old_or_the_new_one_at_any_moment(
    runs: Server, tmp_path: Path, how: str, old: str | None
) -> None:
    """The replacement of a file by all commands, stopped at each of its moments."""
    call, folder, seen = "tests.conformance.stopping.replace_file", tmp_path / "work", set()
    folder.mkdir()
    moments = runs.run(folder, [], call=call)["moments"]
    assert len(moments) >= 10
    for at in range(len(moments)):
        for path in folder.iterdir():
            path.unlink()
        if old is not None:
            (folder / "t.csv").write_text(old)
        result = runs.run(folder, [], call=call, at=at, how=how)
        assert result["code"] == (-9 if how == "kill" else 130), moments[at]
        content = (folder / "t.csv").read_text() if (folder / "t.csv").exists() else None
        assert content in (old, "new"), moments[at]
        assert not (how == "interrupt" and drafts(folder)), moments[at]
        seen.add(content)
        assert runs.run(folder, [], call=call)["code"] == 0
        assert {path.name: path.read_text() for path in folder.iterdir()} == {"t.csv": "new"}, moments[at]
    assert seen == {old, "new"}


@pytest.mark.parametrize("name", [name for name in CASES if name != "filter sheet"])  # slow to draw
def test_a_stopped_command_leaves_valid_files_and_gives_the_same_result(name: str, runs: Server, place: Path) -> None:
    sweep(name, runs, place, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_command_stopped_at_any_moment_gives_the_same_result(name: str, runs: Server, place: Path) -> None:
    sweep(name, runs, place, None)

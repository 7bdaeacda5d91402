"""Labels on the command line: reported as missing before the work, read from a file, matched to the network's head."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import probes
from repanalysis.table import Table
from tests.cli.running import refused, run, write_acts

NETWORK = """
import numpy as np, torch
from torch import nn

class Net(nn.Module):
    def __init__(self, means):
        super().__init__()
        self.flat, self.fc = nn.Flatten(), nn.Linear(means.shape[1], len(means))
        with torch.no_grad():
            self.fc.weight.copy_(torch.from_numpy(means - means.mean(axis=0)))

    def forward(self, x):
        return self.fc(self.flat(x))

def net():
    return Net(np.load("means.npy"))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve folders, named 0 to 11, each of noisy images of one pattern; the rows of the network's head are these patterns."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(60, 190, (12, 4, 4, 3))
    for label, pattern in enumerate(patterns):
        (tmp_path / "set" / str(label)).mkdir(parents=True)
        for index in range(4):
            pixels = np.clip(pattern + rng.normal(0, 3, pattern.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / str(label) / f"{label}-{index}.png")
    np.save(tmp_path / "means.npy", (patterns.transpose(0, 3, 1, 2).reshape(12, -1) / 255).astype("f4"))
    (tmp_path / "own_net.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_net", raising=False)
    return tmp_path


def extract(*options: object, data: str = "imagefolder:set", out: str = "a.h5") -> tuple[Path, str]:
    result = run("extract", "py:own_net:net", "--data", data, "-o", out, "-l", "flat", "--size", 4, "--overwrite", *options)
    assert result.exit_code == 0, result.output
    return Path(out), result.stderr


def duality(path: Path) -> tuple[float, str]:
    frame = Table.from_csv(path).frame
    (row,) = frame[(frame["metric"] == "nc3_duality") & (frame["layer"] == "flat")].itertuples()
    return row.value, row.note


def test_classes_are_matched_to_head_rows_by_number(folder: Path) -> None:
    """Regression: folders 0 to 11 were ordered as text, so nc3 was far from 0 for a collapsed network."""
    extract()
    assert run("analyze", "a.h5", "-m", "nc3_duality", "-o", "a.csv").exit_code == 0
    value, note = duality(Path("a.csv"))
    assert (value < 0.2, note) == (True, "")
    streamed = run("extract", "py:own_net:net", "--data", "imagefolder:set", "-o", "s.csv", "-m", "nc3_duality", "-l", "flat",
                   "--size", 4)  # fmt: skip
    assert streamed.exit_code == 0, streamed.output
    assert duality(Path("s.csv"))[0] == pytest.approx(value, rel=1e-6)


def test_a_subset_of_folders_is_matched_by_number(folder: Path) -> None:
    for label in (1, 3, 4, 11):
        for file in (folder / "set" / str(label)).iterdir():
            file.unlink()
    extract()
    assert run("analyze", "a.h5", "-m", "nc3_duality", "-o", "a.csv").exit_code == 0
    value, note = duality(Path("a.csv"))
    assert value < 0.5, "the rows are centred on the mean of all 12 classes, the means on that of 8"
    assert note == ""


def test_a_file_with_classes_in_text_order_is_refused(folder: Path) -> None:
    path, _ = extract()
    store = probes.open(path)
    names = sorted(store.class_names, key=str)  # type: ignore[union-attr]  # as older versions numbered them
    labels = np.array([names.index(store.class_names[label]) for label in store.labels])  # type: ignore[union-attr,index]
    with probes.create("old.h5", attrs={"model": "m"}, class_names=names, head=store.head) as writer:
        for batch in store.iter():
            writer.append(probes.Batch(batch.ids, batch.layers, labels, info=batch.info))
    assert run("analyze", "old.h5", "-m", "nc3_duality", "-o", "a.csv").exit_code == 0
    value, note = duality(Path("a.csv"))
    assert np.isnan(value)
    assert "the classes are named by numbers but not in numerical order (0, 1, 10, 11, ...)" in note


@pytest.mark.filterwarnings("default:.*has no labels")
def test_missing_labels_are_reported_by_extract_and_early_by_analyze(folder: Path) -> None:
    flat = folder / "flat"
    flat.mkdir()
    for file in sorted((folder / "set").rglob("*.png")):
        file.rename(flat / file.name)
    _, warned = extract(data="imagefolder:flat")
    assert "imagefolder:flat has no labels: metrics that compare classes can't be computed" in warned
    assert "Give labels with --labels FILE (labels=)" in refused("analyze", "a.h5", "-m", "nc1", code=1)
    lines = ["file_name,label", *(f"{file.name},{file.name.partition('-')[0]}" for file in flat.iterdir())]
    (folder / "labels.csv").write_text("\n".join(lines))
    labelled, warned = extract("--labels", "labels.csv", data="imagefolder:flat", out="b.h5")
    assert "no labels" not in warned
    assert probes.open(labelled).attrs["labels"] == "labels.csv, by file_name"
    results = []
    for number, words in enumerate((["b.h5"], ["a.h5", "--labels", "labels.csv"])):
        assert run("analyze", *words, "-m", "fisher_ratio,nc3_duality", "-o", f"{number}.csv").exit_code == 0
        results.append(Table.from_csv(Path(f"{number}.csv")))
    np.testing.assert_allclose(results[0].frame["value"], results[1].frame["value"], rtol=1e-12)
    assert duality(Path("1.csv"))[0] < 0.2
    assert "labels.csv, by file_name" in json.dumps(results[1].provenance)


def test_targets_and_labels_to_ignore(folder: Path) -> None:
    path = write_acts(folder / "x.h5", y=np.where(np.arange(60) < 12, 255, np.arange(60) % 3))
    (folder / "t.csv").write_text("id,age,rank\n" + "\n".join(f"{row},{row * 0.5},{row % 7}" for row in range(60)))
    result = run(
        "analyze", path, "-m", "ridge_r2,fisher_ratio", "--targets", "t.csv:age,rank", "--ignore-label", 255, "-o", "t.csv2.csv"
    )
    assert result.exit_code == 0, result.output
    frame = Table.from_csv(Path("t.csv2.csv")).frame
    assert frame[frame["metric"] == "ridge_r2"]["variant"].unique().tolist() == ["", "train", "age", "rank"]
    fisher = frame[frame["metric"] == "fisher_ratio"]
    assert set(fisher["n"]) == {48}
    assert fisher["note"].str.contains("12 of 60 samples have no label").all()
    info = json.loads(run("info", path, "--json").stdout)
    assert info["classes"] == 4
    assert "There is no file nowhere.csv" in refused("analyze", path, "--labels", "nowhere.csv", code=2)


def test_rows_of_the_head_are_named_by_a_file(folder: Path) -> None:
    """A head whose rows are in another order than the sorted folders."""
    for label in range(12):
        (folder / "set" / str(label)).rename(folder / "set" / f"class-{(label * 5) % 12:02d}")
    (folder / "rows.txt").write_text("\n".join(f"class-{(label * 5) % 12:02d}" for label in range(12)))
    for words, small in (((), False), (("--head-classes", "rows.txt"), True)):
        extract(*words)
        assert run("analyze", "a.h5", "-m", "nc3_duality", "-o", "a.csv", "--overwrite").exit_code == 0
        value, note = duality(Path("a.csv"))
        assert (value < 0.2) == small
        assert ("in another order it would be" in note) != small
    (folder / "rows.txt").write_text("one\ntwo\n")
    words = ["extract", "py:own_net:net", "--data", "imagefolder:set", "-o", "b.h5", "--size", 4, "--head-classes", "rows.txt"]
    assert "rows.txt names 2 rows, and the head of py:own_net:net has 12" in refused(*words, code=2)

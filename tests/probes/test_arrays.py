"""Feature arrays in memory are read like a file of activations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probes
from repanalysis import analyze

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 5)), np.arange(40) % 4


def test_analysis_of_arrays_equals_that_of_their_file(tmp_path: Path) -> None:
    source = probes.from_arrays({"early": X, "late": X[:, :2] * 3}, labels=Y, split="val", attrs={"model": "mine"})
    with probes.create(tmp_path / "x.h5", attrs={"model": "mine"}) as writer:
        for batch in source.iter(size=7):
            writer.append(batch)
    from_arrays, from_file = analyze(source).frame, analyze(tmp_path / "x.h5").frame
    np.testing.assert_allclose(from_arrays["value"], from_file["value"], rtol=1e-10)
    columns = ["model", "layer", "order", "depth", "metric", "variant", "split", "n"]
    assert from_arrays[columns].equals(from_file[columns])


def test_class_names_may_be_labels() -> None:
    source = probes.from_arrays({"x": X[:3]}, labels=["b", "a", "b"])
    assert source.labels is not None
    assert (source.labels.tolist(), source.class_names) == ([1, 0, 1], ["a", "b"])


def test_an_npz_file_is_a_source(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    np.savez(path, early=X, late=X[:, 0], labels=Y, ids=np.arange(40)[::-1], class_names=["a", "b", "c", "d"])
    source = probes.open(path)
    assert source.layers == ["early", "late"]
    assert source["late"].shape == (40, 1)
    assert source.ids[0] == 39
    assert source.class_names == ["a", "b", "c", "d"]
    table = analyze(path, "class_mean_separation")
    assert table.frame["run"].unique().tolist() == ["features"]


def test_nothing_is_copied() -> None:
    source = probes.from_arrays({"x": X})
    assert np.shares_memory(source["x"], X)
    assert all(np.shares_memory(batch.layers["x"], X) for batch in source.iter(size=9))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"layers": {}}, "There are no arrays"),
        ({"layers": {"x": ["a", "b"]}}, "Layer 'x' has shape .2,. and type <U1"),
        ({"layers": {"x": X, "y": X[:9]}}, "layer 'y' has 9 rows for 40"),
        ({"layers": {"x": X}, "labels": X[:, :, None]}, "The labels have shape"),
        ({"layers": {"x": X}, "labels": X, "targets": X}, "The labels are continuous targets, and there are targets"),
        ({"layers": {"x": X}, "ids": np.zeros(40, int)}, "Sample id 0 stands twice"),
        ({"layers": {"x": X[:3]}, "ids": ["a", "b", "a"]}, "Sample id 'a' stands twice"),
        ({"layers": {"x": X[:3]}, "ids": [0.5, 1.5, 2.5]}, "The sample ids hold 0.5"),
        ({"layers": {"x": X[:3]}, "ids": np.array([0.5, 1.5, 2.5])}, "The sample ids have type float64"),
    ],
)
def test_mismatched_arrays_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(probes.DataError, match=sentence):
        probes.from_arrays(**arguments)  # type: ignore[arg-type]


def test_invalid_npz_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        probes.open(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(probes.FormatError, match="can't be read as an npz file"):
        probes.open(tmp_path / "text.npz")
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], dtype=object))
    with pytest.raises(probes.FormatError, match="can't be read as an npz file"):
        probes.open(tmp_path / "pickle.npz")
    np.savez(tmp_path / "data.npz", x_train=X, y_train=Y)
    with pytest.raises(probes.DataError, match="holds a data set .*, not features"):
        probes.open(tmp_path / "data.npz")


@pytest.mark.parametrize("ids", [[f"{i}.png" for i in range(40)], pd.Index([f"{i}.png" for i in range(40)])])
def test_names_may_be_ids(ids: object, tmp_path: Path) -> None:
    source = probes.from_arrays({"x": X}, labels=Y, ids=ids)  # type: ignore[arg-type]
    assert source.ids.tolist() == [f"{i}.png" for i in range(40)]
    np.savez(tmp_path / "x.npz", x=X, labels=Y, ids=np.array(source.ids))
    assert probes.open(tmp_path / "x.npz").ids.tolist() == source.ids.tolist()
    assert next(source.iter()).ids_from == "given"
    assert next(probes.from_arrays({"x": X}).iter()).ids_from == "index"

"""Files of numpy: arrays of every order and type, memory-mapped or one at a time; objects are refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

import probes
from probes.features import arrays_of_numpy

X = np.random.default_rng(0).normal(size=(6, 3))


@pytest.mark.parametrize("array", [X, np.asfortranarray(X), X.astype(">f4"), X[:1], X[:, 0]])
def test_an_array_is_read_by_rows(array: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    source = probes.open(tmp_path / "x.npy")
    expected = array.reshape(len(array), -1)
    np.testing.assert_array_equal(source["features"], expected)
    np.testing.assert_array_equal(np.concatenate([batch.layers["features"] for batch in source.iter(size=4)]), expected)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.array([{}], object), "it holds Python objects, which only unpickling reads"),
        (np.zeros(3, [("a", "f4"), ("b", "f4")]), r"holds a table of named columns \(a, b\); save it as .csv or .parquet"),
        (np.array(3.0), "holds no array that can be a layer .features: it is a single number"),
        (np.zeros((0, 3)), "holds no samples"),
        (np.zeros((3, 2), "c16"), "complex"),
        (np.array(["a"]), "it holds text"),
    ],
)
def test_invalid_feature_arrays_are_refused(array: np.ndarray, sentence: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises((probes.FormatError, probes.DataError), match=sentence):
        probes.open(tmp_path / "x.npy")


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_one_array_of_an_archive_is_in_memory_at_a_time(save: object, tmp_path: Path) -> None:
    save(tmp_path / "x.npz", a=X, b=2 * X, scalar=3, note="n", split=np.array(["train"] * 6))  # type: ignore[operator]
    source = probes.open(tmp_path / "x.npz")
    assert source.layers == ["a", "b"]
    assert (source.attrs["scalar"], source.attrs["note"]) == (3, "n")
    batches = list(source.iter(size=2))
    np.testing.assert_array_equal(np.concatenate([batch.layers["b"] for batch in batches]), 2 * X)
    content = arrays_of_numpy.read_npz(tmp_path / "x.npz")
    archive = content.arrays["a"].read.__closure__[0].cell_contents  # type: ignore[attr-defined]
    content.arrays["a"][:2]
    content.arrays["b"][:2]
    assert archive.last[0] == "b"


def test_a_changed_byte_is_detected_on_reading(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.ones((1000, 10)))
    content = bytearray((tmp_path / "x.npz").read_bytes())
    content[-10_000] ^= 1
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(probes.FormatError, match="x.npz is damaged .*CRC"):
        probes.open(tmp_path / "x.npz")["a"]


def test_invalid_archives_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as file:
        file.writestr("notes.txt", "hello")
    with pytest.raises(probes.FormatError, match="it holds notes.txt, no array"):
        probes.open(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", x=np.array([{}], object))
    with pytest.raises(probes.FormatError, match="x: it holds Python objects"):
        probes.open(tmp_path / "y.npz")


def test_a_folder_of_arrays_is_one_source(tmp_path: Path) -> None:
    for name, array in (("b10", X), ("b2", 2 * X), ("labels", np.arange(6) % 2)):
        np.save(tmp_path / f"{name}.npy", array)
    source = probes.open(tmp_path)
    assert source.layers == ["b2", "b10"]
    assert source.labels is not None

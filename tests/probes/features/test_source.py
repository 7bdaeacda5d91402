"""A file of features as a source: ids, damage, provenance."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import probes
from probes.features.source import Stamp
from repanalysis.analyses.similarity import compare

X = np.random.default_rng(0).normal(size=(20, 3))


@pytest.mark.parametrize("ids", [np.arange(20) + 7, np.arange(20.0), np.array([str(i) for i in range(20)])])
def test_integer_ids_of_any_type_are_integers(ids: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=X, ids=ids)
    assert probes.open(tmp_path / "x.npz").ids.tolist() == ids.astype(float).astype(int).tolist()


@pytest.mark.parametrize("ids", [np.arange(20) + 0.5, X[:, :2]])
def test_invalid_ids_are_refused(ids: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=X, ids=ids)
    with pytest.raises(probes.DataError, match=r"The ids of .* one integer or one text per sample is needed"):
        probes.open(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", a=X, ids=np.zeros(20, int))
    with pytest.raises(probes.DataError, match="Sample id 0 stands twice"):
        probes.open(tmp_path / "y.npz")


def test_layers_of_two_files_are_compared_by_id(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(20)
    np.savez(tmp_path / "x.npz", a=X, ids=np.arange(20))
    np.savez(tmp_path / "y.npz", a=X[order], ids=order)
    result = compare(tmp_path / "x.npz", tmp_path / "y.npz", progress=False)
    assert result.matrix().to_numpy().item() == pytest.approx(1.0)


def test_the_provenance_names_the_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=X)
    source = probes.open(tmp_path / "x.npz")
    stamp = Stamp.of(tmp_path / "x.npz")
    assert source.attrs["bytes"] == stamp.size == (tmp_path / "x.npz").stat().st_size
    assert source.attrs["kind"] == "npz"
    assert source.attrs["dataset"] == source.attrs["features"] == str(tmp_path / "x.npz")
    assert source.attrs["modified"].endswith("Z")
    copy = pickle.loads(pickle.dumps(source))
    assert copy.attrs == source.attrs
    with pytest.raises(probes.UsageError, match="has no layer 'b'"):
        source["b"]
    assert source.take("a", np.zeros(0, np.int64)).shape == (0, 3)

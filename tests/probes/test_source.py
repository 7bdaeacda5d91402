"""Files, shards and arrays have the same reading interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import probes

X, Y = np.random.default_rng(0).normal(size=(30, 4)), np.arange(30) % 3


@pytest.fixture(params=["file", "shards", "arrays"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> probes.Source:
    arrays = probes.from_arrays({"a": X, "b": X * 2}, labels=Y, split="val", class_names=["x", "y", "z"])
    if request.param == "arrays":
        return arrays
    batches = list(arrays.iter(size=10))
    for index, part in enumerate([batches] if request.param == "file" else [[batch] for batch in batches]):
        with probes.create(tmp_path / f"{index}.h5", class_names=arrays.class_names) as writer:
            for batch in part:
                writer.append(batch)
    return probes.open(tmp_path / "0.h5" if request.param == "file" else tmp_path)


def test_every_source_has_the_same_data(source: probes.Source) -> None:
    assert len(source) == 30
    assert source.layers == ["a", "b"]
    assert source.ids.tolist() == list(range(30))
    assert source.labels is not None
    assert source.labels.tolist() == Y.tolist()
    assert source.split is not None
    assert set(source.split) == {"val"}
    assert source.class_names == ["x", "y", "z"]
    assert (source.skipped, source.non_finite) == ({}, {})
    np.testing.assert_array_equal(source["b"], X * 2)
    assert "30 samples, 2 layers" in repr(source)


@pytest.mark.parametrize("size", [None, 1, 7, 100])
def test_batches_have_the_same_rows_for_any_size(source: probes.Source, size: int | None) -> None:
    batches = list(source.iter(["b"], size))
    np.testing.assert_array_equal(np.concatenate([batch.layers["b"] for batch in batches]), X * 2)
    assert all(list(batch.layers) == list(batch.info) == ["b"] for batch in batches)


def test_an_unknown_layer_has_a_one_sentence_error(source: probes.Source) -> None:
    for ask in (lambda: source["aa"], lambda: list(source.iter(["aa"]))):
        with pytest.raises(probes.UsageError, match="has no layer 'aa'"):
            ask()


def test_leaving_the_block_closes_and_reading_reopens(source: probes.Source) -> None:
    with source:
        source["a"]
    assert source["a"].shape == (30, 4)

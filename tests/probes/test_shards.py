"""Shards read as one file, or refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import probes
from probes.writer import create


def shard(path: Path, ids: range, *, width: int = 3, labelled: bool = True) -> Path:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, width))[ids.start : ids.stop]
    with create(path) as writer:
        labels = np.array(ids) % 3 if labelled else None
        writer.append(probes.Batch(ids=np.array(ids), layers={"x": x}, labels=labels))
    return path


def test_a_folder_and_a_list_read_as_one(tmp_path: Path) -> None:
    paths = [shard(tmp_path / f"{i}.h5", range(10 * i, 10 * i + 10)) for i in range(3)]
    whole = np.random.default_rng(0).normal(size=(100, 3))[:30]
    for source in (tmp_path, paths):
        shards = probes.open(source)
        assert len(shards) == 30
        np.testing.assert_array_equal(shards["x"], whole)
        np.testing.assert_array_equal(np.concatenate([batch.layers["x"] for batch in shards.iter(size=4)]), whole)
        assert shards.ids.tolist() == list(range(30))
        assert shards.labels is not None
        shards.close()


def test_samples_in_two_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(probes.FormatError, match="Sample id 5 stands in two shards"):
        probes.open([shard(tmp_path / "a.h5", range(6)), shard(tmp_path / "b.h5", range(5, 9))])


def test_shards_of_different_runs_are_refused(tmp_path: Path) -> None:
    a = shard(tmp_path / "a.h5", range(6))
    with pytest.raises(probes.FormatError, match="are no shards of one run: layer 'x' is not the same in both"):
        probes.open([a, shard(tmp_path / "b.h5", range(6, 9), width=4)])
    with pytest.raises(probes.FormatError, match="Only one of .* has labels"):
        probes.open([a, shard(tmp_path / "c.h5", range(6, 9), labelled=False)])


def test_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(probes.FormatError, match=r"holds no \*.h5 file"):
        probes.open(tmp_path)

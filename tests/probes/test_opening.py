"""Interpretation of a path by `open`: a file, a folder of shards, features, or an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import probes
from probes.batch import Batch


def write(path: Path, rows: range, **attrs: object) -> Path:
    with probes.create(path, attrs=attrs) as writer:
        writer.append(Batch(np.array(rows), {"a": np.arange(2 * len(rows), dtype=np.float32).reshape(-1, 2)}))
    return path


def test_a_file_and_a_list_of_shards_are_opened(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{part}.h5", range(3 * part, 3 * part + 3), shard=part, shards=2) for part in range(2)]
    assert isinstance(probes.open(files[0]), probes.Store)
    for source in (probes.open(files), probes.open(str(path) for path in files), probes.open(tmp_path)):
        assert isinstance(source, probes.Shards)
        assert source.ids.tolist() == list(range(6))


def test_features_are_recognised_by_suffix_or_content(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((4, 3)))
    assert probes.open(tmp_path / "x.npy").layers == ["features"]
    assert probes.open(tmp_path)["x"].shape == (4, 3)  # a folder of .npy files


@pytest.mark.parametrize("name", ["nowhere.h5", "nowhere.npy", "nowhere"])
def test_a_missing_file_has_a_one_sentence_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileNotFoundError, match=name):
        probes.open(tmp_path / name)


def test_folders_without_readable_files_have_one_sentence_errors(tmp_path: Path) -> None:
    with pytest.raises(probes.FormatError, match=r"holds no \*\.h5 and no \*\.npy file\.$"):
        probes.open(tmp_path)
    (tmp_path / "data_batch_1").touch()
    with pytest.raises(probes.FormatError, match="extract --data torchvision:CIFAR10"):
        probes.open(tmp_path)

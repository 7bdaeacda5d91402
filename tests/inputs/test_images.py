"""Folders and archives of images: read alike, one sentence where they don't fit."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from probes import DataError, UsageError
from repanalysis.inputs.data import load_data
from repanalysis.inputs.samples import as_tensor


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for c, name in enumerate(("cat", "dog")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (6, 5), (c * 100, i, 0)).save(tmp_path / "set" / split / name / f"{i}.png")
    (tmp_path / "set" / "val" / "dog" / "notes.txt").write_text("no image")
    return tmp_path / "set"


@pytest.mark.parametrize("archive", [None, "tar", "tar.gz"])
def test_imagefolder_reads_folders_and_archives_alike(folder: Path, archive: str | None, tmp_path: Path) -> None:
    path = folder
    if archive:
        path = tmp_path / f"set.{archive}"
        with tarfile.open(path, f"w:{archive.partition('.')[2]}") as tar:
            tar.add(folder, "root")
    data = load_data(f"imagefolder:{path}", split="val")
    assert data.class_names == ["cat", "dog"]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.ids.tolist() == list(range(6))
    assert as_tensor(data.read(4)).shape == (3, 5, 6)
    assert (as_tensor(data.read(4))[:, 0, 0] * 255).tolist() == [100, 1, 0]
    x, y, ids = next(iter(data.loader(4)))
    assert (x.shape, y.tolist(), ids.tolist()) == ((4, 3, 5, 6), [0, 0, 0, 1], [0, 1, 2, 3])
    with pytest.raises(UsageError, match="holds class folders below train, val; choose one with --split"):
        load_data(f"imagefolder:{path}")
    with pytest.raises(UsageError, match="has no folder 'test' of class folders"):
        load_data(f"imagefolder:{path}", split="test")


def test_a_flat_folder_has_no_labels(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder / 'val' / 'dog'}")
    assert data.labels is None
    assert next(iter(data.loader(2)))[1] is None


def test_transforms_get_pictures_with_the_colours_of_the_model(folder: Path) -> None:
    grey = load_data(f"imagefolder:{folder}", split="val", transform=pil_to_tensor, colours=1)
    assert grey[0][0].shape == (1, 5, 6)
    assert load_data("digits", transform=pil_to_tensor, colours=3)[0][0].shape == (3, 8, 8)


def test_images_of_different_shapes_are_one_sentence(tmp_path: Path) -> None:
    for i, size in enumerate([(4, 4), (5, 4)]):
        Image.new("RGB", size).save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match=r"Images have different shapes .* give --size"):
        next(iter(load_data(f"imagefolder:{tmp_path}").loader(2)))

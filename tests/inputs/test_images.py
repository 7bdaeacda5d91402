"""Folders and archives of images: read equally, one-sentence errors where they do not fit."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from probes import DataError, UsageError
from repanalysis.inputs.data import load_data
from repanalysis.inputs.samples import Data, as_tensor


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
def test_imagefolder_reads_folders_and_archives_equally(folder: Path, archive: str | None, tmp_path: Path) -> None:
    path = folder
    if archive:
        path = tmp_path / f"set.{archive}"
        with tarfile.open(path, f"w:{archive.partition('.')[2]}") as tar:
            tar.add(folder, "root")
    data = load_data(f"imagefolder:{path}", split="val")
    assert data.class_names == ["cat", "dog"]
    assert data.labels is not None
    assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
    names = [f"val/{animal}/{i}.png" for animal in ("cat", "dog") for i in range(3)]
    assert (data.ids.tolist(), data.ids_from) == (names, "name")
    assert as_tensor(data.read(4)).shape == (3, 5, 6)
    assert (as_tensor(data.read(4))[:, 0, 0] * 255).tolist() == [100, 1, 0]
    x, y, ids = next(iter(data.loader(4)))
    assert (x.shape, y.tolist(), ids) == ((4, 3, 5, 6), [0, 0, 0, 1], names[:4])
    with pytest.raises(UsageError, match="holds class folders below train, val; choose one with --split"):
        load_data(f"imagefolder:{path}")
    with pytest.raises(UsageError, match="has no folder 'test' of class folders"):
        load_data(f"imagefolder:{path}", split="test")


def test_a_flat_folder_has_no_labels(folder: Path) -> None:
    data = load_data(f"imagefolder:{folder / 'val' / 'dog'}")
    assert data.labels is None
    assert next(iter(data.loader(2)))[1] is None


def test_transforms_receive_images_with_the_colours_of_the_model(folder: Path) -> None:
    grey = load_data(f"imagefolder:{folder}", split="val", transform=pil_to_tensor, colours=1)
    assert grey[0][0].shape == (1, 5, 6)
    assert load_data("digits", transform=pil_to_tensor, colours=3)[0][0].shape == (3, 8, 8)


def test_images_of_different_shapes_have_one_sentence_errors(tmp_path: Path) -> None:
    for i, size in enumerate([(4, 4), (5, 4)]):
        Image.new("RGB", size).save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match=r"Images have different shapes .* give --size"):
        next(iter(load_data(f"imagefolder:{tmp_path}").loader(2)))


def packed(folder: Path, path: Path, top: str | None, split: str | None = None) -> Data:
    """An archive of a folder, as packed by common programs: below a name, below `./`, or file by file."""
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                tar.add(file, (f"{top}/" if top is not None else "") + file.relative_to(folder).as_posix())
    return load_data(f"imagefolder:{path}", split=split)


@pytest.mark.parametrize("top", [None, ".", "set"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_names_are_relative_to_the_folder_for_any_packing(folder: Path, tmp_path: Path, top: str, split: str) -> None:
    expected = load_data(f"imagefolder:{folder}", split=split).ids
    ids = packed(folder, tmp_path / "x.tar", top, split).ids
    assert ids.tolist() == expected.tolist()


@pytest.mark.parametrize("top", [None, ".", "set"])
def test_names_in_archives_of_class_folders(folder: Path, tmp_path: Path, top: str) -> None:
    expected = load_data(f"imagefolder:{folder / 'val'}").ids.tolist()
    assert expected[0] == "cat/0.png"
    assert packed(folder / "val", tmp_path / "x.tar", top).ids.tolist() == expected


def test_a_leading_dot_marks_the_root_of_an_archive(folder: Path, tmp_path: Path) -> None:
    """`tar -C DIR .` packs `./val/cat/0.png`: paths below `.` are below DIR, also with a single folder."""
    shutil.rmtree(folder / "train")
    expected = load_data(f"imagefolder:{folder}").ids.tolist()
    assert expected[0] == "val/cat/0.png"
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        for file in sorted(folder.rglob("*.png")):
            member = tar.gettarinfo(file, f"./{file.relative_to(folder).as_posix()}")
            with file.open("rb") as content:
                tar.addfile(member, content)
    assert load_data(f"imagefolder:{path}").ids.tolist() == expected


def test_names_in_an_archive_of_one_split_start_with_a_requested_split(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder / "val", "val")
    assert load_data(f"imagefolder:{path}", split="val").ids[0] == "val/cat/0.png"
    assert load_data(f"imagefolder:{path}").ids[0] == "cat/0.png"


def test_an_added_file_does_not_change_the_ids_of_others(folder: Path) -> None:
    """With ids by position, every image would get the id of its predecessor."""
    spec = f"imagefolder:{folder}"
    before = load_data(spec, split="train")
    Image.new("RGB", (6, 5), (9, 9, 9)).save(folder / "train" / "cat" / "!.png")
    after = load_data(spec, split="train")
    assert after.ids[0] == "train/cat/!.png"
    for row, name in enumerate(before.ids.tolist()):
        (new_row,) = np.flatnonzero(after.ids == name)
        assert torch.equal(before[row][0], after[int(new_row)][0])
        assert before[row][1:] == after[int(new_row)][1:]


@pytest.mark.parametrize("archive", [False, True])
def test_files_of_one_sample_have_its_key(tmp_path: Path, archive: bool) -> None:
    folder = tmp_path / "samples"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (6, 5)).save(folder / f"{i:06}.left.png")
        (folder / f"{i:06}.cls").write_text("1")
    data = packed(folder, tmp_path / "x.tar", None) if archive else load_data(f"imagefolder:{folder}")
    assert (data.ids.tolist(), data.ids_from) == (["000000", "000001", "000002"], "key")
    Image.new("RGB", (6, 5)).save(folder / "000000.right.png")
    data = packed(folder, tmp_path / "y.tar", None) if archive else load_data(f"imagefolder:{folder}")
    assert data.ids_from == "name", "two images of a sample need names of their own"


def test_names_that_are_not_utf8_are_valid_ids(tmp_path: Path) -> None:
    try:
        (tmp_path / "cat").mkdir()
        Image.new("RGB", (6, 5)).save(tmp_path / "cat" / "\udcff.png")
    except (OSError, UnicodeEncodeError):
        pytest.skip("the file system takes no such names")
    data = load_data(f"imagefolder:{tmp_path}")
    assert data.ids.tolist() == [r"cat/\udcff.png"]
    assert data[0][0].shape == (3, 5, 6)

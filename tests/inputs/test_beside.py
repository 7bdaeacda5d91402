"""Labels beside images: read, matched by name, and compared with the folders; docs/inputs.md lists every kind."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from probes import FormatError, UsageError
from repanalysis.inputs.data import load_data


def images(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    return folder


def test_folders_named_by_numbers_are_sorted_numerically(tmp_path: Path) -> None:
    """Regression: as text 10 comes before 2, so a recorded head was compared with permuted classes."""
    folder = images(tmp_path / "set", [f"{label}/{label}.png" for label in range(12)])
    data = load_data(f"imagefolder:{folder}")
    assert data.class_names == [str(label) for label in range(12)]
    assert data.labels is not None
    assert dict(zip(data.ids.tolist(), data.labels.tolist(), strict=True)) == {
        f"{label}/{label}.png": label for label in range(12)
    }
    padded = load_data(f"imagefolder:{images(tmp_path / 'padded', ['007/a.png', '010/a.png', '08/a.png'])}")
    assert padded.class_names == ["007", "08", "010"]


@pytest.mark.parametrize("split", [None, "train"])
def test_a_table_in_the_folder_of_a_split_is_read(tmp_path: Path, split: str | None) -> None:
    for name, labels in (("train", "cow"), ("test", "ant")):
        folder = images(tmp_path / name, ["a.png", "b.png"])
        (folder / "metadata.csv").write_text(f"file_name,label\nb.png,{labels}\na.png,bee\n")
    data = load_data(f"imagefolder:{tmp_path if split else tmp_path / 'train'}", split=split)
    assert data.labels is not None
    assert (data.labels.tolist(), data.class_names) == ([0, 1], ["bee", "cow"])
    assert "metadata.csv, by file_name" in data.labels_from


def test_a_table_that_agrees_with_the_folders_is_accepted(tmp_path: Path) -> None:
    folder = images(tmp_path / "set", ["a/0.png", "b/1.png", "b/2.png"])
    (folder / "metadata.csv").write_text("file_name,label\na/0.png,5\nb/1.png,2\nb/2.png,2\n")
    data = load_data(f"imagefolder:{folder}")
    assert data.labels is not None
    assert (data.labels.tolist(), data.class_names, data.labels_from) == ([0, 1, 1], ["a", "b"], "class folders")
    (folder / "metadata.csv").write_text("file_name,label\na/0.png,5\nb/1.png,2\nb/2.png,5\n")
    with pytest.raises(UsageError, match="say other classes than .*metadata.csv"):
        load_data(f"imagefolder:{folder}")
    explicit = load_data(f"imagefolder:{folder}", labels=str(folder / "metadata.csv"))
    assert explicit.labels is not None
    assert explicit.labels.tolist() == [5, 2, 5]


def test_targets_in_a_table_are_combined_with_class_folders(tmp_path: Path) -> None:
    folder = images(tmp_path / "set", ["a/0.png", "b/1.png"])
    (folder / "metadata.jsonl").write_text('{"file_name": "a/0.png", "target": 0.5}\n{"file_name": "b/1.png", "target": 2}\n')
    data = load_data(f"imagefolder:{folder}")
    assert data.labels is not None
    assert data.targets is not None
    assert (data.labels.tolist(), data.targets.tolist()) == ([0, 1], [[0.5], [2.0]])


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_webdataset_keys_are_full_paths(tmp_path: Path, mode: str) -> None:
    folder = images(tmp_path / "set", ["x/0.png", "y/0.seg.png", "y/1.png"])
    with tarfile.open(tmp_path / "set.tar", mode) as archive:  # type: ignore[call-overload]
        for name in ("x/0.png", "y/0.seg.png", "y/1.png"):
            archive.add(folder / name, name)
        for key, label in (("x/0", "3"), ("y/0", "1\n"), ("y/1", "1")):
            info = tarfile.TarInfo(f"{key}.cls")
            info.size = len(label)
            archive.addfile(info, io.BytesIO(label.encode()))
    data = load_data(f"imagefolder:{tmp_path / 'set.tar'}")
    assert data.labels is not None
    assert data.labels.tolist() == [0, 1, 1], "which is what the folders say, too"
    images_read = data[1][0]
    assert images_read.shape == (3, 4, 4)


def test_the_imagenet_list_is_matched_by_the_number_in_the_name(tmp_path: Path) -> None:
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (3, 1)]
    folder = images(tmp_path / "val", names)
    lists = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    lists.mkdir(parents=True)
    (lists / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n361\n171\n")
    data = load_data(f"imagefolder:{folder}")
    assert data.labels is not None
    assert (data.labels.tolist(), data.class_names) == ([1, 0], ["ILSVRC2012_ID 0171", "ILSVRC2012_ID 0490"])
    kind = np.dtype([("ILSVRC2012_ID", "O"), ("WNID", "O")])
    synsets = np.array([(171, "n09999999"), (361, "n02443484"), (490, "n01751748")], kind)
    savemat(lists / "meta.mat", {"synsets": synsets})
    named = load_data(f"imagefolder:{folder}")
    assert named.class_names == ["n01751748", "n09999999"]
    assert named.labels is not None
    assert named.labels.tolist() == [0, 1]
    (lists / "ILSVRC2012_validation_ground_truth.txt").write_text("490\n361\n")
    with pytest.raises(FormatError, match="one for image 3; it has 2 lines"):
        load_data(f"imagefolder:{folder}")


def test_other_files_are_not_read_as_labels(tmp_path: Path) -> None:
    folder = images(tmp_path / "set", ["0.png", "1.png"])
    (folder / "0.json").write_text('{"caption": "a cat"}')
    (folder / "README.txt").write_text("1\n2\n")
    (folder / "other.csv").write_text("file_name,label\n0.png,1\n")
    assert load_data(f"imagefolder:{folder}").labels is None

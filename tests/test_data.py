"""Data by specification: ids that stay, labels that fit, one sentence where they don't."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from probes import DataError, FormatError, UsageError, capture
from repanalysis.data import as_tensor, load_data
from repanalysis.theory.mixtures import sparse_mixture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        for c, name in enumerate(("cat", "dog")):
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (6, 5), (c * 100, i, 0)).save(tmp_path / "set" / split / name / f"{i}.png")
    (tmp_path / "set" / "val" / "dog" / "notes.txt").write_text("no image")
    return tmp_path / "set"


def test_digits_halves_are_disjoint_and_stratified() -> None:
    train, test, whole = (load_data("digits", split=split) for split in ("train", "test", None))
    assert not set(train.ids) & set(test.ids)
    assert len(train) + len(test) == len(whole) == 1797
    assert np.abs(np.bincount(train.labels) - np.bincount(test.labels)).max() <= 1
    x, y, sample = test[5]
    assert x.shape == (1, 8, 8)
    assert 0 <= x.min() <= x.max() <= 1
    twin = whole[int(test.ids[5])]
    assert torch.equal(x, twin[0])
    assert (y, sample) == twin[1:]


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


def test_npz_with_and_without_splits(tmp_path: Path) -> None:
    images = np.arange(4 * 5 * 5, dtype=np.uint8).reshape(4, 5, 5)
    np.savez(tmp_path / "split.npz", x_train=images, y_train=[0, 1, 0, 1], x_test=images[:2], y_test=[[1], [0]])
    data = load_data(f"npz:{tmp_path / 'split.npz'}", split="test")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]
    assert data[1][0].shape == (1, 5, 5)
    assert load_data(f"npz:{tmp_path / 'split.npz'}", split="train", transform=pil_to_tensor)[0][0].shape == (3, 5, 5)
    with pytest.raises(UsageError, match="has no array 'x'. It has the splits test, train: choose one with --split"):
        load_data(f"npz:{tmp_path / 'split.npz'}")
    np.savez(tmp_path / "vectors.npz", x=np.ones((3, 7)))
    plain = load_data(f"npz:{tmp_path / 'vectors.npz'}", transform=pil_to_tensor)
    assert plain.labels is None
    assert (plain[0][0].shape, plain[0][0].dtype) == ((7,), torch.float32)


def test_a_sample_is_drawn_from_the_seed_and_keeps_its_ids() -> None:
    data = load_data("digits")
    some = data.sample(100, seed=1)
    assert len(some) == len(set(some.ids)) == 100
    assert np.array_equal(some.ids, data.sample(100, seed=1).ids)
    assert not np.array_equal(some.ids, data.sample(100, seed=2).ids)
    assert some.labels is not None
    assert data.labels is not None
    np.testing.assert_array_equal(some.labels, data.labels[some.ids])
    assert data.sample(10**6, seed=0) is data


def test_images_of_different_shapes_are_one_sentence(tmp_path: Path) -> None:
    for i, size in enumerate([(4, 4), (5, 4)]):
        Image.new("RGB", size).save(tmp_path / f"{i}.png")
    with pytest.raises(DataError, match=r"Images have different shapes .* give --size"):
        next(iter(load_data(f"imagefolder:{tmp_path}").loader(2)))


def test_what_is_wrong_is_one_sentence(tmp_path: Path) -> None:
    for spec, sentence in {
        "digts": "Did you mean 'digits'?",
        "npz": "Unknown data 'npz'",
        "imagefolder:": "Unknown data",
    }.items():
        with pytest.raises(UsageError, match=sentence.replace("?", r"\?")):
            load_data(spec)
    with pytest.raises(UsageError, match="The digits have no split 'val'"):
        load_data("digits", split="val")
    for spec in ("npz:none.npz", "imagefolder:none"):
        with pytest.raises(FileNotFoundError, match="There is no"):
            load_data(spec)
    with pytest.raises(DataError, match="holds no images"):
        load_data(f"imagefolder:{tmp_path}")
    (tmp_path / "bad").write_text("x")
    with pytest.raises(FormatError, match="can't be read as a tar archive"):
        load_data(f"imagefolder:{tmp_path / 'bad'}")
    with pytest.raises(FormatError, match="can't be read as an npz file"):
        load_data(f"npz:{tmp_path / 'bad'}")
    np.savez(tmp_path / "odd.npz", x=np.zeros((3, 2)), y=np.zeros(2))
    with pytest.raises(FormatError, match="has 3 samples and 2 labels"):
        load_data(f"npz:{tmp_path / 'odd.npz'}")
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], dtype=object))
    with pytest.raises(FormatError, match="plain arrays"):
        load_data(f"npz:{tmp_path / 'pickle.npz'}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "0.png").write_text("no picture")
    with pytest.raises(DataError, match=r"Image 0.png of .* can't be read"):
        load_data(f"imagefolder:{tmp_path / 'broken'}")[0]
    with pytest.raises(UsageError, match="The batch size is 0"):
        load_data("digits").loader(0)


def test_gaussians_are_the_mixture_and_splits_are_other_samples_of_it() -> None:
    spec = "gaussians:K=3,d=8,sparsity=2,radius=4,n=600,seed=1"
    train, test = load_data(spec, split="train"), load_data(spec, split="test")
    x, label, sample = train[5]
    mixture = sparse_mixture(K=3, d=8, sparsity=2, radius=4.0, seed=1)
    np.testing.assert_allclose(x.numpy(), mixture.sample(600, seed=2)[0][5], rtol=1e-6)
    assert (label, sample, len(train), train.class_names) == (2, 5, 600, ["0", "1", "2"])
    assert not np.allclose(x, test[5][0])
    assert len(load_data("gaussians")) == 10_000


@pytest.mark.parametrize(
    ("spec", "split", "sentence"),
    [
        ("gaussians:KK=3", None, "Unknown parameter of gaussians 'KK'. Did you mean 'K'"),
        ("gaussians:d=x", None, "d of gaussians is 'x'; it must be a whole number"),
        ("gaussians:n=0", None, "n of gaussians is 0"),
        ("gaussians", "val", "no split 'val'; they have train and test"),
    ],
)
def test_gaussians_that_can_not_be_are_one_sentence(spec: str, split: str | None, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        load_data(spec, split=split)


def test_scale_detection_has_disjoint_balanced_splits() -> None:
    spec = "scale-detection:task=2,N=64,xi=16,train=100"
    parts = {split: load_data(spec, split=split) for split in ("train", "validation", "test")}
    ids = np.concatenate([part.ids for part in parts.values()])
    assert len(set(ids.tolist())) == len(ids) == len(load_data(spec))
    assert len(parts["train"]) == 100
    assert len(parts["validation"]) == 128
    x, label, sample = parts["test"][7]
    assert tuple(x.shape) == (1, 1, 64)
    sites = np.flatnonzero(x.numpy())
    assert (sites[0] // 16 == sites[1] // 16) == bool(label)
    assert sample == parts["test"].ids[7]
    assert parts["test"].class_names == ["different blocks", "same block"]
    with pytest.raises(UsageError, match="leaves none to test on"):
        load_data("scale-detection:task=1,train=5000")
    with pytest.raises(UsageError, match="no split 'val'"):
        load_data(spec, split="val")
    with pytest.raises(UsageError, match="Did you mean 'pixels'"):
        load_data("scale-detection:pixel=3")


def test_integers_stay_integers_for_networks_that_take_tokens(tmp_path: Path) -> None:
    tokens = np.array([[3, 2**25 + 1], [7, 0]])  # float32 can't tell 2^25 + 1 from 2^25
    np.savez(tmp_path / "t.npz", x=tokens, y=["cat", "ant"])
    spec = f"npz:{tmp_path / 't.npz'}"
    for data in (load_data(spec, tokens=True), load_data(f"{spec},integers=tokens")):
        x, labels, ids = next(iter(data.loader(2)))
        assert (x.dtype, x.tolist(), labels.tolist(), ids.tolist()) == (torch.int64, tokens.tolist(), [1, 0], [0, 1])
        assert data.class_names == ["ant", "cat"]
    with pytest.warns(UserWarning, match="holds int64, and the network gets float32; npz:FILE,integers=tokens keeps"):
        assert load_data(spec)[0][0].dtype == torch.float32
    assert load_data(f"{spec},integers=numbers", tokens=True)[1][0].tolist() == [7.0, 0.0]
    with pytest.raises(UsageError, match="Integers can't be 'token'. Did you mean 'tokens'"):
        load_data(f"{spec},integers=token")


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((5, 3, 8, 9), 1), ((5, 8, 9, 3), 3), ((5, 1, 8, 9), 1), ((5, 8, 9, 1), 3), ((5, 8, 9), None)],
)
def test_eight_bit_images_are_scaled_wherever_their_colours_are(
    tmp_path: Path, shape: tuple[int, ...], axis: int | None
) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(tmp_path / "x.npz", x=x)
    spec = f"npz:{tmp_path / 'x.npz'}"
    first = x[:, None] if axis is None else np.moveaxis(x, axis, 1)
    np.testing.assert_allclose(load_data(spec)[2][0].numpy(), first[2] / 255, rtol=1e-6)
    through = load_data(spec, transform=pil_to_tensor, colours=3 if first.shape[1] == 3 else 1)[2][0]
    np.testing.assert_array_equal(through.numpy(), first[2])
    raw = load_data(f"{spec},integers=numbers")[2][0]
    np.testing.assert_array_equal(raw.numpy(), x[2])


@pytest.mark.parametrize(("shape", "axis"), [((2, 3, 6, 8, 9), 1), ((2, 6, 3, 8, 9), 2), ((2, 6, 8, 9, 3), 4)])
def test_eight_bit_clips_become_colours_times_places(tmp_path: Path, shape: tuple[int, ...], axis: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(tmp_path / "x.npz", x=x)
    clip = load_data(f"npz:{tmp_path / 'x.npz'}")[1][0]
    np.testing.assert_allclose(clip.numpy(), np.moveaxis(x, axis, 1)[1] / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (np.zeros((4, 9), np.uint8), "no images; write npz:FILE,integers=tokens for token ids"),
        (np.zeros((4, 3, 9, 3), np.uint8), "2 axes may be the colours; store it as float32"),
        (np.zeros((4, 10, 9, 9), np.uint8), "0 axes may be the colours"),
    ],
)
def test_eight_bit_numbers_that_may_be_several_things_are_asked_about(tmp_path: Path, x: np.ndarray, sentence: str) -> None:
    np.savez(tmp_path / "x.npz", x=x)
    with pytest.raises(UsageError, match=sentence):
        load_data(f"npz:{tmp_path / 'x.npz'}")


def test_names_of_classes_are_numbered_alike_in_every_split_and_soft_labels_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_a=np.zeros((3, 2)), y_a=["a", "b", "c"], x_b=np.zeros((2, 2)), y_b=["c", "a"])
    data = load_data(f"npz:{tmp_path / 'x.npz'}", split="b")
    assert (data.labels.tolist(), data.class_names) == ([2, 0], ["a", "b", "c"])  # type: ignore[union-attr]
    np.savez(tmp_path / "y.npz", x=np.zeros((2, 2)), y=[0.7, 1.0])
    with pytest.raises(FormatError, match="labels y of .* are no classes; store one integer per sample"):
        load_data(f"npz:{tmp_path / 'y.npz'}")
    np.savez(tmp_path / "z.npz", x=np.array(["a"]))
    with pytest.raises(FormatError, match="holds <U1; numbers are needed"):
        load_data(f"npz:{tmp_path / 'z.npz'}")


def test_data_without_labels_may_come_in_place_of_a_loader() -> None:
    data = load_data("digits", split="test")
    silent = type(data)(data.spec, data.read, data.ids, None)
    (batch, *_) = list(capture(torch.nn.Flatten(), silent))
    assert batch.labels is None
    assert batch.ids.tolist() == data.ids[:64].tolist()

"""Arrays in npz files: their interpretation is derived from their values, or an error asks for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import pil_to_tensor

from probes import FormatError, UsageError
from repanalysis.inputs.data import load_data


def test_npz_with_and_without_splits(tmp_path: Path) -> None:
    images = np.arange(4 * 5 * 5, dtype=np.uint8).reshape(4, 5, 5)
    np.savez(tmp_path / "split.npz", x_train=images, y_train=[0, 1, 0, 1], x_test=images[:2], y_test=[[1], [0]])
    data = load_data(f"npz:{tmp_path / 'split.npz'}", split="test")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0]
    assert data[1][0].shape == (1, 5, 5)
    assert data.ids.tolist() == ["test/0", "test/1"], "other samples than those of the training split"
    assert load_data(f"npz:{tmp_path / 'split.npz'}", split="train").ids[3] == "train/3"
    assert load_data(f"npz:{tmp_path / 'split.npz'}", split="train", transform=pil_to_tensor)[0][0].shape == (3, 5, 5)
    with pytest.raises(UsageError, match="has no array 'x'. It has the splits test, train: choose one with --split"):
        load_data(f"npz:{tmp_path / 'split.npz'}")
    np.savez(tmp_path / "vectors.npz", x=np.ones((3, 7)))
    plain = load_data(f"npz:{tmp_path / 'vectors.npz'}", transform=pil_to_tensor)
    assert plain.labels is None
    assert (plain.ids.tolist(), plain.ids_from) == ([0, 1, 2], "index")
    assert (plain[0][0].shape, plain[0][0].dtype) == ((7,), torch.float32)


def test_integers_are_kept_for_networks_that_take_tokens(tmp_path: Path) -> None:
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
def test_eight_bit_images_are_scaled_with_any_colour_axis(tmp_path: Path, shape: tuple[int, ...], axis: int | None) -> None:
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
def test_eight_bit_clips_become_colour_first_arrays(tmp_path: Path, shape: tuple[int, ...], axis: int) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.savez(tmp_path / "x.npz", x=x)
    clip = load_data(f"npz:{tmp_path / 'x.npz'}")[1][0]
    np.testing.assert_allclose(clip.numpy(), np.moveaxis(x, axis, 1)[1] / 255, rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (np.zeros((4, 9), np.uint8), "not images; write npz:FILE,integers=tokens for token ids"),
        (np.zeros((4, 3, 9, 3), np.uint8), "2 axes may be the colours; store it as float32"),
        (np.zeros((4, 10, 9, 9), np.uint8), "0 axes may be the colours"),
    ],
)
def test_ambiguous_eight_bit_arrays_are_refused(tmp_path: Path, x: np.ndarray, sentence: str) -> None:
    np.savez(tmp_path / "x.npz", x=x)
    with pytest.raises(UsageError, match=sentence):
        load_data(f"npz:{tmp_path / 'x.npz'}")


def test_class_names_are_numbered_equally_in_every_split_and_soft_labels_are_targets(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x_a=np.zeros((3, 2)), y_a=["a", "b", "c"], x_b=np.zeros((2, 2)), y_b=["c", "a"])
    data = load_data(f"npz:{tmp_path / 'x.npz'}", split="b")
    assert (data.labels.tolist(), data.class_names) == ([2, 0], ["a", "b", "c"])  # type: ignore[union-attr]
    np.savez(tmp_path / "y.npz", x=np.zeros((2, 2)), y=[0.7, 1.0])
    soft = load_data(f"npz:{tmp_path / 'y.npz'}")
    assert soft.labels is None
    assert soft.targets is not None
    assert soft.targets.tolist() == [[0.7], [1.0]]
    np.savez(tmp_path / "z.npz", x=np.array(["a"]))
    with pytest.raises(FormatError, match="holds <U1; numbers are needed"):
        load_data(f"npz:{tmp_path / 'z.npz'}")

"""Synthetic data: disjoint splits, and values that agree with the theory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes import UsageError
from repanalysis.inputs.data import load_data
from repanalysis.theory.mixtures import sparse_mixture


def test_digits_halves_are_disjoint_and_stratified() -> None:
    train, test, complete = (load_data("digits", split=split) for split in ("train", "test", None))
    assert not set(train.ids) & set(test.ids)
    assert len(train) + len(test) == len(complete) == 1797
    assert np.abs(np.bincount(train.labels) - np.bincount(test.labels)).max() <= 1
    x, y, sample = test[5]
    assert x.shape == (1, 8, 8)
    assert 0 <= x.min() <= x.max() <= 1
    twin = complete[int(test.ids[5])]
    assert torch.equal(x, twin[0])
    assert (y, sample) == twin[1:]


def test_gaussians_are_drawn_from_the_mixture_with_disjoint_splits() -> None:
    spec = "gaussians:K=3,d=8,sparsity=2,radius=4,n=600,seed=1"
    train, test = load_data(spec, split="train"), load_data(spec, split="test")
    x, label, sample = train[5]
    mixture = sparse_mixture(K=3, d=8, sparsity=2, radius=4.0, seed=1)
    np.testing.assert_allclose(x.numpy(), mixture.sample(600, seed=2)[0][5], rtol=1e-6)
    assert (label, sample, len(train), train.class_names) == (2, 5, 600, ["0", "1", "2"])
    assert not np.allclose(x, test[5][0])
    assert test[5][2] == 605, "equal ids of one specification are one sample"
    complete = load_data(spec)
    assert torch.equal(complete[5][0], x)
    assert complete[5][2] == sample
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
def test_invalid_gaussians_have_one_sentence_errors(spec: str, split: str | None, sentence: str) -> None:
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

"""Masks: which weights are kept, and control masks of equal size."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from probes.errors import UsageError
from repanalysis.analyses.pruning.masks import conv_mask, head_mask, random_alike, random_serves


def test_t15_kernels_are_kept_where_labels_are_shared() -> None:
    after, before = random_serves(300, 100, 5, seed=1), random_serves(300, 100, 5, seed=2)
    mask = conv_mask(after, before)
    for g, f in ((0, 0), (17, 200), (299, 3)):
        assert mask[g, f] == bool((after[g] & before[f]).any())
    expected = 1 - comb(95, 5) / comb(100, 5)
    assert mask.mean() == pytest.approx(expected, abs=0.01)


def test_t16_random_labels_are_balanced_and_distinct() -> None:
    served = random_serves(512, 100, 5, seed=3)
    assert set(served.sum(1).tolist()) == {5}
    assert set(served.sum(0).tolist()) == {25, 26}
    assert not np.array_equal(served, random_serves(512, 100, 5, seed=4))
    with pytest.raises(UsageError, match="between 1 and 10"):
        random_serves(4, 10, 11)


def test_the_mask_of_a_head_is_repeated_at_every_position() -> None:
    serves = np.random.default_rng(0).random((5, 3)) < 0.5
    mask = head_mask(serves, 4)
    assert mask.shape == (3, 20)
    np.testing.assert_array_equal(mask.reshape(3, 5, 4).all(2), serves.T)
    np.testing.assert_array_equal(mask.reshape(3, 5, 4).any(2), serves.T)


def test_a_random_mask_keeps_the_number_of_weights_per_row() -> None:
    mask = np.random.default_rng(0).random((7, 30)) < np.linspace(0.1, 0.9, 7)[:, None]
    random_mask = random_alike(mask, seed=1)
    np.testing.assert_array_equal(random_mask.sum(1), mask.sum(1))
    assert not np.array_equal(random_mask, mask)
    np.testing.assert_array_equal(random_mask, random_alike(mask, seed=1))

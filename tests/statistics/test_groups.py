"""Groups: the state without a group is the state of the other samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.statistics import ClassMoments, Groups
from repanalysis.statistics.draws import JACKKNIFE_SEED, hashed

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("inner", [ClassMoments(), ClassMoments(scatter="none"), ClassMoments(normalize="sphere")], ids=str)
def test_replicates_are_the_moments_of_all_other_samples(inner: ClassMoments, offset: float, classes: Classes) -> None:
    x, y = classes(400, 5, 4)
    x = x + offset
    group = hashed(np.arange(400), JACKKNIFE_SEED) % np.uint64(5)
    grouped = Groups(inner, 5).of(x, y)
    for index, (size, remaining) in enumerate(grouped.replicates()):
        mask = group != index
        assert size == (~mask).sum()
        expected = inner.of(x[mask], y[mask])
        np.testing.assert_array_equal(remaining.counts, expected.counts)
        for name in ("mean", "scatter_trace", "scatter"):
            scale = np.abs(getattr(expected, name)).max(initial=0.0)
            np.testing.assert_allclose(getattr(remaining, name), getattr(expected, name), rtol=1e-9, atol=1e-11 * scale)


def test_a_class_confined_to_one_group_is_empty_without_it() -> None:
    group = hashed(np.arange(50), JACKKNIFE_SEED) % np.uint64(4)
    y = (group == 2).astype(int)
    x = np.random.default_rng(0).normal(size=(50, 3))
    remaining = [remaining for _, remaining in Groups(ClassMoments(), 4).of(x, y).replicates()][2]
    assert remaining.counts.tolist() == [int((y == 0).sum()), 0]
    assert not remaining.scatter[1].any()
    assert not remaining.mean[1].any()
    assert remaining.scatter_trace[1] == 0.0
    assert remaining.k == 1


def test_the_whole_equals_the_inner_statistic(classes: Classes) -> None:
    x, y = classes(400, 5, 4)
    whole, expected = Groups(ClassMoments(), 7).of(x, y).whole, ClassMoments().of(x, y)
    np.testing.assert_allclose(whole.scatter, expected.scatter, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(whole.mean, expected.mean, rtol=1e-12, atol=1e-14)

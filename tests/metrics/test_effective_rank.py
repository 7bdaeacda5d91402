"""effective_rank: equal directions, the entropy of plain singular values, three conventions apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics.effective_rank import effective_rank
from repanalysis.statistics import ClassMoments, Rows

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def entropic(sizes: np.ndarray) -> float:
    shares = sizes[sizes > 1e-9 * sizes.max()] / sizes.sum()
    return math.exp(-float((shares * np.log(shares)).sum()))


@pytest.mark.parametrize(("n", "d"), [(300, 6), (40, 90)])
def test_is_the_entropy_of_plain_singular_values(classes: Classes, n: int, d: int) -> None:
    x, y = classes(n, d, 4)
    centred = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    for statistic in (ClassMoments(), Rows()):
        values = effective_rank(statistic.of(x, y))
        assert values[""] == pytest.approx(entropic(centred), rel=1e-7)
        assert values["variance"] == pytest.approx(entropic(centred**2), rel=1e-7)
        origin = effective_rank(statistic.of(x, y), about="origin")[""]
        assert origin == pytest.approx(entropic(np.linalg.svd(x, compute_uv=False)), rel=1e-7)


def test_r_equal_directions_count_r() -> None:
    x = np.concatenate([np.eye(5, 9), -np.eye(5, 9)])
    values = effective_rank(ClassMoments().of(x, np.zeros(10, int)))
    assert all(value == pytest.approx(5.0, rel=1e-12) for value in values.values())


def test_equal_samples_have_no_centred_rank_and_uncentred_rank_1() -> None:
    moments = ClassMoments().of(np.ones((20, 3)), np.zeros(20, int))
    assert math.isnan(effective_rank(moments)[""])
    assert effective_rank(moments, about="origin")[""] == pytest.approx(1.0)


def test_cached_eigenvalues_are_not_used_for_another_state_with_the_same_means(rng: np.random.Generator) -> None:
    """States are compared by counts, traces and rounding, not by the array of means alone."""
    x = rng.normal(size=(200, 6)) * np.arange(1.0, 7.0)
    state = ClassMoments().of(x, np.arange(200) % 2)
    expected = effective_rank(ClassMoments().of(x, np.arange(200) % 2))["variance"]
    coarse = state.at_resolution(np.array([1.0, 0.0]))
    assert coarse.mean is state.mean
    for _ in range(2):  # either order
        assert effective_rank(state)["variance"] == pytest.approx(expected, rel=1e-12)
        assert effective_rank(coarse)["variance"] != pytest.approx(expected, rel=1e-3, nan_ok=True)

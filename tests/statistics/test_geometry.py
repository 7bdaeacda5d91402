"""Class geometry: total = within + between, whatever the weights, and sums of scatters by the definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.statistics import ClassMoments, Rows, Statistic
from repanalysis.statistics.geometry import full

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize("statistic", [ClassMoments(), Rows()], ids=str)
def test_total_is_within_plus_between_and_the_plain_covariance(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(300, 6, 4)
    geometry = statistic.of(x, y)
    means, weights = geometry.centred_means("empirical"), geometry.weights("empirical")
    between = means.T @ (means * weights[:, None])
    np.testing.assert_allclose(geometry.total(), np.cov(x.T, bias=True), rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(geometry.within("empirical") + between, geometry.total(), rtol=1e-10, atol=1e-12)
    assert sum(geometry.traces("empirical")) == pytest.approx(np.trace(geometry.total()), rel=1e-12)


@pytest.mark.parametrize("statistic", [ClassMoments(), Rows()], ids=str)
def test_second_moments_are_uncentred(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(300, 6, 4)
    geometry = statistic.of(x, y)
    factors = np.array([0.5, 1.0, 0.0, 2.0])
    expected = sum(f * x[y == c].T @ x[y == c] for c, f in enumerate(factors))
    np.testing.assert_allclose(full(geometry.second(factors)), expected, rtol=1e-10, atol=1e-10)
    own = full(geometry.second_of(3, 2.0))
    mine = np.linalg.eigvalsh(own)[-3:]
    np.testing.assert_allclose(mine, np.linalg.eigvalsh(2.0 * x[y == 3].T @ x[y == 3])[-3:], rtol=1e-10)

"""Class geometry: total = within + between, whatever the weights, and sums of scatters by the definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.statistics import ClassMoments, Rows, Statistic
from repanalysis.statistics.geometry import Weighting, full

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
    dense = full(geometry.second_of(3, 2.0))
    eigenvalues = np.linalg.eigvalsh(dense)[-3:]
    np.testing.assert_allclose(eigenvalues, np.linalg.eigvalsh(2.0 * x[y == 3].T @ x[y == 3])[-3:], rtol=1e-10)


BOTH = pytest.mark.parametrize("statistic", [ClassMoments(), Rows()], ids=str)
SIZES = pytest.mark.parametrize(("n", "d"), [(200, 5), (24, 40)], ids=["tall", "wide"])


@BOTH
@SIZES
@pytest.mark.parametrize("class_weight", ["balanced", "empirical"])
def test_variances_of_features_and_along_directions_agree_with_the_definition(
    statistic: Statistic, n: int, d: int, class_weight: Weighting, classes: Classes
) -> None:
    x, y = classes(n, d, 3)
    directions = np.random.default_rng(0).normal(size=(d, 4))
    geometry, counts = statistic.of(x, y), np.bincount(y)
    pi = np.full(3, 1 / 3) if class_weight == "balanced" else counts / n
    plain = sum(pi[c] * np.cov(x[y == c].T, bias=True) for c in range(3))
    np.testing.assert_allclose(geometry.weights(class_weight), pi, rtol=1e-14)
    np.testing.assert_allclose(geometry.within(class_weight), plain, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(geometry.feature_variances(class_weight), np.diag(plain), rtol=1e-10)
    expected = np.diag(directions.T @ plain @ directions)
    np.testing.assert_allclose(geometry.variance_along(directions, class_weight), expected, rtol=1e-9)


@BOTH
@SIZES
def test_removing_a_class_leaves_the_others_unchanged(statistic: Statistic, n: int, d: int, classes: Classes) -> None:
    x, y = classes(n, d, 3)
    remaining, expected = statistic.of(x, y).without_class(1), statistic.of(x[y != 1], y[y != 1])
    assert remaining.classes.tolist() == [0, 2]
    for name in ("counts", "mean", "scatter_trace"):
        np.testing.assert_allclose(getattr(remaining, name), getattr(expected, name), rtol=1e-12)
    np.testing.assert_allclose(remaining.within(), expected.within(), rtol=1e-10, atol=1e-13)
    assert statistic.of(x, y).without_class(7).classes.tolist() == [0, 1, 2]


@BOTH
def test_rounding_is_a_fraction_of_the_mean_square_plus_a_constant(statistic: Statistic, classes: Classes) -> None:
    """Per feature a E[x^2] + b; of a class mean the n_c-th part of it, of the smallest class."""
    x, y = classes(200, 5, 3)
    geometry = statistic.of(x + 3.0, y).at_resolution(np.array([1e-3, 2e-3]))
    expected = 1e-3 * np.square(x + 3.0).mean(axis=0) + 2e-3
    np.testing.assert_allclose(geometry.rounding(), expected, rtol=1e-10)
    np.testing.assert_allclose(geometry.rounding_of_means(), expected / np.bincount(y).min(), rtol=1e-10)
    x[:, 2] = y  # no variance within classes: all samples of a class are rounded alike
    geometry = statistic.of(x, y).at_resolution(np.array([1e-3, 2e-3]))
    fewest = np.where(np.arange(5) == 2, 1, np.bincount(y).min())
    np.testing.assert_allclose(geometry.rounding_of_means(), geometry.rounding() / fewest, rtol=1e-10)


@BOTH
def test_traces_are_0_where_rounding_explains_them(statistic: Statistic) -> None:
    """Two classes in three dimensions: within 2, between 1, and 2 + 10 in squares; the bound is a 12 + 3 b."""
    x = np.array([[3.0 + side, between, 0.0] for between in (-1.0, 1.0) for side in (2**0.5, -(2**0.5))])
    geometry = statistic.of(x, np.array([0, 0, 1, 1]))
    assert geometry.traces() == pytest.approx((2.0, 1.0))
    for resolution, explained in (([0.0, 1.001], True), ([0.0, 0.999], False), ([0.2501, 0.0], True), ([0.2499, 0.0], False)):
        coarse = geometry.at_resolution(np.array(resolution))
        assert coarse.traces() == (pytest.approx((2.0, 1.0)) if not explained else (0.0, 0.0))


@BOTH
def test_a_finer_resolution_changes_nothing(statistic: Statistic) -> None:
    """Each bound is at least that of the samples' type."""
    coarse = statistic.of(np.eye(3), np.arange(3)).at_resolution(np.array([1.0, 2.0]))
    assert coarse.at_resolution(np.array([0.5, 3.0])).resolution.tolist() == [1.0, 3.0]

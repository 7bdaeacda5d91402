"""nc1: the closed form of a simplex, the plain formula with a pseudo-inverse, the bound with the Fisher ratio, lost ranks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics.fisher_ratio import fisher_ratio
from repanalysis.metrics.nc1 import nc1
from repanalysis.statistics import ClassMoments
from tests.metrics.geometries import isotropic, simplex

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_a_simplex_has_the_closed_form(rng: np.random.Generator) -> None:
    k, a, s = 6, 2.0, 0.3
    assert nc1(ClassMoments().of(*isotropic(simplex(k, 8, a, rng), s, 1, rng))) == pytest.approx(0.09375, rel=1e-11)
    assert (k - 1) ** 2 * s**2 / (k * a**2) == pytest.approx(0.09375)


@pytest.mark.parametrize("class_weight", ["balanced", "empirical"])
@pytest.mark.parametrize(("n", "d", "k"), [(300, 6, 4), (300, 3, 5), (100, 90, 4)])
def test_agrees_with_the_plain_formula(classes: Classes, class_weight: str, n: int, d: int, k: int) -> None:
    x, y = classes(n, d, k)
    labels, count = np.unique(y, return_counts=True)
    weights = np.full(k, 1 / k) if class_weight == "balanced" else count / n
    means = np.array([x[y == c].mean(axis=0) for c in labels])
    within = sum(w * np.cov(x[y == c].T, bias=True) for w, c in zip(weights, labels, strict=True))
    centred = means - weights @ means
    between = centred.T @ (centred * weights[:, None])
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / k
    assert nc1(ClassMoments().of(x, y), class_weight=class_weight) == pytest.approx(expected, rel=1e-9)


def test_fisher_times_nc1_is_at_least_the_squared_rank(classes: Classes, rng: np.random.Generator) -> None:
    moments = ClassMoments().of(*classes(300, 6, 4))
    assert fisher_ratio(moments)["trace"] * nc1(moments) * 4 > 3**2
    ideal = ClassMoments().of(*isotropic(simplex(4, 6, 2.0, rng), 0.3, 1, rng))
    assert fisher_ratio(ideal)["trace"] * nc1(ideal) * 4 == pytest.approx(3**2, rel=1e-10)


def test_equal_means_lose_a_rank_and_it_is_noted(classes: Classes) -> None:
    x, y = classes(300, 6, 4)
    for c in (2, 3):
        x[y == c] -= x[y == c].mean(axis=0)
    value = nc1(ClassMoments().of(x, y))
    assert math.isfinite(value)
    assert value.note == "the between-class covariance has rank 2, not 3"
    for c in (0, 1):
        x[y == c] -= x[y == c].mean(axis=0)
    assert nc1(ClassMoments().of(x.astype(np.float32), y)) == math.inf


def test_collapse_is_zero() -> None:
    y = np.arange(20) % 4
    assert nc1(ClassMoments().of(np.eye(4)[y], y)) == 0.0

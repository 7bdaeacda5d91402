"""nc2_equinorm: 0 at a simplex, the coefficient of variation elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics.nc2_equinorm import nc2_equinorm
from repanalysis.statistics import ClassMoments
from tests.metrics.geometries import simplex

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_a_simplex_has_equal_norms(rng: np.random.Generator) -> None:
    assert nc2_equinorm(ClassMoments().of(simplex(6, 9, 3.0, rng) + 5.0, np.arange(6))) == pytest.approx(0.0, abs=1e-13)


def test_the_coefficient_of_variation_of_norms_3_3_1_1() -> None:
    means = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # centred; lengths 3, 3, 1, 1
    assert nc2_equinorm(ClassMoments().of(means, np.arange(4))) == pytest.approx(1.0 / 2.0, rel=1e-14)


def test_agrees_with_the_plain_formula(classes: Classes) -> None:
    x, y = classes(300, 6, 4)
    means = np.array([x[y == c].mean(axis=0) for c in range(4)])
    lengths = np.linalg.norm(means - means.mean(axis=0), axis=1)
    assert nc2_equinorm(ClassMoments().of(x, y)) == pytest.approx(lengths.std() / lengths.mean(), rel=1e-12)


def test_equal_means_are_undefined() -> None:
    assert math.isnan(nc2_equinorm(ClassMoments().of(np.ones((6, 2)), np.arange(6) % 3)))

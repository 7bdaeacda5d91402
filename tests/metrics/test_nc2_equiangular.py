"""nc2_equiangular: 0 at a simplex and for two classes, cosines by the definition elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics.nc2_equiangular import nc2_equiangular
from repanalysis.statistics import ClassMoments
from tests.metrics.geometries import simplex

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_a_simplex_and_two_classes_give_zero(rng: np.random.Generator) -> None:
    values = nc2_equiangular(ClassMoments().of(simplex(6, 9, 3.0, rng) + 5.0, np.arange(6)))
    assert values[""] == pytest.approx(0.0, abs=1e-13)
    assert values["std"] == pytest.approx(0.0, abs=1e-13)
    pair = nc2_equiangular(ClassMoments().of(rng.normal(size=(2, 5)), np.arange(2)))
    assert pair[""] == 0.0
    assert "whatever they are" in pair[""].note


def test_a_cross_has_known_cosines() -> None:
    means = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # cosines -1 (2 pairs) and 0 (4 pairs)
    values = nc2_equiangular(ClassMoments().of(means, np.arange(4)))
    assert values[""] == pytest.approx((2 * 2 / 3 + 4 / 3) / 6, rel=1e-14)
    assert values["std"] == pytest.approx(np.std([-1.0, -1.0, 0.0, 0.0, 0.0, 0.0]), rel=1e-14)


def test_pairs_agree_with_plain_cosines(classes: Classes) -> None:
    x, y = classes(300, 6, 4)
    means = np.array([x[y == c].mean(axis=0) for c in range(4)])
    means -= means.mean(axis=0)
    pairs = nc2_equiangular(ClassMoments().of(x, y), per="pair")
    expected = means[1] @ means[3] / np.linalg.norm(means[1]) / np.linalg.norm(means[3])
    assert pairs["pair=1/3"] == pytest.approx(expected, rel=1e-12)


def test_a_mean_at_the_centre_has_no_direction() -> None:
    value = nc2_equiangular(ClassMoments().of(np.array([[-1.0], [0.0], [1.0]]), np.arange(3)))[""]
    assert math.isnan(value)
    assert "no direction" in value.note

"""nc1_cdnv: the closed form of a simplex, pairs by the definition, equal means."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from repanalysis.metrics.nc1_cdnv import nc1_cdnv
from repanalysis.statistics import ClassMoments
from tests.metrics.geometries import isotropic, simplex

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_a_simplex_has_the_closed_form(rng: np.random.Generator) -> None:
    s, k, d, r = 0.4, 5, 7, 2.0
    values = nc1_cdnv(ClassMoments().of(*isotropic(simplex(k, d, r, rng), s, 1, rng)))
    assert values[""] == pytest.approx(s**2 * d * (k - 1) / (2 * r**2 * k), rel=1e-12)
    assert values["max"] == pytest.approx(values[""], rel=1e-12)


def test_pairs_agree_with_the_definition(classes: Classes) -> None:
    x, y = classes(300, 6, 4)
    pairs = nc1_cdnv(ClassMoments().of(x, y), per="pair")
    for a, b in combinations(range(4), 2):
        variance = x[y == a].var(axis=0).sum() + x[y == b].var(axis=0).sum()
        distance = np.square(x[y == a].mean(axis=0) - x[y == b].mean(axis=0)).sum()
        assert pairs[f"pair={a}/{b}"] == pytest.approx(variance / (2 * distance), rel=1e-12)
    assert nc1_cdnv(ClassMoments().of(x, y))[""] == pytest.approx(np.mean(list(pairs.values())), rel=1e-12)
    assert nc1_cdnv(ClassMoments().of(x, y))["max"] == pytest.approx(max(pairs.values()), rel=1e-12)


def test_two_classes_of_equal_mean_have_infinite_cdnv() -> None:
    x = np.array([[-1.0], [1.0], [-2.0], [2.0], [5.0], [6.0]])
    y = np.array([0, 0, 1, 1, 2, 2])
    values = nc1_cdnv(ClassMoments().of(x, y))
    assert values[""] == math.inf
    assert values[""].note == "two classes have the same mean"
    pairs = nc1_cdnv(ClassMoments().of(x, y), per="pair")
    assert pairs["pair=0/1"] == math.inf
    assert pairs["pair=0/1"].note == "the means are equal"
    assert math.isfinite(pairs["pair=0/2"])

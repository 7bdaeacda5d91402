"""nc1_quotient: the inverse of fisher_trace_ratio, 0 at collapse, infinite where all means are equal."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics.fisher_trace_ratio import fisher_trace_ratio
from repanalysis.metrics.nc1_quotient import nc1_quotient
from repanalysis.statistics import ClassMoments
from tests.metrics.geometries import isotropic, simplex

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_a_simplex_has_the_closed_form(rng: np.random.Generator) -> None:
    x, y = isotropic(simplex(4, 6, 2.0, rng), 0.5, 2, rng)
    assert nc1_quotient(ClassMoments().of(x, y)) == pytest.approx(6 * 0.5**2 / 2.0**2, rel=1e-12)


def test_is_the_inverse_of_the_trace_ratio(classes: Classes) -> None:
    moments = ClassMoments().of(*classes(300, 6, 4))
    assert nc1_quotient(moments) * fisher_trace_ratio(moments) == pytest.approx(1.0, rel=1e-12)


def test_collapse_is_zero_and_equal_means_are_infinite() -> None:
    y = np.arange(20) % 2
    assert nc1_quotient(ClassMoments().of(np.eye(2)[y], y)) == 0.0
    assert nc1_quotient(ClassMoments().of(np.repeat([[1.0], [-1.0]], 10, axis=0), y)) == math.inf

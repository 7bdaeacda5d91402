"""rate_reduction_normalized: 1 for one line per direction, the ideal of balanced classes, never beyond its bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics.rate_reduction import rate_reduction
from repanalysis.metrics.rate_reduction_normalized import rate_reduction_normalized
from repanalysis.statistics import ClassMoments
from tests.metrics.rates import CANONICAL, subspaces

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize("eps_sq", [0.01, 0.5, 2.0])
@pytest.mark.parametrize(("k", "r"), [(4, 1), (3, 2), (5, 3)])
def test_classes_that_fill_all_directions_reach_the_ideal(eps_sq: float, k: int, r: int) -> None:
    moments = ClassMoments().of(*subspaces([r] * k, [2] * k, k * r))
    values = rate_reduction_normalized(moments, eps_sq=eps_sq)
    assert values["ideal"] == pytest.approx(1.0, rel=1e-10)
    assert values[""] == pytest.approx(1.0, rel=1e-10) if r == 1 else values[""] < 1.0


@pytest.mark.parametrize("case", CANONICAL)
def test_is_the_rate_reduction_divided_by_its_bound(case: str) -> None:
    (dims, copies, d, eps_sq), (_, _, reduction) = CANONICAL[case]
    bound = d / 2 * math.log1p(1 / eps_sq) - math.log1p(d / eps_sq) / 2
    value = rate_reduction_normalized(ClassMoments().of(*subspaces(dims, copies, d)), eps_sq=eps_sq)[""]
    assert value == pytest.approx(reduction / bound, abs=1e-6 / bound)
    assert 0 <= value <= 1 + 1e-12


def test_is_between_zero_and_one_for_any_data(classes: Classes) -> None:
    for n, d, k in ((300, 6, 4), (40, 90, 4), (500, 2, 5)):
        moments = ClassMoments().of(*classes(n, d, k))
        values = rate_reduction_normalized(moments)
        assert 0 < values[""] < 1
        assert rate_reduction(moments) > 0
    assert math.isnan(values["ideal"])
    assert math.isnan(rate_reduction_normalized(ClassMoments().of(np.arange(4.0)[:, None], np.arange(4) % 2))[""])


def test_the_default_distortion_is_a_half(rng: np.random.Generator) -> None:
    moments = ClassMoments().of(rng.normal(size=(60, 5)), np.arange(60) % 3)
    assert rate_reduction_normalized(moments) == rate_reduction_normalized(moments, eps_sq=0.5)
    assert rate_reduction_normalized(moments) != rate_reduction_normalized(moments, eps_sq=1.0)

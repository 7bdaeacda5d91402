"""coding_rate: canonical values, the n-side as oracle, bounds and scaling laws."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from probes import UsageError
from repanalysis.metrics import get
from repanalysis.metrics.coding_rate import coding_rate
from repanalysis.statistics import ClassMoments
from tests.metrics.rates import CANONICAL, plain, subspaces

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def rate(x: np.ndarray, y: np.ndarray, **parameters: object) -> float:
    metric = get("coding_rate", **parameters)
    return float(next(iter(metric(metric.needs.of(x, y)).values())))


@pytest.mark.parametrize("case", CANONICAL)
@pytest.mark.parametrize("normalization", ["frobenius", "sphere"])
def test_canonical_values(case: str, normalization: str) -> None:
    (dims, copies, d, eps_sq), (expected, _, _) = CANONICAL[case]
    assert rate(*subspaces(dims, copies, d), eps_sq=eps_sq, normalization=normalization) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("normalization", ["frobenius", "sphere"])
@pytest.mark.parametrize(("n", "d"), [(200, 7), (30, 60)])
def test_agrees_with_the_definition_on_the_n_side(classes: Classes, normalization: str, n: int, d: int) -> None:
    x, y = classes(n, d, 4)
    value = rate(x, y, eps_sq=0.3, normalization=normalization)
    assert value == pytest.approx(plain(x, y, 0.3, normalization)[0], rel=1e-10)


@pytest.mark.parametrize("eps_sq", [1e-4, 0.5, 1e3, 1e8])
def test_lies_between_its_bounds(classes: Classes, eps_sq: float) -> None:
    d = 7
    value = rate(*classes(200, d, 4), eps_sq=eps_sq)
    assert math.log1p(d / eps_sq) / 2 * (1 - 1e-12) <= value <= d / 2 * math.log1p(1 / eps_sq) * (1 + 1e-12)


def test_padding_with_zeros_acts_as_a_finer_distortion(classes: Classes) -> None:
    """b = d/eps^2 uses the nominal d: from 6 to 9 features with eps^2 is 6 features with eps^2 6/9."""
    x, y = classes(200, 6, 3)
    assert rate(np.c_[x, np.zeros((200, 3))], y, eps_sq=0.5) == pytest.approx(rate(x, y, eps_sq=0.5 * 6 / 9), rel=1e-12)


def test_a_class_of_zeros_is_noted() -> None:
    metric = get("coding_rate")
    value = metric(metric.needs.of(np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([5, 6])))[""]
    assert value.note == "all samples of class 5 are 0"
    assert math.isfinite(value)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_a_distortion_must_be_positive(bad: float) -> None:
    with pytest.raises(UsageError, match="eps_sq is .*; it must be a finite number above 0"):
        rate(np.eye(2), np.arange(2), eps_sq=bad)


def test_an_unknown_normalization_is_refused() -> None:
    with pytest.raises(UsageError, match="Unknown normalization of coding_rate 'spere'. Did you mean 'sphere'?"):
        get("coding_rate", normalization="spere")


@pytest.mark.parametrize(("n", "d"), [(3, 5), (5, 5)])
def test_bounds_are_reached_by_orthogonal_samples_and_by_equal_ones(n: int, d: int) -> None:
    """One class: n orthonormal rows fill r = min(n, d) directions alike, equal rows a single one."""
    even, line = (coding_rate(ClassMoments().of(x, np.zeros(n, int)), eps_sq=0.3) for x in (np.eye(n, d), np.ones((n, d))))
    for values in (even, line):
        assert values["upper bound"] == pytest.approx(n / 2 * np.log(1 + d / 0.3 / n), rel=1e-12)
        assert values["lower bound"] == pytest.approx(np.log(1 + d / 0.3) / 2, rel=1e-12)
    assert even[""] == pytest.approx(even["upper bound"], rel=1e-12)
    assert line[""] == pytest.approx(line["lower bound"], rel=1e-12)

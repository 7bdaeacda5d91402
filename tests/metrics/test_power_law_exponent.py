"""power_law_exponent: an exact power law, plain least squares, too few eigenvalues."""

from __future__ import annotations

import math

import numpy as np
import pytest

from repanalysis.metrics.power_law_exponent import power_law_exponent
from repanalysis.statistics import ClassMoments, Moments


def power_law(d: int, alpha: float, rng: np.random.Generator) -> Moments:
    scale = np.arange(1.0, d + 1) ** (-alpha / 2)
    rotated = np.diag(scale) @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    return ClassMoments().of(np.concatenate([rotated, -rotated]), np.zeros(2 * d, int))


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_an_exact_power_law_is_recovered(alpha: float, rng: np.random.Generator) -> None:
    values = power_law_exponent(power_law(60, alpha, rng))
    assert values[""] == pytest.approx(alpha, rel=1e-8)
    assert values["r2"] == pytest.approx(1.0, abs=1e-10)


def test_the_fit_uses_only_the_given_range(rng: np.random.Generator) -> None:
    x = rng.normal(size=(500, 40)) * np.linspace(1, 3, 40)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1][4:20]
    slope = np.polyfit(np.log(np.arange(5, 21)), np.log(eigenvalues), 1)[0]
    values = power_law_exponent(ClassMoments().of(x, np.zeros(500, int)), first=5, last=20)
    assert values[""] == pytest.approx(-slope, rel=1e-9)


def test_too_few_eigenvalues_are_undefined_and_equal_ones_have_no_fit(rng: np.random.Generator) -> None:
    value = power_law_exponent(power_law(12, 1.0, rng))[""]
    assert math.isnan(value)
    assert "there are 2" in value.note
    flat = power_law_exponent(power_law(60, 0.0, rng))
    assert flat[""] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("last", "defined"), [(14, False), (15, True)])
def test_the_fit_needs_five_eigenvalues(last: int, defined: bool, rng: np.random.Generator) -> None:
    value = power_law_exponent(power_law(60, 1.0, rng), last=last)[""]
    assert math.isfinite(value) == defined
    assert defined or "needs 5 eigenvalues above 0 from rank 11 on, and there are 4" in value.note

"""The standard error of a proportion: Wilson's centre, the asymptotic limit, and coverage at every p, also at 100 %."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from repanalysis.statistics.shares import share_error


@pytest.mark.parametrize("n", [5, 40, 1000])
def test_the_centre_is_that_of_wilsons_interval(n: int) -> None:
    for right in (0, n // 3, n):
        low, high = binomtest(right, n).proportion_ci(0.95, "wilson")
        centre = (low + high) / 2
        assert share_error(right / n, n) == pytest.approx(math.sqrt(centre * (1 - centre) / n), rel=1e-9)


def test_it_tends_to_the_binomial_standard_error() -> None:
    assert share_error(0.3, 10**6) == pytest.approx(math.sqrt(0.3 * 0.7 / 10**6), rel=1e-5)


@pytest.mark.parametrize(("n", "least"), [(20, 0.9), (100, 0.93), (500, 0.94)])
def test_the_interval_covers_at_every_p(n: int, least: float) -> None:
    """P(|s/n - p| <= 1.96 se) summed over the binomial law, p from 0.5 up to one wrong in ten thousand."""
    shares = np.arange(n + 1) / n
    errors = np.array([share_error(float(share), n) for share in shares])
    for p in [*np.linspace(0.5, 0.99, 50), 0.995, 0.998, 0.999, 0.9999]:
        inside = np.abs(shares - p) <= 1.96 * errors
        assert binom.pmf(np.arange(n + 1), n, p)[inside].sum() > least

r"""How much of a number is what n samples add to it, and the sentence that says so.

Class means of n_c samples of variance v_c scatter by v_c / n_c, so that the between-class variance of classes with one and the
same mean is

    E[Tr Sigma_B] = sum_c pi_c (1 - pi_c) v_c / n_c.

Measured by the inverse of an estimated covariance it is more: Sigma_W^-1 of d features and n samples of K Gaussian classes of
one covariance Sigma has the expectation n / (n - K - d - 1) Sigma^-1 (inverse Wishart), independent of the means.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from repanalysis.statistics import ClassGeometry, Weighting

__all__ = ["NOTED", "between_noise", "bias_note", "notes_are_read", "without_notes"]

NOTED = 0.1  # share of a value from which on its bias is said

_READ = ContextVar("notes are read", default=True)


@contextmanager
def without_notes() -> Iterator[None]:
    """Values alone are asked for, as of a jackknife: what only a note needs is not computed."""
    token = _READ.set(False)
    try:
        yield
    finally:
        _READ.reset(token)


def notes_are_read() -> bool:
    """Whether somebody reads the notes of the values that are computed."""
    return _READ.get()


def between_noise(moments: ClassGeometry, class_weight: Weighting) -> float:
    """sum_c pi_c (1 - pi_c) v_c / n_c, with the unbiased v_c = spread_c / (n_c - 1); NaN if a class has one sample."""
    present = moments.counts > 0
    weights, counts = moments.weights(class_weight)[present], moments.counts[present].astype(np.float64)
    if (counts < 2).any():
        return float("nan")
    return float((weights * (1.0 - weights) * moments.spread[present] / (counts * (counts - 1.0))).sum())


def bias_note(bias: float, value: float, n: int, remedy: str) -> str:
    """One sentence where more than a tenth of a value is bias, else nothing; `bias` has the value's sign."""
    if not np.isfinite(value) or value == 0 or not bias > NOTED * value:
        return ""
    share = "all" if bias >= 0.95 * value else f"{bias / value:.0%}"
    return f"about {share} of it is bias at n = {n}; {remedy}"

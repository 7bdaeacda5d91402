r"""Finite-sample bias of a metric, and the note that reports it.

Means of n_c samples of variance v_c have variance v_c / n_c. If all classes have the same mean, the expected between-class
variance is therefore

    E[Tr Sigma_B] = sum_c pi_c (1 - pi_c) v_c / n_c.

In units of an estimated covariance the bias is larger: for d features and n samples of K Gaussian classes with the same
covariance Sigma, E[Sigma_W^-1] = n / (n - K - d - 1) Sigma^-1 (inverse Wishart), independent of the means.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from repanalysis.statistics import ClassGeometry, Weighting

__all__ = ["MIN_NOTED_SHARE", "between_noise", "bias_note", "notes_enabled", "without_notes"]

MIN_NOTED_SHARE = 0.1  # a bias above this share of the value is noted

_NOTES_ENABLED = ContextVar("notes enabled", default=True)


@contextmanager
def without_notes() -> Iterator[None]:
    """Compute values without notes, as for jackknife replicates, and skip computations that only notes need."""
    token = _NOTES_ENABLED.set(False)
    try:
        yield
    finally:
        _NOTES_ENABLED.reset(token)


def notes_enabled() -> bool:
    """Whether notes are to be computed; False inside `without_notes`."""
    return _NOTES_ENABLED.get()


def between_noise(moments: ClassGeometry, class_weight: Weighting) -> float:
    """sum_c pi_c (1 - pi_c) v_c / n_c, with the unbiased v_c = Tr S_c / (n_c - 1); NaN if a class has one sample."""
    present = moments.counts > 0
    weights, counts = moments.weights(class_weight)[present], moments.counts[present].astype(np.float64)
    if (counts < 2).any():
        return float("nan")
    return float((weights * (1.0 - weights) * moments.scatter_trace[present] / (counts * (counts - 1.0))).sum())


def bias_note(bias: float, value: float, n: int, remedy: str) -> str:
    """A note if more than a tenth of the value is bias, else an empty text; `bias` has the value's sign."""
    if not np.isfinite(value) or value == 0 or not bias > MIN_NOTED_SHARE * value:
        return ""
    share = "all" if bias >= 0.95 * value else f"{bias / value:.0%}"
    return f"about {share} of it is bias at n = {n}; {remedy}"

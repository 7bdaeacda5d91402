r"""Standard errors by leaving out groups of samples, and the null of labels that mean nothing.

Delete-a-group jackknife for groups of m_j of n samples (Busing, Meijer and van der Leeden 1999), with h_j = n / m_j, theta_j
the value without group j and pseudo-values p_j = h_j theta - (h_j - 1) theta_j:

    theta_J = G theta - sum_j (1 - m_j / n) theta_j,      se^2 = 1/G sum_j (p_j - theta_J)^2 / (h_j - 1)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

__all__ = ["jackknife", "null_summary", "permuted"]


def jackknife(whole: float, left_out: Sequence[float], sizes: Sequence[int]) -> float:
    """Standard error of a value from its values without each group; NaN if one of them is not finite.

    Parameters
    ----------
    whole : float
        The value of all samples.
    left_out : sequence of float
        The value without group j.
    sizes : sequence of int
        Samples in group j.

    Examples
    --------
    For a mean and groups of one sample it is the textbook's standard error.

    >>> x = np.array([1.0, 2.0, 4.0, 9.0])
    >>> se = jackknife(x.mean(), [np.delete(x, j).mean() for j in range(4)], [1] * 4)
    >>> bool(np.isclose(se, x.std(ddof=1) / 2))
    True
    """
    values, n, g = np.asarray(left_out, np.float64), sum(sizes), len(sizes)
    if g < 2 or not math.isfinite(whole) or not np.isfinite(values).all():
        return math.nan
    h = n / np.asarray(sizes, np.float64)
    pooled = g * whole - float(((1.0 - 1.0 / h) * values).sum())
    return math.sqrt(float((np.square(h * whole - (h - 1.0) * values - pooled) / (h - 1.0)).mean()))


def permuted(labels: Int64[np.ndarray, " n"], seed: int, draw: int) -> NDArray[np.int64]:
    """Labels in random order: as many of every class, and nothing to do with the samples."""
    return np.random.default_rng([seed, draw]).permutation(labels)


def null_summary(value: float, draws: Sequence[float]) -> tuple[float, float, str]:
    """Mean and standard deviation of a metric under random labels, and how many draws reach the value itself.

    Examples
    --------
    >>> null_summary(5.0, [1.0, 2.0, 3.0])
    (2.0, 1.0, '3 permutations of the labels; 0 of them reach the value, p = 0.25')
    """
    found = np.asarray(draws, np.float64)
    if not np.isfinite(found).all():
        return math.nan, math.nan, f"{len(found)} permutations of the labels, of which some are not finite"
    reach = int((found >= value).sum())
    p = f", p = {(reach + 1) / (len(found) + 1):.2g}" if math.isfinite(value) else ""
    spread = float(found.std(ddof=1)) if len(found) > 1 else math.nan
    return float(found.mean()), spread, f"{len(found)} permutations of the labels; {reach} of them reach the value{p}"

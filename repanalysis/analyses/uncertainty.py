r"""Standard errors by leaving out groups of samples, and the null distribution under permuted labels.

Delete-a-group jackknife for groups of m_j of n samples (Busing, Meijer and van der Leeden 1999), with h_j = n / m_j, theta_j
the value without group j and pseudo-values p_j = h_j theta - (h_j - 1) theta_j:

    theta_J = G theta - sum_j (1 - m_j / n) theta_j,      se^2 = 1/G sum_j (p_j - theta_J)^2 / (h_j - 1)

This is a variance estimated from G numbers, so that the error follows Student's t with G - 1 degrees of freedom, not the normal
distribution. `few_groups` is the factor with which value +- 1.96 se is Student's 95 % interval: 1.15 for ten groups.

Permutation test: of B values under permuted labels, b are at least as extreme as the observed value, in the tail that means
more structure; ties count. Then p = (b + 1) / (B + 1), which is valid for any B (Phipson and Smyth 2010). Without a direction,
p is twice the smaller of both tails, at most 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from repanalysis.metrics import Structure

__all__ = ["Null", "few_groups", "jackknife", "permutation_test", "permuted"]

_TIE = 1e-9  # relative difference that another order of summation may cause
_NEAR_ZERO = 1e-12  # dimensionless values below this are rounding errors


def jackknife(whole: float, skipped: Sequence[float], sizes: Sequence[int]) -> float:
    """Standard error of a value from its values without each group; NaN if one of them is not finite.

    Parameters
    ----------
    whole : float
        The value on all samples.
    skipped : sequence of float
        The value without group j.
    sizes : sequence of int
        Samples in group j.

    Examples
    --------
    For a mean and groups of one sample, it equals the usual standard error.

    >>> x = np.array([1.0, 2.0, 4.0, 9.0])
    >>> se = jackknife(x.mean(), [np.delete(x, j).mean() for j in range(4)], [1] * 4)
    >>> bool(np.isclose(se, x.std(ddof=1) / 2))
    True
    """
    values, n, g = np.asarray(skipped, np.float64), sum(sizes), len(sizes)
    if g < 2 or not math.isfinite(whole) or not np.isfinite(values).all():
        return math.nan
    h = n / np.asarray(sizes, np.float64)
    pooled = g * whole - float(((1.0 - 1.0 / h) * values).sum())
    return math.sqrt(float((np.square(h * whole - (h - 1.0) * values - pooled) / (h - 1.0)).mean()))


def few_groups(groups: int) -> float:
    """Factor for a standard error from few groups, so that value +- 1.96 se is Student's 95 % interval.

    Examples
    --------
    >>> round(few_groups(10), 3), round(few_groups(1000), 3)
    (1.154, 1.001)
    """
    return float(stdtrit(groups - 1, 0.975) / ndtri(0.975)) if groups > 1 else math.nan


def permuted(labels: Int64[np.ndarray, " n"], seed: int, draw: int) -> NDArray[np.int64]:
    """The labels in random order: class sizes stay, the association with samples is lost."""
    return np.random.default_rng([seed, draw]).permutation(labels)


class Null(NamedTuple):
    """Result of a permutation test.

    Attributes
    ----------
    mean, spread : float
        Mean and standard deviation under permuted labels; NaN if a draw is not finite.
    p : float
        p-value; NaN if the value or a draw is NaN.
    tail : {"up", "down", "either"}
        The tail tested.
    note : str
        Summary in words.
    """

    mean: float
    spread: float
    p: float
    tail: str
    note: str


def permutation_test(
    value: float, draws: Sequence[float], structure: Structure = "up", *, dimensionless: bool = False, of: str = "labels"
) -> Null:
    """Compare a value with its null distribution under permuted labels.

    Parameters
    ----------
    value : float
        Value with the true labels; may be infinite.
    draws : sequence of float
        Values under permuted labels.
    structure : {"up", "down", "either"}, default "up"
        The tail that means more structure.
    dimensionless : bool, default False
        Whether the value has no unit; differences below 1e-12 then count as ties.
    of : str, default "labels"
        What was permuted, for the note.

    References
    ----------
    B. Phipson, G. Smyth, "Permutation p-values should never be zero", Statistical Applications in Genetics and Molecular
    Biology 9, 2010.

    Examples
    --------
    >>> permutation_test(5.0, [1.0, 2.0, 3.0])
    Null(mean=2.0, spread=1.0, p=0.25, tail='up', note='3 permutations of the labels; 0 are as high, p = 0.25')
    >>> permutation_test(0.5, [1.0, 2.0, 0.5], "down").note
    '3 permutations of the labels; 1 is as low, p = 0.5'
    """
    x = np.asarray(draws, np.float64)
    finite = bool(np.isfinite(x).all())
    mean = float(x.mean()) if finite else math.nan
    spread = float(x.std(ddof=1)) if finite and len(x) > 1 else math.nan
    summary = f"{len(x)} permutations of the {of}"
    if np.isnan(x).any() or math.isnan(value):
        return Null(mean, spread, math.nan, structure, f"{summary}, of which some are not finite" if not finite else summary)
    size = max((abs(float(draw)) for draw in [value, *x] if math.isfinite(draw)), default=0.0)
    tie = max(_TIE * size, _NEAR_ZERO if dimensionless else 0.0)
    high, low = int((x >= value - tie).sum()), int((x <= value + tie).sum())
    tails = {"up": (high, "high"), "down": (low, "low")}
    if structure == "either":
        p = min(1.0, 2.0 * (min(high, low) + 1) / (len(x) + 1))
        return Null(mean, spread, p, structure, f"{summary}; {high} are as high, {low} as low, two-sided p = {p:.2g}")
    n_exceeding, word = tails[structure]
    p = (n_exceeding + 1) / (len(x) + 1)
    return Null(
        mean, spread, p, structure, f"{summary}; {n_exceeding} {'is' if n_exceeding == 1 else 'are'} as {word}, p = {p:.2g}"
    )

"""fisher_ratio = 1/K Tr(Sigma_W^-1 Sigma_B)  (specification of separation, sections 0 and 1)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, lapack, solve_triangular

from repanalysis.metrics._registry import Noted, metric
from repanalysis.statistics import ClassMoments, Moments
from repanalysis.statistics.moments import Weighting

_EPS = np.finfo(np.float64).eps
_CONSTANT = 1e-12  # a feature whose spread is below this share of its magnitude is constant up to rounding
_NOISE = 10.0  # rounding errors of a network's own sums, in units of the last digit of what it gave out
_LEAK = 1e-10  # share of Tr Sigma_B outside the range of Sigma_W that rounding explains


@metric(needs=ClassMoments(), invariant={"translation", "rotation", "scaling", "linear"})
def fisher_ratio(moments: Moments, *, class_weight: Weighting = "balanced") -> dict[str, Noted]:
    r"""Fisher's discriminant ratio: between-class variance measured in units of the within-class covariance.

    .. math:: \frac1K \mathrm{Tr}(\Sigma_W^{-1} \Sigma_B)
              = \frac1K \sum_c \pi_c \, (\mu_c - \mu_G)^\top \Sigma_W^{-1} (\mu_c - \mu_G)

    Parameters
    ----------
    moments : Moments
        State of `ClassMoments` of K classes of d features.
    class_weight : {"balanced", "empirical"}, default "balanced"
        Class weights pi_c: 1/K or n_c/n, the same in Sigma_W, Sigma_B and mu_G.

    Returns
    -------
    dict of str to float
        `""`: the ratio, in [0, inf]; large: classes are linearly separable.
        `"trace"`: without the factor 1/K.
        `"pinv"`: with the pseudo-inverse of Sigma_W (features scaled to unit variance), which drops the directions in
        which no class varies; always finite, and equal to `""` where that is.

    Notes
    -----
    Where Sigma_W is singular, one of two things holds, and a note says which. If the class means do not leave the range
    of Sigma_W (dead or repeated features), the ratio on that range is exact. If they do (always with d > n - K), some
    direction separates these samples perfectly and the ratio is inf.
    Every feature is scaled to unit variance first, so units do not matter. Then eigenvalues count as zero below
    d eps lambda_max, or below what rounding in the type of the samples explains, (10 eps |x| / sd)^2: the features of a
    float32 network that depend on each other do so up to rounding, and rounding separates no classes.
    Bias: for Gaussian classes of one covariance, E[trace] = (d (K-1) + n F) / (n - K - d - 1), where F is the truth:
    with n not much above d, most of a ratio is bias. Time d^3, memory d^2.

    References
    ----------
    R. A. Fisher, "The use of multiple measurements in taxonomic problems", Annals of Eugenics 7, 1936.
    J. Zarka, F. Guth, S. Mallat, "Separation and concentration in deep networks", ICLR 2021.

    Examples
    --------
    Two classes at -1 and 1 with unit variance: Tr(Sigma_W^-1 Sigma_B) = 1.

    >>> import numpy as np
    >>> x = np.array([[-2.0], [0.0], [0.0], [2.0]])
    >>> values = fisher_ratio(ClassMoments().of(x, np.array([0, 0, 1, 1])))
    >>> round(values[""], 12), round(values["trace"], 12)
    (0.5, 1.0)
    """
    if moments.k < 2:
        return dict.fromkeys(("", "trace", "pinv"), Noted(math.nan, "needs two classes"))
    weights, means = moments.weights(class_weight), moments.centred_means(class_weight)
    within = moments.within(class_weight)
    scale = np.sqrt(np.diag(within) + weights @ np.square(means))
    alive = scale > _CONSTANT * np.abs(moments.mean).max(axis=0)
    if not alive.any():
        return dict.fromkeys(("", "trace", "pinv"), Noted(math.nan, "every feature is constant"))
    scaled = within[np.ix_(alive, alive)] / np.outer(scale[alive], scale[alive])
    magnitude = np.sqrt(np.square(moments.mean).max(axis=0) + scale**2)
    rounding = np.square(_NOISE * float(moments.resolution) * magnitude[alive] / scale[alive]).max()
    if (regular := _regular_trace(scaled, weights, means[:, alive] / scale[alive], rounding)) is not None:
        return _values(moments, regular, int(alive.sum()))
    values, vectors = eigh(scaled, overwrite_a=True, check_finite=False)
    kept = values > max(len(values) * _EPS * values[-1], rounding)
    energy = weights @ np.square((means[:, alive] / scale[alive]) @ vectors)
    trace = float((energy[kept] / values[kept]).sum())
    leak = float(energy[~kept].sum() / energy.sum()) if energy.sum() > 0 else 0.0
    rank = int(kept.sum())
    if leak <= _LEAK:
        return _values(moments, trace, rank)
    lacking = f"the within-class covariance has rank {rank} of {moments.d}"
    perfect = Noted(math.inf, f"{lacking} and class means differ outside its range: {moments.n} samples separate perfectly")
    dropped = f"{lacking}; {leak:.2%} of the between-class variance, outside its range, is dropped"
    return {"": perfect, "trace": perfect, "pinv": Noted(trace / moments.k, dropped)}


def _regular_trace(
    within: NDArray[np.float64], weights: NDArray[np.float64], means: NDArray[np.float64], rounding: float
) -> float | None:
    """Tr(Sigma_W^-1 Sigma_B) by Cholesky, 20 times faster than by eigenvalues; None if Sigma_W is near singular."""
    upper, failed = lapack.dpotrf(within, clean=0)
    if failed:
        return None
    norm = np.abs(within).sum(axis=0).max()
    inverse_condition, _ = lapack.dpocon(upper, norm)
    if inverse_condition < 10 * max(len(within) * _EPS, rounding / norm):
        return None
    half = solve_triangular(upper, means.T, trans=1, check_finite=False)
    return float(np.square(half).sum(axis=0) @ weights)


def _values(moments: Moments, trace: float, rank: int) -> dict[str, Noted]:
    """The variants of a ratio that is exact on the range of Sigma_W."""
    note = f"on the range of the within-class covariance, rank {rank} of {moments.d}; class means stay in it"
    note = note if rank < moments.d else ""
    return {"": Noted(trace / moments.k, note), "trace": Noted(trace, note), "pinv": Noted(trace / moments.k, note)}

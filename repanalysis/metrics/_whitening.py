r"""Class means in units of the within-class covariance: Sigma_W^{-1/2} (mu_c - mu_G), where Sigma_W may be singular.

Their weighted squared lengths sum to the Fisher trace, each is a class's own share, and the squared distance of two is the
squared Mahalanobis distance of the classes. Sigma_W is singular in one of two ways: either class means do not leave its
range (dead or repeated features), and everything is exact on the range; or they do (always with d > n - K), and some
direction separates the samples perfectly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.linalg import eigh, lapack, solve_triangular

from repanalysis.statistics import ClassGeometry, Weighting

__all__ = ["Whitened", "cholesky", "whitened"]

_EPS = float(np.finfo(np.float64).eps)
_CONSTANT = 1e-12  # a feature whose spread is below this share of its magnitude is constant up to rounding
_NOISE = 10.0  # rounding errors of a network's own sums, in units of the last digit of what it gave out
_LEAK = 1e-10  # share of Tr Sigma_B outside the range of Sigma_W that rounding explains


class Whitened(NamedTuple):
    """Whitened class means.

    Attributes
    ----------
    means : (K, r) float64
        Sigma_W^{-1/2} (mu_c - mu_G) on the range of Sigma_W.
    lost : (K, m) float64
        What of mu_c - mu_G (features scaled to unit variance) lies outside that range; m = 0 where that is rounding.
    rank : int
        Of Sigma_W.
    leak : float
        Share of the between-class variance outside the range; 0 where that is rounding.
    """

    means: Float64[np.ndarray, "K r"]
    lost: Float64[np.ndarray, "K m"]
    rank: int
    leak: float


def whitened(
    moments: ClassGeometry, class_weight: Weighting, *, ridge: float = 0.0, within: NDArray[np.float64] | None = None
) -> Whitened | None:
    """Whiten the class means; None if every feature is constant.

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features.
    class_weight : {"balanced", "empirical"}
        Class weights pi_c.
    ridge : float, default 0
        a: whiten by Sigma_W + a Tr(Sigma_W)/d I instead; then nothing is singular.
    within : (s, s) array, optional
        An estimate of Sigma_W to use instead of the moments' own.

    Notes
    -----
    Without a ridge every feature is scaled to unit variance first, so units do not matter. Then eigenvalues count as zero
    below d eps lambda_max, or below what rounding in the type of the samples explains, (10 eps |x| / sd)^2.
    """
    weights, means = moments.weights(class_weight), moments.centred_means(class_weight)
    own = within is None
    within = moments.within(class_weight) if within is None else within
    if ridge > 0:
        shift = ridge * np.trace(within) / moments.d
        within[np.diag_indices_from(within)] += shift
        if not shift > 0:
            return Whitened(means[:, :0], means, 0, 1.0) if means.any() else None
    # Where features are constant, subtracting rank-1 terms may leave a variance of -1e-20.
    scale = np.sqrt(np.maximum(np.diag(within), 0.0) + weights @ np.square(means))
    alive = scale > _CONSTANT * np.abs(moments.mean).max(axis=0)
    if not alive.any():
        return None
    scaled = within[np.ix_(alive, alive)] / np.outer(scale[alive], scale[alive])
    means = means[:, alive] / scale[alive]
    magnitude = np.sqrt(np.square(moments.mean).max(axis=0) + scale**2)
    rounding = np.square(_NOISE * float(moments.resolution) * magnitude[alive] / scale[alive]).max() if own else 0.0
    if ridge > 0:
        rounding = 0.0
    if (regular := _by_cholesky(scaled, means, rounding)) is not None:
        return Whitened(regular, means[:, :0], int(alive.sum()), 0.0)
    values, vectors = eigh(scaled, overwrite_a=True, check_finite=False)
    kept = values > max(len(values) * _EPS * values[-1], rounding)
    turned = means @ vectors
    energy = weights @ np.square(turned)
    leak = float(energy[~kept].sum() / energy.sum()) if energy.sum() > 0 else 0.0
    lost = turned[:, ~kept] if leak > _LEAK else turned[:, :0]
    return Whitened(turned[:, kept] / np.sqrt(values[kept]), lost, int(kept.sum()), leak if leak > _LEAK else 0.0)


def cholesky(moments: ClassGeometry, class_weight: Weighting = "empirical") -> NDArray[np.float64] | None:
    """Upper factor U of Sigma_W = U^T U, so that rows z become white as U^-T z; None if Sigma_W is near singular."""
    within = moments.within(class_weight)
    diagonal = np.diag(within)
    if not (diagonal > _CONSTANT * np.square(moments.mean).max(axis=0)).all() or not diagonal.all():
        return None
    upper, failed = lapack.dpotrf(within, clean=1)
    if failed or lapack.dpocon(upper, np.abs(within).sum(axis=0).max())[0] < 10 * len(within) * _EPS:
        return None
    found: NDArray[np.float64] = upper
    return found


def _by_cholesky(within: NDArray[np.float64], means: NDArray[np.float64], rounding: float) -> NDArray[np.float64] | None:
    """Whitened means, 20 times faster than by eigenvalues; None if Sigma_W is near singular."""
    upper, failed = lapack.dpotrf(within, clean=0)
    if failed:
        return None
    norm = np.abs(within).sum(axis=0).max()
    inverse_condition, _ = lapack.dpocon(upper, norm)
    if inverse_condition < 10 * max(len(within) * _EPS, rounding / norm):
        return None
    half: NDArray[np.float64] = solve_triangular(upper, means.T, trans=1, check_finite=False)
    return half.T

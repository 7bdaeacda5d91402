r"""Class means in units of the within-class covariance: Sigma_W^{-1/2} (mu_c - mu_G), where Sigma_W may be singular.

Their weighted squared lengths sum to the Fisher trace; the term of a class is its contribution, and the squared distance of two
is the squared Mahalanobis distance of the classes. If Sigma_W is singular, there are two cases. Class means stay in its range
(dead or repeated features), and everything is exact on the range; or they leave it (always with d > n - K), and some direction
separates the samples perfectly.

Features are scaled to unit variance first, so units do not matter. A direction v then belongs to the range of Sigma_W if its
variance exceeds the errors of float64 and of the rounding of the samples (`statistics/rounding.py`),

    v^T Sigma_W v > max(d eps lambda_max, (1 + sqrt(d/n))^2 sum_j v_j^2 rounding_j / sd_j^2),

or if it exceeds the first bound and the between-class variance along v exceeds the corresponding bound for K means. Class means
leave the range if the between-class variance in the null space of Sigma_W, up to float64, exceeds that bound.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.linalg import eigh, lapack, solve_triangular

from repanalysis.statistics import ClassGeometry, Weighting
from repanalysis.statistics.geometry import padded
from repanalysis.statistics.rounding import largest_eigenvalue

__all__ = ["Whitened", "cholesky", "whitened"]

_EPS = float(np.finfo(np.float64).eps)
_CONSTANT = 1e-12  # a feature whose standard deviation is below this share of its magnitude is constant up to rounding
_LEAK = 1e-10  # share of Tr Sigma_B outside the range of Sigma_W that the rounding of eigenvectors explains


class Whitened(NamedTuple):
    """Whitened class means.

    Attributes
    ----------
    means : (K, r) float64
        Sigma_W^{-1/2} (mu_c - mu_G) on the range of Sigma_W.
    outside : (K, m) float64
        Component of mu_c - mu_G (features scaled to unit variance) outside that range, in the m directions in which it
        exceeds rounding.
    rank : int
        Rank of Sigma_W.
    leakage : float
        Share of the between-class variance outside the range; 0 if rounding explains it.
    n_rounded : int
        Number of directions whose within-class variance rounding explains.
    """

    means: Float64[np.ndarray, "K r"]
    outside: Float64[np.ndarray, "K m"]
    rank: int
    leakage: float
    n_rounded: int = 0


def whitened(
    moments: ClassGeometry,
    class_weight: Weighting,
    *,
    ridge: float = 0.0,
    within: NDArray[np.float64] | None = None,
    centre: Weighting | None = None,
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
    within : (d, d) array, optional
        An estimate of Sigma_W to use instead of the moments' own.
    centre : {"balanced", "empirical"}, optional
        Class weights in mu_G, if they differ from those in Sigma_W.
    """
    centre = centre or class_weight
    d, samples_round = moments.d, within is None and not ridge > 0
    if ridge > 0:
        moments = moments.isometric()  # a ridge is the same in all orthonormal coordinates
        within = moments.within(class_weight) if within is None else within
        shift = ridge * np.trace(within) / d
        within[np.diag_indices_from(within)] += shift
        if not shift > 0:
            means = moments.centred_means(centre)
            return Whitened(means[:, :0], means, 0, 1.0) if means.any() else None
    weights, means = moments.weights(centre), moments.centred_means(centre)
    variances = moments.feature_variances(class_weight) if within is None else np.diag(within)
    # Where features are constant, subtracting rank-1 terms may leave a variance of -1e-20.
    scale = np.sqrt(np.maximum(variances, 0.0) + weights @ np.square(means))
    rounding = moments.rounding() if samples_round else np.zeros(moments.d)
    alive = (scale > _CONSTANT * np.abs(moments.mean).max(axis=0)) & (np.square(scale) > rounding)
    if not alive.any():
        return None
    scale = np.where(alive, scale, 0.0)
    units = np.where(alive, scale, 1.0)
    means, rounding = np.where(alive, means / units, 0.0), np.where(alive, rounding / units**2, 0.0)
    noise = rounding * largest_eigenvalue(moments.n, int(alive.sum()))
    if within is None and moments.n > moments.d:
        within = moments.within(class_weight)
    if within is None:
        values, vectors = moments.spectrum("class", class_weight, scale)
    else:
        within = within[np.ix_(alive, alive)] / np.outer(scale[alive], scale[alive])
        if (regular := _by_cholesky(within, means[:, alive], noise[alive])) is not None:
            return Whitened(regular, means[:, :0], int(alive.sum()), 0.0)
        values, vectors = eigh(within, overwrite_a=True, check_finite=False)
        vectors = padded(vectors, alive)
    zero = len(values) * _EPS * values.max(initial=0.0)
    squares, along = np.square(vectors), means @ vectors
    above = values > np.maximum(zero, noise @ squares)
    # Directions whose within-class variance is rounding count nevertheless if class means differ there by more than rounding.
    above |= (values > zero) & (weights @ np.square(along) > rounding @ squares * largest_eigenvalue(moments.k, moments.d))
    spanned = values > zero
    outside, leakage = _outside(means - along[:, spanned] @ vectors[:, spanned].T, means, weights, rounding)
    return Whitened(along[:, above] / np.sqrt(values[above]), outside, int(above.sum()), leakage, int((spanned & ~above).sum()))


def _outside(
    outside: NDArray[np.float64], means: NDArray[np.float64], weights: NDArray[np.float64], rounding: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Class means outside a range where they exceed rounding, in principal directions (K, m), and their variance share."""
    total = float(weights @ np.square(means).sum(axis=1))
    if not total > 0:
        return means[:, :0], 0.0
    rows = outside * np.sqrt(weights)[:, None]
    energy, vectors = eigh(rows @ rows.T, check_finite=False)
    positive = energy > _LEAK * total
    energy, vectors = energy[positive], rows.T @ vectors[:, positive] / np.sqrt(energy[positive])
    allowed = rounding @ np.square(vectors) * largest_eigenvalue(int((weights > 0).sum()), means.shape[1])
    above = energy > allowed
    return outside @ vectors[:, above], float(energy[above].sum()) / total


def cholesky(moments: ClassGeometry, rounding: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Upper factor U of Sigma_W = U^T U, such that U^-T z is white; None if Sigma_W is near singular.

    Classes weigh n_c/n; `rounding` is the variance that rounding may have added to every feature, (d,).
    """
    within, noise = moments.within("empirical"), rounding * largest_eigenvalue(moments.n, moments.d)
    diagonal = np.diag(within)
    if not (diagonal > _CONSTANT * np.square(moments.mean).max(axis=0)).all() or not diagonal.all():
        return None
    upper, failed = lapack.dpotrf(within, clean=1)
    if failed or lapack.dpocon(upper, np.abs(within).sum(axis=0).max())[0] < 10 * len(within) * _EPS:
        return None
    if not _above(within, noise):
        return None
    factor: NDArray[np.float64] = upper
    return factor


def _by_cholesky(
    within: NDArray[np.float64], means: NDArray[np.float64], noise: NDArray[np.float64]
) -> NDArray[np.float64] | None:
    """Whitened means by Cholesky, 20 times faster than by eigenvalues; None if Sigma_W is near singular."""
    upper, failed = lapack.dpotrf(within, clean=0)
    if failed:
        return None
    norm = np.abs(within).sum(axis=0).max()
    inverse_condition, _ = lapack.dpocon(upper, norm)
    if inverse_condition < 10 * len(within) * _EPS:
        return None
    if inverse_condition < 10 * noise.max() / norm and not _above(within, noise):
        return None
    half: NDArray[np.float64] = solve_triangular(upper, means.T, trans=1, check_finite=False)
    return half.T


def _above(within: NDArray[np.float64], noise: NDArray[np.float64]) -> bool:
    """Whether the variance in every direction is above that of noise: Sigma_W - diag(noise) is positive definite."""
    rest = within.copy()
    rest[np.diag_indices_from(rest)] -= noise
    return not lapack.dpotrf(rest, overwrite_a=1, clean=0)[1]

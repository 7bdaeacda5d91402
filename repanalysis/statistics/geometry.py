"""Geometry of classes: the interface of counts, means and scatters that metrics use.

`Moments` implements it with the scatter of every class, `RowMoments` with the rows. Metrics work with either.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy.linalg import blas, eigh

from repanalysis._checks import one_of

__all__ = ["About", "ClassGeometry", "Weighting", "add_products", "full", "padded", "subtract_product"]

Weighting = Literal["balanced", "empirical"]
About = Literal["class", "mean", "origin"]


class ClassGeometry(ABC):
    """K classes of d features.

    Attributes
    ----------
    classes, counts : (K,) int64
        Labels, ascending, and samples per class, n_c.
    mean : (K, d) float64
        Class means mu_c.
    scatter_trace : (K,) float64
        Traces of the class scatters, sum_i ||z_i - mu_c||^2.
    resolution : (2,) float64
        Coefficients (a, b) of the rounding variance for the coarsest dtype of the samples (`rounding.py`).
    """

    __slots__ = ()

    classes: Int64[np.ndarray, " K"]
    counts: Int64[np.ndarray, " K"]
    mean: Float64[np.ndarray, "K d"]
    scatter_trace: Float64[np.ndarray, " K"]
    resolution: Float64[np.ndarray, 2]

    @property
    def n(self) -> int:
        """Number of samples."""
        return int(self.counts.sum())

    @property
    def d(self) -> int:
        """Number of features."""
        return int(self.mean.shape[1])

    @property
    def k(self) -> int:
        """Number of classes that have samples."""
        return int((self.counts > 0).sum())

    def weights(self, class_weight: Weighting = "balanced") -> NDArray[np.float64]:
        """Class weights pi_c, (K,): 1/K ("balanced") or n_c/n ("empirical"); 0 for a class without samples."""
        one_of("class_weight", class_weight, ("balanced", "empirical"))
        mass: NDArray[np.float64] = np.array(self.counts > 0 if class_weight == "balanced" else self.counts, np.float64)
        mass /= max(mass.sum(), 1.0)
        return mass

    def centred_means(self, class_weight: Weighting = "balanced") -> NDArray[np.float64]:
        """mu_c - mu_G, (K, d), with mu_G = sum_c pi_c mu_c."""
        centred: NDArray[np.float64] = self.mean - self.weights(class_weight) @ self.mean
        return centred

    def variances(self) -> NDArray[np.float64]:
        """Tr Sigma_c, (K,): mean squared distance of the samples of a class from their mean."""
        traces: NDArray[np.float64] = self.scatter_trace / np.maximum(self.counts, 1)
        return traces

    def traces(self, class_weight: Weighting = "balanced") -> tuple[float, float]:
        """Tr Sigma_W = sum_c pi_c Tr Sigma_c, and Tr Sigma_B = sum_c pi_c ||mu_c - mu_G||^2.

        Both are 0 if rounding explains their sum.
        """
        weights = self.weights(class_weight)
        between = float(weights @ np.square(self.centred_means(class_weight)).sum(axis=1))
        within = float(weights @ self.variances())
        share, variance = self.resolution
        rounding = share * (within + float(weights @ np.square(self.mean).sum(axis=1))) + self.d * variance
        return (within, between) if within + between > rounding else (0.0, 0.0)

    def within(self, class_weight: Weighting = "balanced") -> NDArray[np.float64]:
        """Sigma_W = sum_c pi_c Sigma_c, (d, d)."""
        return full(self.scatter_sum(self.weights(class_weight) / np.maximum(self.counts, 1)))

    def total(self) -> NDArray[np.float64]:
        """Covariance of all samples about their common mean, (d, d), ddof = 0."""
        lower = self.scatter_sum(np.full(len(self.counts), 1.0 / max(self.n, 1)))
        add_products(lower, self.centred_means("empirical") * np.sqrt(self.weights("empirical"))[:, None])
        return full(lower)

    def second(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum_c f_c sum_i z_i z_i^T, uncentred, (d, d); only the lower triangle is filled."""
        lower = self.scatter_sum(factors)
        add_products(lower, self.mean * np.sqrt(factors * self.counts)[:, None])
        return lower

    def second_of(self, k: int, factor: float) -> NDArray[np.float64]:
        """A matrix with the nonzero spectrum of f Z_k^T Z_k (the Gram matrix if smaller); only the lower triangle is filled."""
        factors = np.zeros(len(self.counts))
        factors[k] = factor
        return self.second(factors)

    def matrix(self, about: About, class_weight: Weighting = "empirical") -> NDArray[np.float64]:
        """Second moment about the class means (Sigma_W), the common mean or the origin, (d, d)."""
        if about == "class":
            return self.within(class_weight)
        if about == "mean":
            return self.total()
        return full(self.second(np.full(len(self.counts), 1.0 / max(self.n, 1))))

    def rounding(self) -> NDArray[np.float64]:
        """Variance that rounding may have added to every feature, (d,)."""
        share, variance = self.resolution
        counts = self.counts / max(self.n, 1)
        variances: NDArray[np.float64] = share * (self.feature_variances() + counts @ np.square(self.mean)) + variance
        return variances

    def rounding_of_means(self) -> NDArray[np.float64]:
        """Variance that rounding may have added to every feature of a class mean, (d,).

        The errors of n_c samples average out, unless a class varies so little that rounding is the same for all its samples.
        """
        rounding = self.rounding()
        fewest = self.counts[self.counts > 0].min(initial=max(self.n, 1))
        variances: NDArray[np.float64] = np.where(self.feature_variances() > rounding, rounding / fewest, rounding)
        return variances

    @abstractmethod
    def scatter_sum(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum_c f_c S_c, (d, d), a new array; only the lower triangle is filled."""

    @abstractmethod
    def feature_variances(self, class_weight: Weighting = "empirical") -> NDArray[np.float64]:
        """Variance of every feature about its class means, the diagonal of Sigma_W, (d,)."""

    def variance_along(self, directions: NDArray[np.float64], class_weight: Weighting = "balanced") -> NDArray[np.float64]:
        """v^T Sigma_W v of every column v of `directions` (d, r), (r,)."""
        products = blas.dsymm(1.0, self.within(class_weight), directions)
        variances: NDArray[np.float64] = np.einsum("dr,dr->r", directions, products)
        return variances

    def spectrum(
        self, about: About, class_weight: Weighting = "empirical", scale: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eigenvalues, ascending, and eigenvectors (d, r) of a second moment, without the null space of n < d samples.

        Parameters
        ----------
        about : {"class", "mean", "origin"}
            The centre: class means (gives Sigma_W), the common mean (the covariance of all samples) or 0.
        class_weight : {"balanced", "empirical"}, default "empirical"
            Weights of the classes in Sigma_W.
        scale : (d,) array, optional
            Divisor of every feature. Features of scale 0 are dropped; their rows in the eigenvectors are 0.
        """
        matrix = self.matrix(about, class_weight)
        alive = np.ones(len(matrix), bool) if scale is None else scale > 0
        if scale is not None:
            matrix = matrix[np.ix_(alive, alive)] / np.outer(scale[alive], scale[alive])
        values, vectors = eigh(matrix, overwrite_a=True, check_finite=False)
        return values, vectors if alive.all() else padded(vectors, alive)

    @abstractmethod
    def isometric(self) -> ClassGeometry:
        """The same classes in the fewest orthonormal coordinates that keep all scalar products of the n samples.

        For rotation-invariant metrics: coordinates are no longer the original features.
        """

    @abstractmethod
    def at_resolution(self, resolution: NDArray[np.float64]) -> ClassGeometry:
        """A copy whose `resolution` is at least the given one, for samples that were rounded before they were stored."""


def add_products(lower: Float64[np.ndarray, "s s"], rows: Float64[np.ndarray, "*m d"]) -> None:
    """Add rows^T rows to the lower triangle, in place and without a temporary."""
    if not lower.size or not rows.size:
        return
    upper = lower.T  # BLAS is column-major: the upper triangle of this view is the lower one
    if rows.ndim == 1:
        out: Any = blas.dsyr(1.0, rows, a=upper, overwrite_a=1)
    else:
        out = blas.dsyrk(1.0, rows.T, beta=1.0, c=upper, overwrite_c=1)
    if not np.may_share_memory(out, lower):
        raise MemoryError("BLAS worked on a copy of the scatter; its rows must be contiguous.")


def subtract_product(lower: Float64[np.ndarray, "s s"], row: Float64[np.ndarray, " d"]) -> None:
    """Subtract row^T row from the lower triangle, in place."""
    if lower.size and not np.may_share_memory(blas.dsyr(-1.0, row, a=lower.T, overwrite_a=1), lower):
        raise MemoryError("BLAS worked on a copy of the scatter; its rows must be contiguous.")


def padded(vectors: NDArray[np.float64], alive: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Extend vectors (m, r) of the m features in `alive` to all d features, with zeros."""
    whole = np.zeros((len(alive), vectors.shape[1]))
    whole[alive] = vectors
    return whole


def full(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric matrix with the given lower triangle; the upper one must be 0."""
    both: NDArray[np.float64] = lower + lower.T
    both.flat[:: len(both) + 1] *= 0.5
    return both

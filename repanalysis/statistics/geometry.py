"""Geometry of classes: what metrics ask of counts, means and scatters, wherever these come from.

`Moments` answers from the scatter of every class, `RowMoments` from the rows themselves. A metric can't tell them apart.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy.linalg import blas

from repanalysis._checks import one_of

__all__ = ["ClassGeometry", "Weighting", "add_products", "full", "subtract_product"]

Weighting = Literal["balanced", "empirical"]


class ClassGeometry(ABC):
    """K classes of d features.

    Attributes
    ----------
    classes, counts : (K,) int64
        Labels, ascending, and samples per class, n_c.
    mean : (K, s) float64
        Class means mu_c, in coordinates of which there may be fewer than features.
    spread : (K,) float64
        Traces of the class scatters, sum_i ||z_i - mu_c||^2.
    resolution : () float64
        Machine epsilon of the coarsest type that samples came in: what of a small variance is rounding.
    """

    __slots__ = ()

    classes: Int64[np.ndarray, " K"]
    counts: Int64[np.ndarray, " K"]
    mean: Float64[np.ndarray, "K s"]
    spread: Float64[np.ndarray, " K"]
    resolution: Float64[np.ndarray, ""]

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
        """Class weights pi_c, (K,): 1/K ("balanced") or n_c/n ("empirical"); a class without samples has none."""
        one_of("class_weight", class_weight, ("balanced", "empirical"))
        mass: NDArray[np.float64] = np.array(self.counts > 0 if class_weight == "balanced" else self.counts, np.float64)
        mass /= max(mass.sum(), 1.0)
        return mass

    def centred_means(self, class_weight: Weighting = "balanced") -> NDArray[np.float64]:
        """mu_c - mu_G, (K, s), with mu_G = sum_c pi_c mu_c."""
        centred: NDArray[np.float64] = self.mean - self.weights(class_weight) @ self.mean
        return centred

    def variances(self) -> NDArray[np.float64]:
        """Tr Sigma_c, (K,): mean squared distance of the samples of a class from their mean."""
        found: NDArray[np.float64] = self.spread / np.maximum(self.counts, 1)
        return found

    def traces(self, class_weight: Weighting = "balanced") -> tuple[float, float]:
        """Tr Sigma_W = sum_c pi_c Tr Sigma_c, and Tr Sigma_B = sum_c pi_c ||mu_c - mu_G||^2."""
        weights = self.weights(class_weight)
        between = weights @ np.square(self.centred_means(class_weight)).sum(axis=1)
        return float(weights @ self.variances()), float(between)

    def within(self, class_weight: Weighting = "balanced") -> NDArray[np.float64]:
        """Sigma_W = sum_c pi_c Sigma_c, (s, s)."""
        return full(self.scatter_sum(self.weights(class_weight) / np.maximum(self.counts, 1)))

    def total(self) -> NDArray[np.float64]:
        """Covariance of all samples about their common mean, (s, s), ddof = 0."""
        lower = self.scatter_sum(np.full(len(self.counts), 1.0 / max(self.n, 1)))
        add_products(lower, self.centred_means("empirical") * np.sqrt(self.weights("empirical"))[:, None])
        return full(lower)

    def second(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum_c f_c sum_i z_i z_i^T, uncentred, (s, s); only the lower triangle is filled."""
        lower = self.scatter_sum(factors)
        add_products(lower, self.mean * np.sqrt(factors * self.counts)[:, None])
        return lower

    def second_of(self, k: int, factor: float) -> NDArray[np.float64]:
        """A matrix whose nonzero eigenvalues are those of f sum_i z_i z_i^T of class k; only its lower triangle is filled."""
        factors = np.zeros(len(self.counts))
        factors[k] = factor
        return self.second(factors)

    @abstractmethod
    def scatter_sum(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum_c f_c S_c, (s, s), a new array; only the lower triangle is filled."""


def add_products(lower: Float64[np.ndarray, "s s"], rows: Float64[np.ndarray, "*m d"]) -> None:
    """Add rows^T rows to the lower triangle, in place and without a temporary."""
    if not lower.size or not rows.size:
        return
    upper = lower.T  # BLAS counts columns first: the upper triangle of this view is the lower one
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


def full(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric matrix of which the lower triangle is given, the upper one being 0."""
    both: NDArray[np.float64] = lower + lower.T
    both.flat[:: len(both) + 1] *= 0.5
    return both

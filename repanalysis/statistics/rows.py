r"""Rows: keeps every sample, for many classes, whose scatters would take more memory than the samples.

No array has size K d^2, and none d^2 if n < d. A sum of scatters is one product of weighted rows. The
second moment of a class of n_c < d samples is replaced by its Gram matrix Z_c Z_c^T, which has the same nonzero eigenvalues
(n_c x n_c). Where n < d, eigenvectors V come from the Gram matrix of weighted rows A,

    A A^T = U Lambda U^T,   V = A^T U Lambda^{-1/2},

and rotation-invariant metrics can use the rows in n + 1 orthonormal coordinates (`isometric`). Rows, means and eigenvectors
are always in the coordinates of the features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Int, Int64, Shaped
from numpy.typing import NDArray
from scipy.linalg import blas, eigh, qr

from probes.ids import Ids
from repanalysis.statistics.base import Statistic
from repanalysis.statistics.draws import JACKKNIFE_SEED, hashed
from repanalysis.statistics.geometry import About, ClassGeometry, Weighting, add_products
from repanalysis.statistics.moments import ClassMoments
from repanalysis.statistics.samples import Reservoir, Samples

__all__ = ["RowMoments", "Rows"]

_BLOCK_BYTES = 8 << 20
_MIN_NORM = 1e-8
_EPS = float(np.finfo(np.float64).eps)


class RowMoments(ClassGeometry):
    """Class geometry computed from rows on demand.

    Parameters
    ----------
    x : (n, d) array
        Rows, sorted by class, in their original dtype.
    labels : (n,) int64
        Their classes, ascending.
    groups : (n,) uint64
        Hashes that determine the jackknife groups.
    resolution : (2,) float64
        Coefficients (a, b) of the rounding variance (`rounding.py`).
    coordinates : (n, s) array, optional
        The rows in orthonormal coordinates, if already computed.
    """

    __slots__ = ("__dict__", "_latest", "classes", "counts", "groups", "labels", "resolution", "x")

    def __init__(
        self,
        x: Float[np.ndarray, "n d"],
        labels: Int64[np.ndarray, " n"],
        groups: NDArray[np.uint64],
        resolution: Float64[np.ndarray, 2],
        coordinates: NDArray[np.float64] | None = None,
    ) -> None:
        self.x, self.labels, self.groups, self.resolution = x, labels, groups, resolution
        self.classes, self.counts = np.unique(labels, return_counts=True)
        self._latest: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        if coordinates is not None:
            self._coordinates = coordinates

    @property
    def d(self) -> int:
        """Number of features."""
        return int(self.x.shape[1])

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.counts)])

    @cached_property
    def mean(self) -> NDArray[np.float64]:  # type: ignore[override]  # a cached attribute
        """Class means, (K, d)."""
        means = np.empty((len(self.counts), self.x.shape[1]))
        for k, (lo, hi) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            first = self.x[lo].astype(np.float64)  # so that an offset costs no digits
            means[k] = first + (self.x[lo:hi] - first).mean(axis=0)
        return means

    @cached_property
    def scatter_trace(self) -> NDArray[np.float64]:  # type: ignore[override]
        """Traces of the class scatters, (K,)."""
        traces = np.zeros(len(self.counts))
        for z, classes in self._centred():
            np.add.at(traces, classes, np.einsum("nd,nd->n", z, z))
        return traces

    def feature_variances(self, class_weight: Weighting = "empirical") -> NDArray[np.float64]:
        """Variance of every feature about its class means, the diagonal of Sigma_W, (d,)."""
        factors, variances = self._factors(class_weight), np.zeros(self.d)
        for z, classes in self._centred():
            variances += factors[classes] @ np.square(z)
        return variances

    def scatter_sum(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum_c f_c S_c, (d, d), a new array; only the lower triangle is filled.

        The latest product is reused for proportional factors; for classes of equal size all factors are proportional.
        """
        if self._latest is not None:
            factors_of_latest, lower = self._latest
            scale = float(factors.max() / factors_of_latest.max()) if factors_of_latest.max() > 0 else 0.0
            if scale > 0 and np.allclose(factors, scale * factors_of_latest, rtol=1e-13, atol=0.0):
                return lower * scale
        lower = self._product(factors)
        self._latest = factors.copy(), lower
        return lower.copy()

    def _product(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        side = self.x.shape[1]
        lower = np.zeros((side, side))
        for z, classes in self._centred():
            add_products(lower, z * np.sqrt(factors[classes])[:, None])
        return lower

    def second_of(self, k: int, factor: float) -> NDArray[np.float64]:
        """The matrix f Z_c^T Z_c, or f Z_c Z_c^T where that is smaller; only the lower triangle is filled."""
        z = self.x[self._starts[k] : self._starts[k + 1]].astype(np.float64)
        z *= np.sqrt(factor)
        lower = np.zeros((min(z.shape),) * 2)
        if len(z) <= z.shape[1]:
            blas.dsyrk(1.0, z.T, trans=1, c=lower.T, overwrite_c=1)
        else:
            add_products(lower, z)
        return lower

    def variance_along(self, directions: NDArray[np.float64], class_weight: Weighting = "balanced") -> NDArray[np.float64]:
        """v^T Sigma_W v of every column v of `directions` (d, r), (r,)."""
        if self.n >= self.d:  # Sigma_W is cached, or other metrics need it too
            return super().variance_along(directions, class_weight)
        factors, variances = self._factors(class_weight), np.zeros(directions.shape[1])
        for z, classes in self._centred():
            variances += factors[classes] @ np.square(z @ directions)
        return variances

    def spectrum(
        self, about: About, class_weight: Weighting = "empirical", scale: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Eigenvalues, ascending, and eigenvectors (d, r) of a second moment of the features divided by `scale`.

        Where n < d, they come from the n x n Gram matrix: r <= n, without eigenvalues that are 0 up to float64 rounding.
        """
        if self.n >= self.d:
            return super().spectrum(about, class_weight, scale)
        alive = np.ones(self.d, bool) if scale is None else scale > 0
        units = np.ones(self.d) if scale is None else np.where(alive, scale, 1.0)
        rows = self._weighted(about, class_weight)
        rows /= units
        rows[:, ~alive] = 0.0
        gram = blas.dsyrk(1.0, rows.T, trans=1)
        values, vectors = eigh(gram, lower=False, overwrite_a=True, check_finite=False)
        positive = values > len(values) * _EPS * max(values[-1], 0.0)
        values = values[positive]
        return values, blas.dgemm(1.0, rows.T, vectors[:, positive]) / np.sqrt(values)

    def isometric(self) -> RowMoments:
        """The same rows in n + 1 orthonormal coordinates if d > n + 1, else itself."""
        if self.d <= self.n + 1 or not self.n:
            return self
        return self._isometric

    @cached_property
    def _isometric(self) -> RowMoments:
        return RowMoments(self._coordinates, self.labels, self.groups, self.resolution)

    @cached_property
    def _coordinates(self) -> NDArray[np.float64]:
        centre = self.x.mean(axis=0, dtype=np.float64)
        # A QR of the centred rows and their mean keeps the digits of small differences at a large offset.
        factor: Any = qr(np.vstack([self.x - centre, centre]).T, mode="r", check_finite=False, overwrite_a=True)[0]
        coordinates: NDArray[np.float64] = np.ascontiguousarray(factor[: len(self.x) + 1].T)
        coordinates[:-1] += coordinates[-1]
        return coordinates[:-1]

    def at_resolution(self, resolution: NDArray[np.float64]) -> RowMoments:
        """A copy whose `resolution` is at least the given one, for samples that were rounded before they were stored."""
        return RowMoments(self.x, self.labels, self.groups, np.maximum(self.resolution, resolution))

    def without_group(self, group: int, of: int) -> RowMoments:
        """The geometry without the samples of one group."""
        rest = self.groups % np.uint64(of) != np.uint64(group)
        coordinates = self._coordinates[rest] if "_coordinates" in self.__dict__ else None
        return RowMoments(self.x[rest], self.labels[rest], self.groups[rest], self.resolution, coordinates)

    def without_class(self, label: int) -> RowMoments:
        """The geometry without the samples of one class."""
        rest = self.labels != label
        return self if rest.all() else RowMoments(self.x[rest], self.labels[rest], self.groups[rest], self.resolution)

    def replicates(self, of: int) -> Iterator[tuple[int, RowMoments]]:
        """For every nonempty group its size, and the geometry of all samples outside it."""
        for group, size in enumerate(np.bincount((self.groups % np.uint64(of)).astype(np.int64))):
            if size:
                yield int(size), self.without_group(group, of)

    def _factors(self, class_weight: Weighting) -> NDArray[np.float64]:
        """Weight of each sample of a class in Sigma_W, (K,)."""
        factors: NDArray[np.float64] = self.weights(class_weight) / np.maximum(self.counts, 1)
        return factors

    def _weighted(self, about: About, class_weight: Weighting) -> NDArray[np.float64]:
        """Rows A (n, d) such that A^T A is the second moment."""
        if about == "class":
            index = np.repeat(np.arange(len(self.counts)), self.counts)
            rows = self.x - self.mean[index]
            rows *= np.sqrt(self._factors(class_weight))[index][:, None]
            return rows
        rows = self.x - (self.weights("empirical") @ self.mean if about == "mean" else np.zeros(self.d))
        rows /= np.sqrt(self.n)
        return rows

    def _centred(self) -> Iterator[tuple[NDArray[np.float64], NDArray[np.int64]]]:
        """Blocks of rows minus their class means, in float64, with each row's class position."""
        index = np.repeat(np.arange(len(self.counts)), self.counts)
        rows = max(64, _BLOCK_BYTES // (8 * max(1, self.x.shape[1])))
        for start in range(0, len(index), rows):
            classes = index[start : start + rows]
            yield self.x[start : start + rows] - self.mean[classes], classes


@dataclass(frozen=True)
class Rows(Statistic):
    """Every sample, finished as `RowMoments`.

    Parameters
    ----------
    normalize : {"none", "sphere"}, default "none"
        "sphere" divides every row by its Euclidean norm.

    Notes
    -----
    Memory n d in the dtype of the samples, twice that while sorting, and n d float64 for a spectrum with n < d.

    Examples
    --------
    >>> rows = Rows().of(np.array([[0.0], [2.0], [5.0]]), np.array([0, 0, 1]))
    >>> rows.mean.tolist(), rows.scatter_trace.tolist()
    ([[1.0], [5.0]], [2.0, 0.0])
    """

    normalize: Literal["none", "sphere"] = "none"

    def init(self, d: int, classes: Sequence[int] = ()) -> Reservoir:
        """The state of no samples."""
        return Samples(limit=0).init(d, classes)

    def update(self, state: Reservoir, x: Shaped[np.ndarray, "n d"], y: Int[np.ndarray, " n"], ids: Ids) -> Reservoir:
        """The state after the rows of `x`; `state` is consumed."""
        return Samples(limit=0).update(state, x, y, ids)

    def merge(self, a: Reservoir, b: Reservoir) -> Reservoir:
        """The state of the samples of both."""
        return Samples(limit=0).merge(a, b)

    def finish(self, state: Reservoir) -> RowMoments:
        """The rows sorted by class, and by hash within a class."""
        count = int(state.rows)
        hashes = hashed(state.ids[:count], JACKKNIFE_SEED)
        order = np.lexsort((hashes, state.labels[:count]))
        x = state.x[order]
        if self.normalize == "sphere":
            norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
            x = x / np.where(norms > _MIN_NORM, norms, 1.0)
        return RowMoments(x, state.labels[order], hashes[order], state.resolution)

    def state_bytes(self, d: int, k: int, n: int = 0) -> int:
        """Bytes of n float32 samples while sorting."""
        return 2 * n * (4 * d + 24)

    def covers(self, other: Statistic) -> bool:
        """Rows can replace class moments of the same normalisation."""
        return self == other or (isinstance(other, ClassMoments) and other.normalize == self.normalize)

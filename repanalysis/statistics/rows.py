r"""Rows: every sample kept, for classes so many that a scatter for each would weigh more than the samples do.

Nothing of size K d^2 is made. A sum of scatters is one product of weighted rows; the second moment of a class of n_c < d
samples is replaced by its Gram matrix Z_c Z_c^T, which has the same nonzero eigenvalues (n_c x n_c); and where n < d, all
rows are first expressed in n + 1 coordinates by an orthogonal map, which no metric that looks at a scatter can notice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int, Int64, Shaped
from numpy.typing import NDArray
from scipy.linalg import blas, qr

from repanalysis.statistics.base import Statistic
from repanalysis.statistics.draws import GROUP, hashed
from repanalysis.statistics.geometry import ClassGeometry, add_products
from repanalysis.statistics.moments import ClassMoments
from repanalysis.statistics.samples import Kept, Samples

__all__ = ["RowMoments", "Rows"]

_BLOCK_BYTES = 8 << 20
_MIN_NORM = 1e-8


class RowMoments(ClassGeometry):
    """Class geometry computed from rows, when it is asked for.

    Parameters
    ----------
    x : (n, s) array
        Rows, sorted by class, in the type they came in.
    labels : (n,) int64
        Their classes, ascending.
    groups : (n,) uint64
        Hashes by which samples are left out together.
    features : int
        d; the rows may have fewer coordinates.
    resolution : () float64
        Machine epsilon of the type that samples came in.
    """

    __slots__ = ("__dict__", "_latest", "classes", "counts", "features", "groups", "labels", "resolution", "x")

    def __init__(
        self,
        x: Float[np.ndarray, "n s"],
        labels: Int64[np.ndarray, " n"],
        groups: NDArray[np.uint64],
        features: int,
        resolution: NDArray[np.float64],
    ) -> None:
        self.x, self.labels, self.groups, self.features, self.resolution = x, labels, groups, features, resolution
        self.classes, self.counts = np.unique(labels, return_counts=True)
        self._latest: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    @property
    def d(self) -> int:
        """Number of features."""
        return self.features

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.concatenate([[0], np.cumsum(self.counts)])

    @cached_property
    def mean(self) -> NDArray[np.float64]:  # type: ignore[override]  # a cached attribute
        """Class means, (K, s)."""
        means = np.empty((len(self.counts), self.x.shape[1]))
        for k, (lo, hi) in enumerate(zip(self._starts, self._starts[1:], strict=False)):
            first = self.x[lo].astype(np.float64)  # so that an offset costs no digits
            means[k] = first + (self.x[lo:hi] - first).mean(axis=0)
        return means

    @cached_property
    def spread(self) -> NDArray[np.float64]:  # type: ignore[override]
        """Traces of the class scatters, (K,)."""
        found = np.zeros(len(self.counts))
        for z, classes in self._centred():
            np.add.at(found, classes, np.einsum("nd,nd->n", z, z))
        return found

    def scatter_sum(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum_c f_c S_c, (s, s), a new array; only the lower triangle is filled.

        Factors of which the latest were a multiple, as all are where classes are equally large, need no new product.
        """
        if self._latest is not None:
            known, lower = self._latest
            scale = float(factors.max() / known.max()) if known.max() > 0 else 0.0
            if scale > 0 and np.allclose(factors, scale * known, rtol=1e-13, atol=0.0):
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

    def without_group(self, group: int, of: int) -> RowMoments:
        """The same of the samples that are not in a group."""
        rest = self.groups % np.uint64(of) != np.uint64(group)
        return RowMoments(self.x[rest], self.labels[rest], self.groups[rest], self.features, self.resolution)

    def replicates(self, of: int) -> Iterator[tuple[int, RowMoments]]:
        """Size of every group that has samples, and the geometry of all others."""
        for group, size in enumerate(np.bincount((self.groups % np.uint64(of)).astype(np.int64))):
            if size:
                yield int(size), self.without_group(group, of)

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
    Memory n d in the type of the samples, twice that while it is sorted.

    Examples
    --------
    >>> rows = Rows().of(np.array([[0.0], [2.0], [5.0]]), np.array([0, 0, 1]))
    >>> rows.mean.tolist(), rows.spread.tolist()
    ([[1.0], [5.0]], [2.0, 0.0])
    """

    normalize: Literal["none", "sphere"] = "none"

    def init(self, d: int, classes: Sequence[int] = ()) -> Kept:
        """The state of no samples."""
        return Samples(limit=0).init(d, classes)

    def update(self, state: Kept, x: Shaped[np.ndarray, "n d"], y: Int[np.ndarray, " n"], ids: Int[np.ndarray, " n"]) -> Kept:
        """The state after the rows of `x`; `state` is consumed."""
        return Samples(limit=0).update(state, x, y, ids)

    def merge(self, a: Kept, b: Kept) -> Kept:
        """The state of the samples of both."""
        return Samples(limit=0).merge(a, b)

    def finish(self, state: Kept) -> RowMoments:
        """The rows sorted by class, and by hash within a class."""
        count = int(state.rows)
        hashes = hashed(state.ids[:count], GROUP)
        order = np.lexsort((hashes, state.labels[:count]))
        x, d = state.x[order], state.x.shape[1]
        resolution = np.array(np.finfo(x.dtype).eps if count else np.finfo(np.float64).eps, dtype=np.float64)
        if self.normalize == "sphere":
            norms = np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
            x = x / np.where(norms > _MIN_NORM, norms, 1.0)
        if count and d > count + 1:
            x = _fewer_coordinates(x)
        return RowMoments(x, state.labels[order], hashes[order], d, resolution)

    def state_bytes(self, d: int, k: int, n: int = 0) -> int:
        """Bytes of n float32 samples, while they are sorted."""
        return 2 * n * (4 * d + 24)

    def covers(self, other: Statistic) -> bool:
        """Whoever needs moments is served by the rows."""
        return self == other or (isinstance(other, ClassMoments) and other.normalize == self.normalize)


def _fewer_coordinates(x: Float[np.ndarray, "n d"]) -> NDArray[np.float64]:
    """The rows in n + 1 coordinates, in which they have the same scalar products."""
    centre = x.mean(axis=0, dtype=np.float64)
    # Rows minus their mean, and the mean: a QR of both keeps the digits of small differences at a large offset.
    factor: Any = qr(np.vstack([x - centre, centre]).T, mode="r", check_finite=False, overwrite_a=True)[0]
    coordinates: NDArray[np.float64] = np.ascontiguousarray(factor[: len(x) + 1].T)
    coordinates[:-1] += coordinates[-1]
    return coordinates[:-1]

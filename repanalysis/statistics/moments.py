r"""Class moments: count, mean and scatter of every class, from one pass in float64.

For class c with samples z_i:  n_c,  mu_c = 1/n_c sum z_i,  S_c = sum (z_i - mu_c)(z_i - mu_c)^T.

Two sets of the same class merge exactly (Chan, Golub and LeVeque 1983), with delta = mu_b - mu_a:

    S = S_a + S_b + n_a n_b / (n_a + n_b) delta delta^T.

Rows are centred on the running mean mu of their class before they are squared, so a large offset costs no digits, and each row
is multiplied once. The mean residual of a block of m rows, e = 1/m sum (z_i - mu), corrects the result by one rank-1 term:

    S += Z^T Z - m^2 / (n + m) e e^T.

With `scatter="none"` only the traces Tr S_c are kept. They suffice for variances and distances of means, at any width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int64, Shaped
from numpy.typing import NDArray
from scipy.linalg import blas

from probes.ids import Ids
from repanalysis.statistics.base import Statistic, refuse_non_finite
from repanalysis.statistics.geometry import ClassGeometry, Weighting, add_products, subtract_product
from repanalysis.statistics.rounding import EXACT, resolution_of

__all__ = ["ClassMoments", "Moments"]

_BLOCK_BYTES = 8 << 20  # block size of float64 rows, so that a block stays in cache from the gather to the product
_MIN_NORM = 1e-8  # below it a row is left as it is, as in the published code of rate reduction


class _Arrays(NamedTuple):
    classes: Int64[np.ndarray, " K"]
    counts: Int64[np.ndarray, " K"]
    mean: Float64[np.ndarray, "K d"]
    scatter_trace: Float64[np.ndarray, " K"]
    scatter: Float64[np.ndarray, "K s s"]
    resolution: Float64[np.ndarray, 2]


class Moments(_Arrays, ClassGeometry):
    """State of `ClassMoments` for K classes of d features.

    Attributes
    ----------
    classes : (K,) int64
        Labels, ascending.
    counts : (K,) int64
        Samples per class, n_c.
    mean : (K, d) float64
        Class means, mu_c.
    scatter_trace : (K,) float64
        Traces of the class scatters, sum_i ||z_i - mu_c||^2.
    scatter : (K, d, d) float64, or (K, 0, 0)
        Lower triangle of every S_c, the upper one being zero; empty with `scatter="none"`.
    resolution : (2,) float64
        Coefficients (a, b) of the rounding variance for the coarsest dtype of the samples (`rounding.py`).
    """

    __slots__ = ()

    def scatter_sum(self, factors: NDArray[np.float64]) -> NDArray[np.float64]:
        """sum_c f_c S_c, (d, d), a new array; only the lower triangle is filled."""
        side = self.scatter.shape[1]
        if not side or not len(factors):
            return np.zeros((side, side))
        # BLAS uses all cores, einsum one; an analysis needs several such sums.
        flat: NDArray[np.float64] = blas.dgemv(1.0, self.scatter.reshape(len(factors), -1).T, factors)
        return flat.reshape(side, side)

    def feature_variances(self, class_weight: Weighting = "empirical") -> NDArray[np.float64]:
        """Variance of every feature about its class means, the diagonal of Sigma_W, (d,)."""
        if self.scatter.shape[1] != self.d:
            raise ValueError("The variance of single features needs the scatter; use ClassMoments(scatter='per_class').")
        factors = self.weights(class_weight) / np.maximum(self.counts, 1)
        variances: NDArray[np.float64] = factors @ np.einsum("kii->ki", self.scatter)
        return variances

    def isometric(self) -> Moments:
        """Returns itself: moments of d features need d coordinates."""
        return self

    def at_resolution(self, resolution: NDArray[np.float64]) -> Moments:
        """A copy whose `resolution` is at least the given one, for samples that were rounded before they were stored."""
        return self._replace(resolution=np.maximum(self.resolution, resolution))

    def without_class(self, label: int) -> Moments:
        """The moments without the samples of one class."""
        if label not in self.classes:
            return self
        rest = self.classes != label
        parts = {name: getattr(self, name)[rest] for name in ("classes", "counts", "mean", "scatter_trace", "scatter")}
        return self._replace(**parts)

    def second_of(self, k: int, factor: float) -> NDArray[np.float64]:
        """The matrix f Z_k^T Z_k of class k; only the lower triangle is filled."""
        lower: NDArray[np.float64] = self.scatter[k] * factor
        add_products(lower, self.mean[k] * np.sqrt(factor * self.counts[k]))
        return lower


@dataclass(frozen=True)
class ClassMoments(Statistic):
    """Count, mean and scatter per class.

    Parameters
    ----------
    scatter : {"per_class", "none"}, default "per_class"
        "per_class" keeps the scatter of every class, "none" only its trace.
    normalize : {"none", "sphere"}, default "none"
        "sphere" divides every row by its Euclidean norm first.

    Notes
    -----
    Time n d^2 (one symmetric product) and memory K d^2 float64; n d and K d without scatter.

    References
    ----------
    T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance", Am. Stat. 37, 1983.

    Examples
    --------
    >>> moments = ClassMoments().of(np.array([[0.0], [2.0], [5.0]]), np.array([0, 0, 1]))
    >>> moments.mean.tolist(), moments.scatter.tolist()
    ([[1.0], [5.0]], [[[2.0]], [[0.0]]])
    """

    scatter: Literal["per_class", "none"] = "per_class"
    normalize: Literal["none", "sphere"] = "none"

    def init(self, d: int, classes: Sequence[int] = ()) -> Moments:
        """The state of no samples of d features."""
        names = np.unique(np.asarray(classes, dtype=np.int64))
        k, side = len(names), d if self.scatter == "per_class" else 0
        scatter = np.zeros((k, side, side))
        return Moments(names, np.zeros(k, np.int64), np.zeros((k, d)), np.zeros(k), scatter, EXACT)

    def update(self, state: Moments, x: Shaped[np.ndarray, "n d"], y: Int[np.ndarray, " n"], ids: Ids) -> Moments:
        """The state after the rows of `x`; `state` is consumed.

        Raises
        ------
        NonFiniteError
            If a row holds NaN, inf, or what overflows when squared.
        """
        return self.update_groups((state,), x, y, np.zeros(len(y), np.int64))[0]

    def update_groups(
        self,
        states: tuple[Moments, ...],
        x: Shaped[np.ndarray, "n d"],
        y: Int[np.ndarray, " n"],
        group: Int64[np.ndarray, " n"],
    ) -> tuple[Moments, ...]:
        """Update several states at once: row i goes to `states[group[i]]`. The states are consumed."""
        labels, resolution = np.unique(y), resolution_of(x.dtype)
        states = tuple(_with_classes(state, labels, resolution, copy=False) for state in states)
        classes = states[0].classes
        target = group * len(classes) + np.searchsorted(classes, y)
        order = np.argsort(target, kind="stable")
        edges = np.flatnonzero(np.diff(target[order], prepend=-1, append=-1))
        rows = max(64, _BLOCK_BYTES // (8 * max(1, x.shape[1])))
        most = min(rows, int(np.diff(edges).max(initial=0)))
        scratch = _Scratch(np.empty((most, x.shape[1]), x.dtype), np.empty((most, x.shape[1])))
        for lo, hi in pairwise(edges.tolist()):
            at, k = divmod(int(target[order[lo]]), len(classes))
            for start in range(lo, hi, rows):
                self._absorb(states[at], k, x, order[start : min(hi, start + rows)], scratch)
        for state in states if self.scatter == "per_class" else ():
            np.maximum(np.einsum("kii->k", state.scatter), 0.0, out=state.scatter_trace)
        if not all(np.isfinite(state.scatter_trace).all() for state in states):
            refuse_non_finite(x)
        return states

    def _absorb(
        self, state: Moments, k: int, x: Shaped[np.ndarray, "n d"], rows: Int64[np.ndarray, " m"], scratch: _Scratch
    ) -> None:
        """Add rows of the k-th class to a state in place; `rows` are their positions in `x`."""
        before = int(state.counts[k])
        if self.normalize == "none":
            if not before:
                state.mean[k] = x[rows[0]]
            np.take(x, rows, axis=0, out=scratch.rows[: len(rows)], mode="clip")  # "raise" would copy once more
            z = scratch.z[: len(rows)]
            with np.errstate(invalid="ignore"):  # inf - inf; reported below by the mean residual
                np.subtract(scratch.rows[: len(rows)], state.mean[k], out=z)
        else:
            selected = x[rows]
            with np.errstate(over="ignore"):
                norms = np.linalg.norm(selected.astype(np.float64, copy=False), axis=1, keepdims=True)
            if not np.isfinite(norms).all():
                refuse_non_finite(selected, rows)
            z = selected / np.where(norms > _MIN_NORM, norms, 1.0)
            if not before:
                state.mean[k] = z[0]
            z -= state.mean[k]
        # Rows are centred on the running mean; the mean residual corrects for that by one rank-1 term.
        # The sum uses scipy's BLAS, as the scatter does: np.add.reduceat took as long as the scatter itself, and the
        # threads of numpy's BLAS compete with those of scipy's (benchmarks/analyze.py).
        mean_residual = blas.dgemv(1.0 / len(z), z.T, np.ones(len(z)))
        if not np.isfinite(mean_residual).all():
            refuse_non_finite(x[rows], rows)
        total = before + len(z)
        state.mean[k] += mean_residual * (len(z) / total)
        state.counts[k] = total
        if not before:  # the rows were centred on the first sample, not on a mean
            z -= mean_residual
            mean_residual[:] = 0.0
        if self.scatter == "per_class":
            add_products(state.scatter[k], z)
            subtract_product(state.scatter[k], mean_residual * (len(z) / np.sqrt(total)))
        else:
            added = float(np.einsum("nd,nd->", z, z)) - len(z) ** 2 / total * float(mean_residual @ mean_residual)
            state.scatter_trace[k] += max(added, 0.0)

    def merge(self, a: Moments, b: Moments) -> Moments:
        """The state of the samples of both."""
        merged = _with_classes(a, b.classes, b.resolution, copy=True)
        at = np.searchsorted(merged.classes, b.classes)
        delta, weight = _shift(merged, at, b.counts, b.mean)
        for k, row, w, scatter in zip(at, delta, weight, b.scatter, strict=True):
            np.add(merged.scatter[k], scatter, out=merged.scatter[k])
            add_products(merged.scatter[k], row * np.sqrt(w))
        merged.scatter_trace[at] += b.scatter_trace + weight * np.einsum("kd,kd->k", delta, delta)
        return merged

    def without(self, whole: Moments, part: Moments) -> Moments:
        """The state of the samples of `whole` without those of its subset `part`: the inverse of `merge`."""
        rest = Moments(*(array.copy() for array in whole))
        at = np.searchsorted(rest.classes, part.classes)
        counts = whole.counts[at] - part.counts
        delta = part.mean - whole.mean[at]  # mu_rest = mu - n_part / n_rest (mu_part - mu)
        rest.mean[at] -= delta * (part.counts / np.maximum(counts, 1))[:, None]
        rest.counts[at] = counts
        weight = part.counts * whole.counts[at] / np.maximum(counts, 1)
        for k, row, w, scatter in zip(at, delta, weight, part.scatter, strict=True):
            np.subtract(rest.scatter[k], scatter, out=rest.scatter[k])
            subtract_product(rest.scatter[k], row * np.sqrt(w))
        rest.scatter_trace[at] -= part.scatter_trace + weight * np.einsum("kd,kd->k", delta, delta)
        np.maximum(rest.scatter_trace, 0.0, out=rest.scatter_trace)
        for array in (rest.mean, rest.scatter_trace, rest.scatter):
            array[rest.counts == 0] = 0.0
        return rest

    def state_bytes(self, d: int, k: int) -> int:
        """Bytes of the state: K d, and K d^2 with the scatters, in float64."""
        return 8 * k * (d + 3 + (d * d if self.scatter == "per_class" else 0))

    def covers(self, other: Statistic) -> bool:
        """Scatters can replace traces, if the normalisation is the same."""
        if not isinstance(other, ClassMoments) or self.normalize != other.normalize:
            return False
        return self.scatter in ("per_class", other.scatter)


class _Scratch(NamedTuple):
    """Buffers in which a block is gathered and centred. Reused: allocating costs as much as the arithmetic."""

    rows: NDArray[Any]
    z: NDArray[np.float64]


def _with_classes(state: Moments, labels: NDArray[np.int64], resolution: NDArray[np.float64], *, copy: bool) -> Moments:
    """The state with all of `labels` as classes and at least that `resolution`; copied if `copy` or if classes are added."""
    state = state._replace(resolution=np.maximum(state.resolution, resolution))
    classes = np.union1d(state.classes, labels).astype(np.int64)
    if len(classes) == len(state.classes):
        return Moments(*(array.copy() for array in state)) if copy else state
    at = np.searchsorted(classes, state.classes)

    def enlarged(array: NDArray[Any]) -> NDArray[Any]:
        larger = np.zeros((len(classes), *array.shape[1:]), array.dtype)
        larger[at] = array
        return larger

    counts, mean, scatter_trace, scatter = map(enlarged, (state.counts, state.mean, state.scatter_trace, state.scatter))
    return Moments(classes, counts, mean, scatter_trace, scatter, state.resolution)


def _shift(
    state: Moments, at: NDArray[np.int64], counts: NDArray[np.int64], means: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Move counts and means in place; return delta and n_a n_b / (n_a + n_b) of every class."""
    before, total = state.counts[at], state.counts[at] + counts
    delta = means - state.mean[at]
    share = counts / np.maximum(total, 1)
    state.mean[at] += delta * share[:, None]
    state.counts[at] = total
    return delta, before * share

r"""Class moments: count, mean and scatter of every class, from one pass in float64.

For class c with samples z_i:  n_c,  mu_c = 1/n_c sum z_i,  S_c = sum (z_i - mu_c)(z_i - mu_c)^T.

Two sets of the same class merge exactly (Chan, Golub and LeVeque 1983), with delta = mu_b - mu_a:

    S = S_a + S_b + n_a n_b / (n_a + n_b) delta delta^T.

Every block of rows is centred on its own class means before anything is squared, and delta enters as one more row of
the same matrix product, so an offset of 1e3 costs no digits and each row is multiplied once. With `scatter="none"`
only the traces Tr S_c are kept, which is all that variances and distances of means need, at any width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Int64, Shaped
from numpy.typing import NDArray
from scipy.linalg import blas

from repanalysis._checks import one_of
from repanalysis.statistics.base import NonFiniteError, Statistic

__all__ = ["ClassMoments", "Moments"]

Weighting = Literal["balanced", "empirical"]

_BLOCK_BYTES = 8 << 20  # float64 rows worked on at a time: they stay in cache from the gather to the product
_EPS = float(np.finfo(np.float64).eps)
_MIN_NORM = 1e-8  # below it a row is left as it is, as in the published code of rate reduction


class Moments(NamedTuple):
    """State of `ClassMoments` for K classes of d features.

    Attributes
    ----------
    classes : (K,) int64
        Labels, ascending.
    counts : (K,) int64
        Samples per class, n_c.
    mean : (K, d) float64
        Class means, mu_c.
    spread : (K,) float64
        Traces of the class scatters, sum_i ||z_i - mu_c||^2.
    scatter : (K, d, d) float64, or (K, 0, 0)
        Lower triangle of every S_c, the upper one being zero; empty with `scatter="none"`.
    resolution : () float64
        Machine epsilon of the coarsest type that samples came in: what of a small variance is rounding.
    """

    classes: Int64[np.ndarray, " K"]
    counts: Int64[np.ndarray, " K"]
    mean: Float64[np.ndarray, "K d"]
    spread: Float64[np.ndarray, " K"]
    scatter: Float64[np.ndarray, "K s s"]
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
        """mu_c - mu_G, (K, d), with mu_G = sum_c pi_c mu_c."""
        centred: NDArray[np.float64] = self.mean - self.weights(class_weight) @ self.mean
        return centred

    def traces(self, class_weight: Weighting = "balanced") -> tuple[float, float]:
        """Tr Sigma_W = sum_c pi_c Tr Sigma_c, and Tr Sigma_B = sum_c pi_c ||mu_c - mu_G||^2."""
        weights = self.weights(class_weight)
        between = weights @ np.square(self.centred_means(class_weight)).sum(axis=1)
        return float(weights @ (self.spread / np.maximum(self.counts, 1))), float(between)

    def within(self, class_weight: Weighting = "balanced") -> NDArray[np.float64]:
        """Sigma_W = sum_c pi_c Sigma_c, (d, d)."""
        factors = self.weights(class_weight) / np.maximum(self.counts, 1)
        return _full(np.einsum("k,kij->ij", factors, self.scatter))


@dataclass(frozen=True)
class ClassMoments(Statistic):
    """Count, mean and scatter per class.

    Parameters
    ----------
    scatter : {"per_class", "none"}, default "per_class"
        Whether the scatter of every class is kept, or its trace alone.
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
        return Moments(names, np.zeros(k, np.int64), np.zeros((k, d)), np.zeros(k), scatter, np.array(_EPS))

    def update(self, state: Moments, x: Shaped[np.ndarray, "n d"], y: Int[np.ndarray, " n"]) -> Moments:
        """The state after the rows of `x`; `state` is consumed.

        Raises
        ------
        NonFiniteError
            If a row holds NaN or inf.
        """
        state = _grown(state, np.unique(y), _resolution(x), copy=False)
        order = np.argsort(y, kind="stable")
        index = np.searchsorted(state.classes, y[order])
        rows = max(64, _BLOCK_BYTES // (8 * max(1, state.d)))
        for start in range(0, len(order), rows):
            picked = order[start : start + rows]
            z = x[picked].astype(np.float64, copy=False)
            if self.normalize == "sphere":
                norms = np.linalg.norm(z, axis=1, keepdims=True)
                _refuse_non_finite(norms, z, picked)
                z = z / np.where(norms > _MIN_NORM, norms, 1.0)
            _absorb(state, z, index[start : start + rows], picked)
        return state

    def merge(self, a: Moments, b: Moments) -> Moments:
        """The state of the samples of both."""
        merged = _grown(a, b.classes, b.resolution, copy=True)
        at = np.searchsorted(merged.classes, b.classes)
        delta, weight = _shift(merged, at, b.counts, b.mean)
        merged.scatter[at] += b.scatter
        for k, row, w in zip(at, delta, weight, strict=True):
            _add_products(merged.scatter[k], row * np.sqrt(w))
        merged.spread[at] += b.spread + weight * np.einsum("kd,kd->k", delta, delta)
        return merged

    def state_bytes(self, d: int, k: int) -> int:
        """Bytes of the state: K d, and K d^2 with the scatters, in float64."""
        return 8 * k * (d + 3 + (d * d if self.scatter == "per_class" else 0))

    def covers(self, other: Statistic) -> bool:
        """Whoever needs the traces alone is served by the scatters too."""
        if not isinstance(other, ClassMoments) or self.normalize != other.normalize:
            return False
        return self.scatter in ("per_class", other.scatter)


def _resolution(x: NDArray[Any]) -> NDArray[np.float64]:
    """Machine epsilon of an array's type; integers are exact."""
    return np.array(np.finfo(x.dtype).eps if x.dtype.kind == "f" else _EPS, dtype=np.float64)


def _grown(state: Moments, labels: NDArray[np.int64], resolution: NDArray[np.float64], *, copy: bool) -> Moments:
    """The state with room for every label and at most that resolution; a copy only if wanted or needed."""
    state = state._replace(resolution=np.asarray(np.maximum(state.resolution, resolution)))
    classes = np.union1d(state.classes, labels).astype(np.int64)
    if len(classes) == len(state.classes):
        return Moments(*(array.copy() for array in state)) if copy else state
    at = np.searchsorted(classes, state.classes)

    def spread_out(array: NDArray[Any]) -> NDArray[Any]:
        larger = np.zeros((len(classes), *array.shape[1:]), array.dtype)
        larger[at] = array
        return larger

    counts, mean, spread, scatter = map(spread_out, (state.counts, state.mean, state.spread, state.scatter))
    return Moments(classes, counts, mean, spread, scatter, state.resolution)


def _refuse_non_finite(summary: NDArray[np.float64], z: NDArray[np.float64], picked: NDArray[np.int64]) -> None:
    """Raise if a summary of rows (sums, norms) shows that one holds NaN or inf; `picked` are the rows' positions."""
    if not np.isfinite(summary).all() and not (finite := np.isfinite(z)).all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise NonFiniteError(int(picked[row]), float(z[row][~finite[row]][0]))


def _absorb(state: Moments, z: Float64[np.ndarray, "n d"], index: Int[np.ndarray, " n"], picked: Int[np.ndarray, " n"]) -> None:
    """Add rows, sorted by class, to the state in place; `index` is each row's class position in the state."""
    starts = np.flatnonzero(np.diff(index, prepend=-1))
    stops = np.append(starts[1:], len(index))
    at, counts = index[starts], stops - starts
    # Rows are summed by the BLAS that makes the scatter: np.add.reduceat took as long as the scatter itself, and numpy's
    # BLAS has threads of its own, which spin against scipy's (benchmarks/analyze.py).
    sums = [blas.dgemv(1.0, z[lo:hi].T, np.ones(hi - lo)) for lo, hi in zip(starts, stops, strict=True)]
    means = np.stack(sums) / counts[:, None]
    _refuse_non_finite(means, z, picked)
    delta, weight = _shift(state, at, counts, means)
    rows = delta * np.sqrt(weight)[:, None]
    for k, lo, hi, mean, row in zip(at, starts, stops, means, rows, strict=True):
        z[lo:hi] -= mean
        if state.scatter.size:
            _add_products(state.scatter[k], z[lo:hi])
            _add_products(state.scatter[k], row)
    squares = np.einsum("nd,nd->n", z, z)
    state.spread[at] += np.add.reduceat(squares, starts) + np.einsum("kd,kd->k", rows, rows)


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


def _add_products(scatter: Float64[np.ndarray, "s s"], rows: Float64[np.ndarray, "*m d"]) -> None:
    """Add rows^T rows to the lower triangle of `scatter`, in place and without a temporary."""
    if not scatter.size:
        return
    upper = scatter.T  # BLAS counts columns first: the upper triangle of this view is the lower one of `scatter`
    if rows.ndim == 1:
        out = blas.dsyr(1.0, rows, a=upper, overwrite_a=1)
    else:
        out = blas.dsyrk(1.0, rows.T, beta=1.0, c=upper, overwrite_c=1)
    if not np.may_share_memory(out, scatter):
        raise MemoryError("BLAS worked on a copy of the scatter; its rows must be contiguous.")


def _full(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """The symmetric matrix of which the lower triangle is given."""
    return lower + np.tril(lower, -1).T

"""Samples: keeps all rows or a random subset of bounded size, for metrics that moments cannot give.

With a limit m, the m samples with the smallest hash of (id, seed) are kept: a uniform draw without replacement that does not
depend on order, batches or shards, and merges exactly. Memory m d in the dtype of the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64, Shaped
from numpy.typing import NDArray

from probes.ids import Ids, id_keys
from repanalysis.statistics.base import Statistic, refuse_non_finite
from repanalysis.statistics.draws import SUBSAMPLE_SEED, fitted_on, hashed
from repanalysis.statistics.rounding import EXACT, resolution_of

__all__ = ["Reservoir", "SampleSet", "Samples", "TargetSamples"]


class Reservoir(NamedTuple):
    """State of `Samples`: arrays of which the first `rows` rows are used."""

    ids: Int64[np.ndarray, " m"]
    labels: Shaped[np.ndarray, "m ..."]
    x: Float[np.ndarray, "m d"]
    rows: Int64[np.ndarray, ""]
    n_seen: Int64[np.ndarray, ""]
    resolution: Float64[np.ndarray, 2]


class SampleSet(NamedTuple):
    """Rows in a random but reproducible order: ascending by hash.

    Attributes
    ----------
    ids : (m,) int64
        Keys of the samples' ids (`probes.ids`), which determine the draw.
    labels : (m,) int64
        For `TargetSamples` the targets, (m, t) float64.
    x : (m, d)
        Rows, in their original dtype.
    n_seen : () int64
        Total number of samples, of which the m rows are a uniform draw.
    resolution : (2,) float64
        Coefficients (a, b) of the rounding variance for the coarsest dtype of the samples (`rounding.py`).
    """

    ids: Int64[np.ndarray, " m"]
    labels: Shaped[np.ndarray, "m ..."]
    x: Float[np.ndarray, "m d"]
    n_seen: Int64[np.ndarray, ""]
    resolution: Float64[np.ndarray, 2] = EXACT

    @property
    def n(self) -> int:
        """Number of rows, m."""
        return len(self.ids)

    @property
    def k(self) -> int:
        """Number of classes in the rows."""
        return len(np.unique(self.labels))

    def at_resolution(self, resolution: NDArray[np.float64]) -> SampleSet:
        """A copy whose `resolution` is at least the given one, for samples that were rounded before they were stored."""
        return self._replace(resolution=np.maximum(self.resolution, resolution))

    def rounding(self) -> NDArray[np.float64]:
        """Variance that rounding may have added to every feature, (d,)."""
        share, variance = self.resolution
        squares: NDArray[np.float64] = np.square(self.x, dtype=np.float64).mean(axis=0)
        rounding: NDArray[np.float64] = share * squares + variance
        return rounding

    @property
    def note(self) -> str:
        """States that these are not all samples; empty if they are."""
        return "" if self.n == int(self.n_seen) else f"on {self.n} of {int(self.n_seen)} samples, drawn by id"

    def training(self) -> Bool[np.ndarray, " m"]:
        """Mask of the rows to fit on; the others are scored (`draws.fitted_on`)."""
        return fitted_on(self.ids)


@dataclass(frozen=True)
class Samples(Statistic):
    """Unchanged rows.

    Parameters
    ----------
    limit : int, default 10,000
        Rows to keep at most; 0 keeps all.

    Notes
    -----
    Time n; memory `limit` times d in the dtype of the samples.

    Examples
    --------
    >>> samples = Samples(limit=2).of(np.eye(3), np.array([0, 1, 2]))
    >>> len(samples.ids), int(samples.n_seen), samples.note
    (2, 3, 'on 2 of 3 samples, drawn by id')
    """

    limit: int = 10_000

    def init(self, d: int, classes: Sequence[int] = ()) -> Reservoir:
        """The state of no samples."""
        empty = np.empty(0, np.int64)
        return Reservoir(empty, empty, np.empty((0, d), np.float32), np.array(0), np.array(0), EXACT)

    def update(self, state: Reservoir, x: Shaped[np.ndarray, "n d"], y: Shaped[np.ndarray, "n ..."], ids: Ids) -> Reservoir:
        """The state after the rows of `x`; `state` is consumed.

        Raises
        ------
        NonFiniteError
            If a row holds NaN, inf, or what overflows when squared.
        """
        if not np.isfinite(np.einsum("nd,nd->", x, x, dtype=np.float64)):  # the sum is not finite if a row is not
            refuse_non_finite(x)
        dtype = np.result_type(state.x.dtype, x.dtype if x.dtype.kind == "f" else np.float64)
        count, total = int(state.rows), int(state.rows) + len(x)
        if total > len(state.ids) or dtype != state.x.dtype:
            state = _grow(state, max(total, 2 * len(state.ids)) if count else total, dtype, y)
        state.ids[count:total], state.labels[count:total], state.x[count:total] = id_keys(ids), y, x
        resolution = np.maximum(state.resolution, resolution_of(x.dtype))
        state = state._replace(rows=np.array(total), n_seen=state.n_seen + len(x), resolution=resolution)
        return self._shrink(state) if self.limit and total > 2 * self.limit else state

    def merge(self, a: Reservoir, b: Reservoir) -> Reservoir:
        """The state of the samples of both."""
        dtype = np.result_type(a.x.dtype, b.x.dtype)
        parts = [(state, int(state.rows)) for state in (a, b) if state.rows] or [(a, 0)]
        ids, labels, x = (np.concatenate([state[field][:count] for state, count in parts]) for field in range(3))
        resolution = np.maximum(a.resolution, b.resolution)
        merged = Reservoir(ids, labels, x.astype(dtype, copy=False), a.rows + b.rows, a.n_seen + b.n_seen, resolution)
        return self._shrink(merged) if self.limit and len(ids) > self.limit else merged

    def finish(self, state: Reservoir) -> SampleSet:
        """The drawn rows, ascending by hash."""
        order = self._order(state)
        return SampleSet(state.ids[order], state.labels[order], state.x[order], state.n_seen, state.resolution)

    def state_bytes(self, d: int, k: int) -> int:
        """Bytes of a full state of float32 samples, which holds up to 2 `limit` rows."""
        return 2 * self.limit * (4 * d + 16)

    def _order(self, state: Reservoir) -> Int64[np.ndarray, " m"]:
        """Positions of the rows to keep, ascending by hash; equal ids (which stores forbid) by position."""
        order = np.argsort(hashed(state.ids[: int(state.rows)], SUBSAMPLE_SEED), kind="stable")
        return order[: self.limit] if self.limit else order

    def _shrink(self, state: Reservoir) -> Reservoir:
        order = self._order(state)
        return Reservoir(
            state.ids[order], state.labels[order], state.x[order], np.array(len(order)), state.n_seen, state.resolution
        )

    @classmethod
    def examples(cls) -> list[Statistic]:
        """A limit below the number of samples in the tests, and none."""
        return [cls(limit=40), cls(limit=0)]


@dataclass(frozen=True)
class TargetSamples(Samples):
    """Unchanged rows, with continuous targets instead of labels.

    Parameters
    ----------
    limit : int, default 10,000
        Rows to keep at most; 0 keeps all.

    Examples
    --------
    >>> TargetSamples(limit=2).of(np.eye(3), np.array([0.5, 1.5, 2.5])).labels.shape
    (2, 1)
    """

    def update(self, state: Reservoir, x: Shaped[np.ndarray, "n d"], y: Shaped[np.ndarray, "n ..."], ids: Ids) -> Reservoir:
        """The state after the rows of `x` and their targets, (n,) or (n, t); `state` is consumed."""
        return super().update(state, x, (y[:, None] if y.ndim == 1 else y).astype(np.float64), ids)


def _grow(state: Reservoir, rows: int, dtype: np.dtype, like: NDArray[Any]) -> Reservoir:
    """Copy the state to arrays of `rows` rows; the label array takes its shape and type from `like`."""
    count = int(state.rows)
    ids = np.empty(rows, np.int64)
    labels = np.empty((rows, *like.shape[1:]), np.float64 if like.dtype.kind == "f" else np.int64)
    x = np.empty((rows, state.x.shape[1]), dtype)
    ids[:count], x[:count] = state.ids[:count], state.x[:count]
    if count:
        labels[:count] = state.labels[:count]
    return Reservoir(ids, labels, x, state.rows, state.n_seen, state.resolution)

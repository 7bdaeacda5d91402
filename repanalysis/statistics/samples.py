"""Samples: rows kept as they are, all of them or a bounded number, for what no moment tells.

With a limit those m samples are kept whose hash of (id, seed) is smallest: a uniform draw without replacement that does not
depend on order, batches or shards, and merges exactly. Memory m d in the type of the samples.
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
    """State of `Samples`: the first `rows` rows of arrays that may have room for more."""

    ids: Int64[np.ndarray, " m"]
    labels: Shaped[np.ndarray, "m ..."]
    x: Float[np.ndarray, "m d"]
    rows: Int64[np.ndarray, ""]
    seen: Int64[np.ndarray, ""]
    resolution: Float64[np.ndarray, 2]


class SampleSet(NamedTuple):
    """Rows in an order that is random but always the same: ascending by hash.

    Attributes
    ----------
    ids : (m,) int64
        Keys of the samples' ids (`probes.ids`), by which they are drawn.
    labels : (m,) int64
        Of `TargetSamples` the targets, (m, t) float64.
    x : (m, d)
        In the type they came in.
    seen : () int64
        Samples that there were; the rows are a uniform draw of m of them.
    resolution : (2,) float64
        What rounding costs in the coarsest type that samples came in (`rounding.py`).
    """

    ids: Int64[np.ndarray, " m"]
    labels: Shaped[np.ndarray, "m ..."]
    x: Float[np.ndarray, "m d"]
    seen: Int64[np.ndarray, ""]
    resolution: Float64[np.ndarray, 2] = EXACT

    @property
    def n(self) -> int:
        """Rows kept."""
        return len(self.ids)

    @property
    def k(self) -> int:
        """Classes among them."""
        return len(np.unique(self.labels))

    def at_resolution(self, resolution: NDArray[np.float64]) -> SampleSet:
        """The same, of samples that were rounded to `resolution` at least, whatever type they came in."""
        return self._replace(resolution=np.maximum(self.resolution, resolution))

    def rounding(self) -> NDArray[np.float64]:
        """Variance that rounding may have added to every feature, (d,)."""
        share, variance = self.resolution
        squares: NDArray[np.float64] = np.square(self.x, dtype=np.float64).mean(axis=0)
        rounding: NDArray[np.float64] = share * squares + variance
        return rounding

    @property
    def note(self) -> str:
        """What a reader must know: that these are not all samples."""
        return "" if self.n == int(self.seen) else f"on {self.n} of {int(self.seen)} samples, drawn by id"

    def training(self) -> Bool[np.ndarray, " m"]:
        """Which rows to fit on; the others are to score on (`draws.fitted_on`)."""
        return fitted_on(self.ids)


@dataclass(frozen=True)
class Samples(Statistic):
    """Rows kept as they are.

    Parameters
    ----------
    limit : int, default 10,000
        Rows to keep at most; 0 keeps all.

    Notes
    -----
    Time n; memory limit d in the type of the samples.

    Examples
    --------
    >>> kept = Samples(limit=2).of(np.eye(3), np.array([0, 1, 2]))
    >>> len(kept.ids), int(kept.seen), kept.note
    (2, 3, 'on 2 of 3 samples, drawn by id')
    """

    limit: int = 10_000

    def init(self, d: int, classes: Sequence[int] = ()) -> Reservoir:
        """The state of no samples."""
        none = np.empty(0, np.int64)
        return Reservoir(none, none, np.empty((0, d), np.float32), np.array(0), np.array(0), EXACT)

    def update(self, state: Reservoir, x: Shaped[np.ndarray, "n d"], y: Shaped[np.ndarray, "n ..."], ids: Ids) -> Reservoir:
        """The state after the rows of `x`; `state` is consumed.

        Raises
        ------
        NonFiniteError
            If a row holds NaN, inf, or what overflows when squared.
        """
        if not np.isfinite(np.einsum("nd,nd->", x, x, dtype=np.float64)):  # sums tell; then rows are looked at
            refuse_non_finite(x)
        kind = np.result_type(state.x.dtype, x.dtype if x.dtype.kind == "f" else np.float64)
        count, total = int(state.rows), int(state.rows) + len(x)
        if total > len(state.ids) or kind != state.x.dtype:
            state = _grow(state, max(total, 2 * len(state.ids)) if count else total, kind, y)
        state.ids[count:total], state.labels[count:total], state.x[count:total] = id_keys(ids), y, x
        resolution = np.maximum(state.resolution, resolution_of(x.dtype))
        state = state._replace(rows=np.array(total), seen=state.seen + len(x), resolution=resolution)
        return self._shrink(state) if self.limit and total > 2 * self.limit else state

    def merge(self, a: Reservoir, b: Reservoir) -> Reservoir:
        """The state of the samples of both."""
        kind = np.result_type(a.x.dtype, b.x.dtype)
        parts = [(state, int(state.rows)) for state in (a, b) if state.rows] or [(a, 0)]
        ids, labels, x = (np.concatenate([state[field][:count] for state, count in parts]) for field in range(3))
        resolution = np.maximum(a.resolution, b.resolution)
        merged = Reservoir(ids, labels, x.astype(kind, copy=False), a.rows + b.rows, a.seen + b.seen, resolution)
        return self._shrink(merged) if self.limit and len(ids) > self.limit else merged

    def finish(self, state: Reservoir) -> SampleSet:
        """The rows to be looked at, ascending by hash."""
        order = self._order(state)
        return SampleSet(state.ids[order], state.labels[order], state.x[order], state.seen, state.resolution)

    def state_bytes(self, d: int, k: int) -> int:
        """Bytes of a full state of float32 samples; twice as many rows may wait for the next cut."""
        return 2 * self.limit * (4 * d + 16)

    def _order(self, state: Reservoir) -> Int64[np.ndarray, " m"]:
        """Positions of the rows to keep, ascending by hash; equal ids (which stores forbid) by position."""
        order = np.argsort(hashed(state.ids[: int(state.rows)], SUBSAMPLE_SEED), kind="stable")
        return order[: self.limit] if self.limit else order

    def _shrink(self, state: Reservoir) -> Reservoir:
        order = self._order(state)
        return Reservoir(
            state.ids[order], state.labels[order], state.x[order], np.array(len(order)), state.seen, state.resolution
        )

    @classmethod
    def examples(cls) -> list[Statistic]:
        """Below and above the number of samples that the tests have."""
        return [cls(limit=40), cls(limit=0)]


@dataclass(frozen=True)
class TargetSamples(Samples):
    """Rows kept as they are, with continuous targets in the labels' place.

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


def _grow(state: Reservoir, rows: int, kind: np.dtype, like: NDArray[Any]) -> Reservoir:
    """The same rows in arrays with room for so many, and for labels like those given."""
    count = int(state.rows)
    ids = np.empty(rows, np.int64)
    labels = np.empty((rows, *like.shape[1:]), np.float64 if like.dtype.kind == "f" else np.int64)
    x = np.empty((rows, state.x.shape[1]), kind)
    ids[:count], x[:count] = state.ids[:count], state.x[:count]
    if count:
        labels[:count] = state.labels[:count]
    return Reservoir(ids, labels, x, state.rows, state.seen, state.resolution)

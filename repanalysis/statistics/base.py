"""Statistics: mergeable summaries of a single pass over the data, small enough to replace the data.

A `Statistic` is a frozen specification with three functions over a state, a `NamedTuple` of arrays:

    init(d)                      the state of no samples
    update(state, x, y, ids)     the state after n more samples
    merge(a, b)                  the state of the samples of both
    finish(state)                the input of metrics: by default the state itself

Merging is associative and commutative, and the result of `finish` does not depend on how the rows were batched (to rtol 1e-12).
States of shards, processes and machines can therefore be merged in any order. `update` may reuse the memory of its state
(a donated buffer); `merge` changes neither argument. The conformance tests cover every subclass; there is no list to edit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import fields
from itertools import product
from typing import Any, ClassVar, get_args, get_type_hints

import numpy as np
from jaxtyping import Int, Shaped

from probes.errors import DataError
from probes.ids import Ids
from probes.labels import MISSING

__all__ = ["NonFiniteError", "Statistic", "refuse_non_finite"]


class NonFiniteError(DataError):
    """A row holds NaN, inf, or a value whose square overflows; `row` is its index in the array passed to `update`."""

    def __init__(self, row: int, value: float) -> None:
        super().__init__(f"Row {row} holds {value}{', whose square overflows' if np.isfinite(value) else ''}.")
        self.row, self.value = row, value


def refuse_non_finite(x: Shaped[np.ndarray, "n d"], rows: Int[np.ndarray, " n"] | None = None) -> None:
    """Raise `NonFiniteError` for the first row whose squares are not finite; `rows` are their positions (default 0 to n-1)."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.square(x, dtype=np.float64))
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise NonFiniteError(row if rows is None else int(rows[row]), float(x[row][~finite[row]][0]))


class Statistic(ABC):
    """Specification of a mergeable state. Subclasses are frozen dataclasses, so that equal specifications are computed once."""

    registered: ClassVar[list[type[Statistic]]] = []

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Statistic.registered.append(cls)

    @abstractmethod
    def init(self, d: int, classes: Sequence[int] = ()) -> Any:
        """The state of no samples.

        Parameters
        ----------
        d : int
            Number of features.
        classes : sequence of int, optional
            Expected classes; their arrays are allocated at once.
        """

    @abstractmethod
    def update(self, state: Any, x: Shaped[np.ndarray, "n d"], y: Shaped[np.ndarray, "n ..."], ids: Ids) -> Any:
        """The state after n more samples, with their classes (or targets) and ids; `state` is consumed."""

    @abstractmethod
    def merge(self, a: Any, b: Any) -> Any:
        """The state of the samples of both; neither argument is changed."""

    @abstractmethod
    def state_bytes(self, d: int, k: int) -> int:
        """Memory of a state of d features and k classes, in bytes."""

    def finish(self, state: Any) -> Any:
        """The first argument of a metric; the state is not changed."""
        return state

    def covers(self, other: Statistic) -> bool:
        """Whether this statistic's result can replace that of `other`."""
        return self == other

    def of(self, x: Shaped[np.ndarray, "n d"], y: Shaped[np.ndarray, "n ..."], ids: Ids | None = None) -> Any:
        """The result (`finish`) for one array of samples, for use without a file.

        Parameters
        ----------
        x : (n, d) array
            Samples.
        y : (n,) integer array
            Their classes; for statistics of targets the targets, (n,) or (n, t).
        ids : (n,) integer or text array, optional
            Their ids, which determine subsampling and splits; by default 0 to n - 1.

        Raises
        ------
        DataError
            If an integer of y is -1, which means a missing label in files: the caller has to say what it means here.
        """
        if np.issubdtype(np.asarray(y).dtype, np.integer) and (missing := int((np.asarray(y) == MISSING).sum())):
            raise DataError(
                f"{missing:,} of {len(y):,} labels are -1, which means that a sample has no label: pass the labelled samples, "
                "x[y != -1] and y[y != -1]. If -1 is a class, give it another number; if y are targets, pass floats."
            )
        return self.finish(self.update(self.init(x.shape[1]), x, y, np.arange(len(x)) if ids is None else ids))

    @classmethod
    def examples(cls) -> list[Statistic]:
        """Specifications that the conformance tests try: every combination of the literal options."""
        hints = get_type_hints(cls)
        names = [item.name for item in fields(cls)]  # type: ignore[arg-type]  # subclasses are dataclasses
        return [cls(**dict(zip(names, values, strict=True))) for values in product(*(get_args(hints[name]) for name in names))]

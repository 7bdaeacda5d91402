"""Groups: one state per group of samples, for the delete-a-group jackknife.

A hash of its id assigns each sample to one of G groups. A metric of all samples but one group is a jackknife replicate; G
replicates give a standard error (`repanalysis.analyses.uncertainty`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from probes.ids import Ids
from repanalysis.statistics.base import Statistic
from repanalysis.statistics.draws import group_of
from repanalysis.statistics.moments import ClassMoments, Moments

__all__ = ["GroupedMoments", "Groups"]


class GroupedMoments(NamedTuple):
    """Result of `Groups`: moments of all samples, and of every group."""

    whole: Moments
    parts: tuple[Moments, ...]
    inner: ClassMoments

    def without_class(self, label: int) -> GroupedMoments:
        """The same without the samples of one class."""
        return self._replace(
            whole=self.whole.without_class(label), parts=tuple(part.without_class(label) for part in self.parts)
        )

    def replicates(self) -> Iterator[tuple[int, Moments]]:
        """For every nonempty group its size, and the moments of all samples outside it."""
        for part in self.parts:
            if part.n:
                yield part.n, self.inner.without(self.whole, part)


@dataclass(frozen=True)
class Groups(Statistic):
    """Class moments of G groups of samples.

    Parameters
    ----------
    inner : ClassMoments
        Moments to keep of every group.
    groups : int, default 10
        G.

    Notes
    -----
    Memory: G states, one for all samples, and two temporary ones.

    Examples
    --------
    >>> grouped = Groups(ClassMoments(), 4).of(np.arange(100.0)[:, None], np.zeros(100, int))
    >>> grouped.whole.n, len(grouped.parts), sum(part.n for part in grouped.parts)
    (100, 4, 100)
    """

    inner: ClassMoments = field(default_factory=ClassMoments)
    groups: int = 10

    def init(self, d: int, classes: Sequence[int] = ()) -> tuple[Moments, ...]:
        """The states of no samples."""
        return tuple(self.inner.init(d, classes) for _ in range(self.groups))

    def update(
        self, state: tuple[Moments, ...], x: Shaped[np.ndarray, "n d"], y: Int[np.ndarray, " n"], ids: Ids
    ) -> tuple[Moments, ...]:
        """The states after the rows of `x`; `state` is consumed."""
        group = group_of(ids, self.groups)
        return self.inner.update_groups(state, x, y, group)

    def merge(self, a: tuple[Moments, ...], b: tuple[Moments, ...]) -> tuple[Moments, ...]:
        """The states of the samples of both."""
        return tuple(self.inner.merge(left, right) for left, right in zip(a, b, strict=True))

    def finish(self, state: tuple[Moments, ...]) -> GroupedMoments:
        """The groups and the whole."""
        return GroupedMoments(reduce(self.inner.merge, state), state, self.inner)

    def state_bytes(self, d: int, k: int) -> int:
        """Bytes of the G group states and three more."""
        return (self.groups + 3) * self.inner.state_bytes(d, k)

    def covers(self, other: Statistic) -> bool:
        """The moments of all samples can replace `other` if those of `inner` can."""
        return self == other or self.inner.covers(other)

    @classmethod
    def examples(cls) -> list[Statistic]:
        """Of both kinds of moments."""
        return [cls(ClassMoments(), 3), cls(ClassMoments(scatter="none"), 3)]

"""Which sample is which, whatever order a loader draws them in: a loader's items with one id per sample.

The first of these counts: ids that the item gives; `sample_ids` of the data set, one per position; the position or key that the
sampler drew, in the data set that a `Subset` (or a `Subset` of one) is taken from; the order of a list; and, with a warning,
the order of arrival. Samplers draw in the process that iterates, in the order in which batches come; a shallow copy of the
loader, whose sampler takes notes, so gives the same batches from the same random state.

A collate function that does not keep the order of samples (`collation.py`) leaves no more than the order of arrival.
"""

from __future__ import annotations

import copy
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, SequentialSampler, Subset

from probes.errors import ArrivalOrderWarning, DataError, UsageError
from probes.ids import Ids, SeenIds, as_ids
from probes.loading.collation import Collated, InOrder, keeps_order
from probes.loading.loaders import batches_of
from probes.loading.reader import Item, Reader

__all__ = ["Identified", "base_of", "identified", "ids_at", "in_fixed_order"]


class Identified(NamedTuple):
    """An item of a loader, what each of its samples is called, and where that comes from, a key of `probes.ids.IDS_FROM`."""

    item: Item
    ids: Ids
    ids_from: str


def identified(loader: Iterable[Any], reader: Reader, *, first: int = 0) -> Iterator[Identified]:
    """A loader's items, read, each with an id per sample; empty ones are passed over.

    Parameters
    ----------
    loader : iterable
        As `probes.capture` takes it; or items that are identified already, which are let through.
    reader : Reader
        Of the network.
    first : int, default 0
        Number of the first sample, where samples are numbered in the order in which they come.

    Raises
    ------
    UsageError
        If a `DistributedSampler` repeats samples.
    DataError
        If an id comes twice, or it is not known any more which samples came.
    """
    seen, done, origin, by_position = SeenIds(), first, "", False
    _refuse_repeated(loader)
    for value, drawn in _with_positions(loader):
        if isinstance(value, Identified):
            yield value
            continue
        item = reader.read(value)
        if not (rows := item.inputs.rows):
            continue
        if not origin:
            by_position = item.ids is None and drawn.ids(rows) is not None
            origin = drawn.origin if by_position else _origin(loader, item, drawn)
        ids = item.ids
        if ids is None:
            ids = drawn.ids(rows) if by_position else np.arange(done, done + rows)
        if ids is None:
            raise DataError(
                f"It is not known which samples the loader's batch from row {done} on holds: {drawn.unknown(rows)}. Yield "
                f"(x, labels, ids)."
            )
        if (repeated := seen.add(ids)) is not None:
            hint = " If they are something else than ids, leave them out." if item.ids is not None else ""
            advice = " Does the sampler draw with replacement? Each sample may come once." if by_position else hint
            raise DataError(
                f"Sample id {repeated!r} comes a second time in the batch from row {done} on; ids must be unique.{advice}"
            )
        yield Identified(item, ids, origin)
        done += rows


def ids_at(data: Any, positions: Sequence[Any]) -> tuple[NDArray[Any], str] | None:
    """Ids of the samples at some positions of a data set, and where they come from; None where positions do not say it.

    Examples
    --------
    >>> ids_at(Subset([10, 20, 30, 40], [3, 1]), [0, -1])
    (array([3, 1]), 'index')
    """
    plain = _plain(positions)
    while isinstance(data, Subset):
        if not _are_numbers(plain):
            return None
        plain, data = _plain(data.indices[position] for position in plain), data.dataset
    if plain and all(isinstance(position, str) for position in plain):
        return as_ids(plain), "key"
    if not _are_numbers(plain):
        return None
    names = getattr(data, "sample_ids", None)
    if names is not None:
        return as_ids(np.asarray(names)[np.array(plain, np.int64)]), str(getattr(data, "ids_from", "given"))
    if plain and min(plain) < 0:
        plain = [position + len(data) if position < 0 else position for position in plain]
    return np.array(plain, np.int64), "index"


def _plain(positions: Iterable[Any]) -> list[Any]:
    return [position.item() if isinstance(position, Tensor | np.generic) else position for position in positions]


def _are_numbers(positions: Sequence[Any]) -> bool:
    return all(isinstance(position, Integral) and not isinstance(position, bool) for position in positions)


def base_of(data: Any) -> Any:
    """The data set that a `Subset`, or a `Subset` of one, is taken from."""
    while isinstance(data, Subset):
        data = data.dataset
    return data


def in_fixed_order(loader: Any) -> bool:
    """Whether a torch loader draws a map-style data set from its first sample to its last."""
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    mapped = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    return mapped and isinstance(sampler, SequentialSampler)


class _Drawn(NamedTuple):
    """What a sampler drew for one item of a loader.

    Attributes
    ----------
    positions : sequence or None
        Of each sample; one alone where the item is what the data set holds there, samples or batches.
    data : Any
        The data set.
    whole : bool
        Whether the item is what the data set holds at one position.
    ordered : bool
        Whether the rows are in the order of the positions.
    why : str
        Why nothing is known; empty where it is.
    """

    positions: Sequence[Any] | None = None
    data: Any = None
    whole: bool = False
    ordered: bool = True
    why: str = ""

    @property
    def origin(self) -> str:
        """Where the ids would come from; empty where there are none."""
        named = None if self.positions is None or self.why else ids_at(self.data, self.positions)
        return "" if named is None else named[1]

    def ids(self, rows: int) -> Ids | None:
        """One id per row, where that can be said."""
        named = None if self.positions is None or self.unknown(rows) else ids_at(self.data, self.positions)
        if named is None:
            return None
        if self.whole and rows > 1:
            return as_ids([f"{named[0][0]}/{row}" for row in range(rows)])
        return named[0]

    def unknown(self, rows: int) -> str:
        """Why rows have no ids; empty where they have."""
        if self.why:
            return self.why
        if not self.ordered:
            return "its collate_fn changes the order of samples, or draws at random"
        if self.positions is None or ids_at(self.data, self.positions) is None:
            return "its sampler gives no numbers or keys"
        return "" if self.whole or len(self.positions) == rows else f"its sampler drew {len(self.positions)} samples"


def _origin(loader: Any, item: Item, drawn: _Drawn) -> str:
    """Where ids come from, by the first item; a warning where it is the order of arrival."""
    if item.ids is not None:
        return str(getattr(base_of(getattr(loader, "dataset", None)), "ids_from", "given"))
    if isinstance(loader, list | tuple):
        return "index"
    why = drawn.unknown(item.inputs.rows)
    if _shared_out(loader):
        raise DataError(
            f"Without ids, the samples of a DistributedSampler can't be told apart ({why}): yield (x, labels, ids)."
        )
    warnings.warn(
        f"The loader gives no ids, and {why}: samples are numbered in the order in which they come. Recordings in another "
        f"order can't be compared with this one; yield (x, labels, ids), or give a data set or its DataLoader.",
        ArrivalOrderWarning,
        stacklevel=4,
    )
    return "arrival"


def _shared_out(loader: Any) -> DistributedSampler[Any] | None:
    """The sampler by which several processes each run over a part of the data set."""
    for sampler in (getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)):
        if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
            return sampler
    return None


def _refuse_repeated(loader: Any) -> None:
    """Raise where processes get some samples twice, so that each has as many as the others."""
    sampler = _shared_out(loader)
    if sampler is None or sampler.drop_last or not len(sampler.dataset) % sampler.num_replicas:  # type: ignore[arg-type]
        return
    n, parts = len(sampler.dataset), sampler.num_replicas  # type: ignore[arg-type]
    raise UsageError(
        f"The DistributedSampler repeats {-n % parts} of the {n} samples, so that {parts} processes have equally many, and a "
        f"sample may stand in one shard only: give each process Subset(data, range(rank, len(data), {parts}))."
    )


def _with_positions(loader: Iterable[Any]) -> Iterator[tuple[Any, _Drawn]]:
    """A loader's items, and what its sampler drew for each."""
    why = _unknown(loader)
    if why:
        for value in batches_of(loader):
            yield value, _Drawn(why=why)
        return
    assert isinstance(loader, DataLoader)
    notes: deque[Any] = deque()
    whole = loader.batch_sampler is None
    noting = {"sampler": _Noting(loader.sampler, notes)} if whole else {"batch_sampler": _Noting(loader.batch_sampler, notes)}
    twin = copy.copy(loader)
    vars(twin).update(noting, _iterator=None)  # past the guard of DataLoader, and without workers that another iteration has
    if not whole and not keeps_order(loader.collate_fn):
        twin.collate_fn = InOrder(loader.collate_fn)
    for value in batches_of(twin):
        if not notes:
            yield value, _Drawn(why=f"the {type(loader).__name__} does not draw from its own sampler")
            continue
        drawn = notes.popleft()
        positions = [drawn] if whole else drawn.tolist() if isinstance(drawn, Tensor | np.ndarray) else list(drawn)
        if isinstance(value, Collated):
            yield value.content, _Drawn(positions, loader.dataset, ordered=value.in_order)
        else:
            yield value, _Drawn(positions, loader.dataset, whole)


def _unknown(loader: Any) -> str:
    """Why a loader does not say which samples it draws; empty where it does."""
    if not isinstance(loader, DataLoader):
        return f"the {type(loader).__name__} does not say which samples it gives"
    if isinstance(loader.dataset, IterableDataset):
        return f"the {type(loader.dataset).__name__} does not say which samples it gives"
    if type(loader).__iter__ is not DataLoader.__iter__:
        return f"the {type(loader).__name__} iterates in a way of its own"
    if loader.num_workers and not getattr(loader, "in_order", True):
        return "its batches come in any order (in_order=False)"
    return ""


class _Noting:
    """A sampler that takes notes of what it draws."""

    def __init__(self, sampler: Any, notes: deque[Any]) -> None:
        self._sampler, self._notes = sampler, notes

    def __iter__(self) -> Iterator[Any]:
        for drawn in self._sampler:
            self._notes.append(drawn)
            yield drawn

    def __len__(self) -> int:
        return len(self._sampler)

"""Identity of samples for any order of a loader: its items with one id per sample.

The first available of these is used: ids in the item; `sample_ids` of the data set, one per position; the position or key that
the sampler drew, in the data set of which a `Subset` (possibly nested) is a part; the order of a list; and, with a warning, the
order of arrival. Samplers draw in the iterating process, in the order of the batches. Therefore a shallow copy of the loader
with a sampler that logs its draws yields the same batches for the same random state.

If a collate function does not keep the order of samples (`collation.py`), only the order of arrival is left.
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
    """An item of a loader, the ids of its samples, and their origin, a key of `probes.ids.IDS_FROM`."""

    item: Item
    ids: Ids
    ids_from: str


def identified(loader: Iterable[Any], reader: Reader, *, first: int = 0) -> Iterator[Identified]:
    """The parsed items of a loader, each with an id per sample; empty items are skipped.

    Parameters
    ----------
    loader : iterable
        As for `probes.capture`; items that are `Identified` already are passed unchanged.
    reader : Reader
        Reader of the network.
    first : int, default 0
        Number of the first sample, if samples are numbered by arrival.

    Raises
    ------
    UsageError
        If a `DistributedSampler` repeats samples.
    DataError
        If an id is repeated, or samples can no longer be identified.
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
    """Ids of the samples at positions of a data set, and their origin; None if positions do not identify them.

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
    """The data set of which a (nested) `Subset` is a part."""
    while isinstance(data, Subset):
        data = data.dataset
    return data


def in_fixed_order(loader: Any) -> bool:
    """Whether a torch loader draws a map-style data set from its first sample to its last."""
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None)
    mapped = isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset)
    return mapped and isinstance(sampler, SequentialSampler)


class _Draw(NamedTuple):
    """The draw of a sampler for one item of a loader.

    Attributes
    ----------
    positions : sequence or None
        Position of each sample; a single one if the item is the entry of the data set at that position.
    data : Any
        The data set.
    is_entry : bool
        Whether the item is the entry of the data set at one position, a sample or a batch.
    ordered : bool
        Whether the rows are in the order of the positions.
    reason : str
        The reason if positions are unknown; else empty.
    """

    positions: Sequence[Any] | None = None
    data: Any = None
    is_entry: bool = False
    ordered: bool = True
    reason: str = ""

    @property
    def origin(self) -> str:
        """Origin of the ids; empty if there are none."""
        named = None if self.positions is None or self.reason else ids_at(self.data, self.positions)
        return "" if named is None else named[1]

    def ids(self, rows: int) -> Ids | None:
        """One id per row, if known."""
        named = None if self.positions is None or self.unknown(rows) else ids_at(self.data, self.positions)
        if named is None:
            return None
        if self.is_entry and rows > 1:
            return as_ids([f"{named[0][0]}/{row}" for row in range(rows)])
        return named[0]

    def unknown(self, rows: int) -> str:
        """The reason why rows have no ids; empty if they have."""
        if self.reason:
            return self.reason
        if not self.ordered:
            return "its collate_fn changes the order of samples, or draws at random"
        if self.positions is None or ids_at(self.data, self.positions) is None:
            return "its sampler gives no numbers or keys"
        return "" if self.is_entry or len(self.positions) == rows else f"its sampler drew {len(self.positions)} samples"


def _origin(loader: Any, item: Item, drawn: _Draw) -> str:
    """Origin of ids, from the first item; warns if it is the order of arrival."""
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
        f"The loader gives no ids, and {why}: samples are numbered in the order of arrival. Recordings in another "
        f"order can't be compared with this one; yield (x, labels, ids), or give a data set or its DataLoader.",
        ArrivalOrderWarning,
        stacklevel=4,
    )
    return "arrival"


def _shared_out(loader: Any) -> DistributedSampler[Any] | None:
    """The sampler that divides a data set among processes, if there is one."""
    for sampler in (getattr(loader, "sampler", None), getattr(getattr(loader, "batch_sampler", None), "sampler", None)):
        if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
            return sampler
    return None


def _refuse_repeated(loader: Any) -> None:
    """Raise UsageError if the sampler repeats samples to give all processes equally many."""
    sampler = _shared_out(loader)
    if sampler is None or sampler.drop_last or not len(sampler.dataset) % sampler.num_replicas:  # type: ignore[arg-type]
        return
    n, parts = len(sampler.dataset), sampler.num_replicas  # type: ignore[arg-type]
    raise UsageError(
        f"The DistributedSampler repeats {-n % parts} of the {n} samples, so that {parts} processes have equally many, but a "
        f"sample must be in one shard only: give each process Subset(data, range(rank, len(data), {parts}))."
    )


def _with_positions(loader: Iterable[Any]) -> Iterator[tuple[Any, _Draw]]:
    """The items of a loader, each with the draw of its sampler."""
    reason = _unknown(loader)
    if reason:
        for value in batches_of(loader):
            yield value, _Draw(reason=reason)
        return
    assert isinstance(loader, DataLoader)
    log: deque[Any] = deque()
    is_entry = loader.batch_sampler is None
    samplers = (
        {"sampler": _LoggingSampler(loader.sampler, log)}
        if is_entry
        else {"batch_sampler": _LoggingSampler(loader.batch_sampler, log)}
    )
    logging_loader = copy.copy(loader)
    # vars: DataLoader refuses to set these; without _iterator it does not reuse the workers of another iteration
    vars(logging_loader).update(samplers, _iterator=None)
    if not is_entry and not keeps_order(loader.collate_fn):
        logging_loader.collate_fn = InOrder(loader.collate_fn)
    for value in batches_of(logging_loader):
        if not log:
            yield value, _Draw(reason=f"the {type(loader).__name__} does not draw from its own sampler")
            continue
        drawn = log.popleft()
        positions = [drawn] if is_entry else drawn.tolist() if isinstance(drawn, Tensor | np.ndarray) else list(drawn)
        if isinstance(value, Collated):
            yield value.content, _Draw(positions, loader.dataset, ordered=value.in_order)
        else:
            yield value, _Draw(positions, loader.dataset, is_entry)


def _unknown(loader: Any) -> str:
    """The reason why the samples that a loader draws are unknown; empty if they are known."""
    if not isinstance(loader, DataLoader):
        return f"the {type(loader).__name__} does not state which samples it yields"
    if isinstance(loader.dataset, IterableDataset):
        return f"the {type(loader.dataset).__name__} does not state which samples it yields"
    if type(loader).__iter__ is not DataLoader.__iter__:
        return f"the {type(loader).__name__} has its own __iter__"
    if loader.num_workers and not getattr(loader, "in_order", True):
        return "its batches come in any order (in_order=False)"
    return ""


class _LoggingSampler:
    """A sampler that logs its draws."""

    def __init__(self, sampler: Any, log: deque[Any]) -> None:
        self._sampler, self._log = sampler, log

    def __iter__(self) -> Iterator[Any]:
        for drawn in self._sampler:
            self._log.append(drawn)
            yield drawn

    def __len__(self) -> int:
        return len(self._sampler)

"""Loaders over a complete run: batches of a data set given in place of a loader, and workers that must share the samples.

An `IterableDataset` that does not divide its samples among W workers yields all of them in every worker. Torch takes batches
from the workers in turn, so that W successive batches are then equal, and at the end every sample has been yielded a multiple
of W times.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pickle import PicklingError
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from probes.errors import DataError, UsageError
from probes.loading.inputs import as_tensors, tensors_in
from probes.loading.targets import are_integers, count_of, label_of

__all__ = ["as_loader", "batches_of", "row_hashes", "stacked"]


def as_loader(source: Iterable[Any] | Dataset[Any], batch_size: int) -> Iterable[Any]:
    """A loader unchanged; a data set of samples in batches of `batch_size`, in order.

    A data set is one of torch or Hugging Face, or an object with `__getitem__` and `__len__` that can't be iterated. Items of
    an `IterableDataset` may be samples or batches; a label per item, or one per row of x, decides.

    Raises
    ------
    UsageError
        If an `IterableDataset` has no labels that decide it.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> [len(x) for (x,) in as_loader(TensorDataset(torch.zeros(5, 2)), 2)]
    [2, 2, 1]
    """
    pair = isinstance(source, tuple) and len(source) == 2 and are_integers(source[1])  # (x, labels), not two batches
    if isinstance(source, Tensor | np.ndarray) or (pair and len(source[0]) == len(source[1])):  # type: ignore[index]
        raise UsageError("An array is not a loader of batches: give [(x, labels)], a DataLoader or a data set.")
    if isinstance(source, IterableDataset):
        return _streamed(source, batch_size)
    kind = type(source)
    mapped = hasattr(kind, "__getitem__") and hasattr(kind, "__len__")
    if isinstance(source, Dataset) or (mapped and (hasattr(kind, "__getitems__") or not hasattr(kind, "__iter__"))):
        return DataLoader(source, batch_size, collate_fn=getattr(source, "collate_fn", stacked))  # type: ignore[arg-type]
    return source


def _streamed(source: IterableDataset[Any], batch_size: int) -> Iterator[Any]:
    """The batches of an `IterableDataset`, which may be read only once."""
    items = iter(source)
    first = next(items, None)
    if first is None:
        return
    items, label = chain([first], items), label_of(first)
    size = next((len(tensor) for tensor in tensors_in(as_tensors(first))), None)
    if label is not None and count_of(label) is None:
        while samples := list(islice(items, batch_size)):
            yield stacked(samples)
    elif label is not None and count_of(label) == size:
        yield from items
    else:
        raise UsageError(
            f"The {type(source).__name__} may give samples or batches, and nothing says which: put it into a DataLoader, "
            f"with batch_size=None if it gives batches."
        )


def stacked(samples: list[Any]) -> Any:
    """Torch's collation; raises a sentence if samples can't be stacked."""
    try:
        return default_collate(samples)
    except (TypeError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"The data set's samples can't be stacked ({reason}): give it a transform that makes tensors of one size, or a "
            f"DataLoader with a collate_fn in its place."
        ) from error


def batches_of(loader: Iterable[Any]) -> Iterable[Any]:
    """The loader's items, checked for duplicates if several workers may each yield all samples."""
    if not isinstance(loader, DataLoader) or not loader.num_workers:
        return loader
    if isinstance(loader.dataset, IterableDataset) and loader.num_workers > 1:
        return _watched(loader)
    return _started(loader)


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """The items of a loader whose workers can be started.

    Raises
    ------
    UsageError
        If the data set, the collate_fn or the worker_init_fn can't be sent to another process.
    """
    try:
        items = iter(loader)
    except (PicklingError, AttributeError, TypeError) as error:
        if "pickle" not in str(error).lower() and not isinstance(error, PicklingError):
            raise
        raise UsageError(
            f"The loader can't be sent to its {loader.num_workers} workers ({error}): define data set, collate_fn and "
            f"worker_init_fn in a module, not as lambdas or within functions, or use num_workers=0."
        ) from error
    yield from items


def _watched(loader: DataLoader[Any]) -> Iterator[Any]:
    """The items of a loader over an `IterableDataset`.

    Raises
    ------
    DataError
        If each worker yields the same samples: after one batch of each, or at the end if these could be equal by chance.
    """
    workers = loader.num_workers
    sentence = (
        f"Each of the {workers} workers gives all samples of the {type(loader.dataset).__name__}: let its __iter__ share "
        f"them out with torch.utils.data.get_worker_info(), or use num_workers=1."
    )
    counts: Counter[int] = Counter()
    round_: list[list[int]] = []
    for step, item in enumerate(_started(loader)):
        contents = row_hashes(item)
        counts.update(contents)
        if step < workers:
            round_.append(contents)
            # Batches are equal although their samples differ; if all samples are equal, nothing follows.
            if len(round_) == workers and len(set(contents)) > 1 and all(other == contents for other in round_):
                raise DataError(sentence)
        yield item
    if len(counts) > 1 and all(count % workers == 0 for count in counts.values()):
        raise DataError(sentence)


def row_hashes(item: Any) -> list[int]:
    """A hash of each sample's tensors."""
    tensors = list(tensors_in(item))
    rows = len(tensors[0]) if tensors else 0
    flat = [tensor.detach().cpu().reshape(rows, -1).contiguous() for tensor in tensors if len(tensor) == rows]
    columns = [tensor.view(torch.uint8).numpy() for tensor in flat if tensor.numel()]
    return [xxhash.xxh3_64_intdigest(b"".join(column[row].tobytes() for column in columns)) for row in range(rows)]

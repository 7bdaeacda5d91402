"""Several activations files of one network, read as one: shards of a data set, with each sample in exactly one shard.

All shards must have the same layers, shapes and pools, no shard may be missing, and no sample id may occur in two shards.
Then any statistic over the shards equals that over one file with all samples. `merge` writes that file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from probes.batch import Batch
from probes.errors import FormatError, IncompleteError, UsageError
from probes.ids import are_texts, duplicate
from probes.options import CompressionOption, OverwriteOption
from probes.source import Source
from probes.storage.format import RUN_DEPENDENT_ATTRS
from probes.storage.store import Store
from probes.storage.writer import create, layer_signature

__all__ = ["Shards", "merge", "shard_name"]

_IDENTITY = ("model", "weights_sha256", "preprocessing", "pool", "precision", "dtype", "forward")


def shard_name(shard: int, shards: int) -> str:
    """File name of a shard; names sort in the order of the shards.

    Examples
    --------
    >>> shard_name(2, 8)
    'shard-00002-of-00008.h5'
    """
    return f"shard-{shard:05d}-of-{shards:05d}.h5"


class Shards(Source):
    """Stores read as one, in the order of their shard numbers; without numbers, in the order of `stores`.

    Parameters
    ----------
    stores : sequence of Store
        At least one.

    Raises
    ------
    FormatError
        If layers, shapes, pools or the network differ, or a sample id occurs in two shards.
    IncompleteError
        If a shard is missing.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        _refuse_missing(stores)
        self.stores = sorted(stores, key=lambda store: int(store.attrs.get("shard", 0)))
        first = self.stores[0]
        self.attrs = {key: value for key, value in first.attrs.items() if key not in ("shard", "shards")}
        self.info = first.info
        for store in self.stores[1:]:
            ours, theirs = _layout(first), _layout(store)
            if ours != theirs:
                mismatched = next(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
                raise FormatError(
                    f"{store.path} and {first.path} are not shards of one run: layer {mismatched!r} is not the same in both."
                )
            for key in _IDENTITY:
                if (first.attrs.get(key) or "") != (store.attrs.get(key) or ""):  # older files have no attribute forward
                    raise FormatError(f"{store.path} and {first.path} are not shards of one run: their {key} differs.")
            if _column_signature(store) != _column_signature(first):
                raise FormatError(
                    f"Only one of {store.path} and {first.path} has labels, targets or splits; shards need the same columns."
                )
            if are_texts(first.ids) != are_texts(store.ids):
                raise FormatError(f"Only one of {store.path} and {first.path} has texts as sample ids; shards need one kind.")
        if (repeated := duplicate(self.ids)) is not None:
            raise FormatError(f"Sample id {repeated!r} is in two shards; each sample belongs in one.")

    @property
    def name(self) -> str:
        """The files, joined by commas."""
        return ", ".join(str(store.path) for store in self.stores)

    @property
    def class_names(self) -> list[str] | None:
        """Name of class 0, 1, ..., or None."""
        return self.stores[0].class_names

    @property
    def head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Weights (K, d) and offsets (K,) of the network's final linear layer, or None."""
        return self.stores[0].head

    @property
    def ids(self) -> NDArray[Any]:
        """Sample ids of all shards, (n,)."""
        return np.concatenate([store.ids for store in self.stores])

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each sample, (n,), or None."""
        parts = [labels for store in self.stores if (labels := store.labels) is not None]
        return np.concatenate(parts) if parts else None

    @property
    def targets(self) -> NDArray[np.float64] | None:
        """Continuous targets of each sample, (n, t), or None."""
        parts = [targets for store in self.stores if (targets := store.targets) is not None]
        return np.concatenate(parts) if parts else None

    @property
    def split(self) -> NDArray[np.str_] | None:
        """Split of each sample, (n,), or None."""
        parts = [split for store in self.stores if (split := store.split) is not None]
        return np.concatenate(parts) if parts else None

    @property
    def skipped(self) -> dict[str, str]:
        """Layers that ran but were not recorded, each with its reason."""
        return self.stores[0].skipped

    @property
    def non_finite(self) -> dict[str, int]:
        """Number of NaN and inf values of each layer that has any."""
        counts: dict[str, int] = {}
        for store in self.stores:
            for layer, count in store.non_finite.items():
                counts[layer] = counts.get(layer, 0) + count
        return counts

    def __len__(self) -> int:
        return sum(map(len, self.stores))

    def __getitem__(self, layer: str) -> NDArray[Any]:
        """All rows of one layer, (n, ...)."""
        return np.concatenate([store[layer] for store in self.stores])

    def iter(self, layers: Sequence[str] | None = None, size: int | None = None) -> Iterator[Batch]:
        """Batches of rows, shard after shard; see `Source.iter`."""
        for store in self.stores:
            yield from store.iter(layers, size)

    def close(self) -> None:
        """Close every file."""
        for store in self.stores:
            store.close()


def merge(
    source: Source,
    path: str | PathLike[str],
    *,
    compression: CompressionOption = "none",
    overwrite: OverwriteOption = False,
    progress: bool | None = None,
) -> Store:
    """Write all samples of a source to one activations file.

    Parameters
    ----------
    source : Source
        Such as `probes.open("folder/")`.
    path : path-like
        File to write.
    compression : {"none", "lzf", "gzip", "lz4", "zstd"}, default "none"
        Compression of the file.
    overwrite : bool, default False
        Replace an existing file.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.

    Returns
    -------
    Store
        The file, for reading. Its data sets equal those that one process would have written.
    """
    path = Path(path)
    files = [store.path for store in getattr(source, "stores", [source]) if isinstance(store, Store)]
    if path.exists() and any(path.samefile(file) for file in files):
        raise UsageError(f"{path} is one of the files to merge; give another name.")
    attrs: Mapping[str, Any] = {key: value for key, value in source.attrs.items() if key not in _WRITTEN_ANEW}
    hidden = None if progress is None else not progress
    with (
        create(path, attrs=attrs, class_names=source.class_names, head=source.head, compression=compression,
               expected=len(source), overwrite=overwrite) as writer,
        tqdm(total=len(source), unit=" samples", disable=hidden, desc=path.name) as bar,
    ):  # fmt: skip
        for batch in source.iter():
            writer.append(batch)
            bar.update(len(batch))
    return Store(path)


_WRITTEN_ANEW = (RUN_DEPENDENT_ATTRS - {"command", "versions", "device", "created", "ids_from"}) | {
    "shard",
    "shards",
    "compression",
}


def _refuse_missing(stores: Sequence[Store]) -> None:
    """Raise `IncompleteError` if a shard is missing, `FormatError` if the shard numbers are inconsistent."""
    totals = {int(store.attrs["shards"]) for store in stores if "shards" in store.attrs}
    if not totals:
        return
    present = [int(store.attrs["shard"]) for store in stores if "shard" in store.attrs]
    folder = stores[0].path.parent
    if len(totals) > 1 or len(set(present)) < len(stores):
        raise FormatError(f"The files in {folder} are not shards of one run: their shard numbers are inconsistent.")
    total = totals.pop()
    if missing := sorted(set(range(total)) - set(present)):
        names = ", ".join(shard_name(shard, total) for shard in missing[:3])
        raise IncompleteError(
            f"{len(missing)} of {total} shards are missing in {folder}: {names}{', ...' if len(missing) > 3 else ''}. "
            f"Extract them with --resume and the same number of processes as before."
        )


def _column_signature(store: Store) -> tuple[bool, bool, int | None]:
    """Whether labels and splits are missing, and the number of targets (None without targets)."""
    targets = store.targets
    return store.labels is None, store.split is None, None if targets is None else targets.shape[1]


def _layout(store: Store) -> dict[str, Any]:
    """Signature and row shape of each layer, which must be equal in all shards."""
    return {name: (layer_signature(info), store.shape(name)[1:]) for name, info in store.info.items()}

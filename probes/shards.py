"""Several activations files of one network, read as one: shards of a data set, each sample in one of them.

Every shard must hold the same layers, shapes and pools, and no sample id may stand in two of them; then any statistic
over the shards is the one over the single file that they could have been.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from probes.batch import Batch, LayerInfo
from probes.errors import FormatError
from probes.store import Store

__all__ = ["Shards"]


class Shards:
    """Stores read as one, in the order given.

    Parameters
    ----------
    stores : sequence of Store
        At least one.

    Raises
    ------
    FormatError
        If layers, shapes or pools differ, or a sample id stands in two shards.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self.stores = list(stores)
        first = self.stores[0]
        for store in self.stores[1:]:
            ours, theirs = _kind(first), _kind(store)
            if ours != theirs:
                odd = next(name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name))
                raise FormatError(
                    f"{store.path} and {first.path} are no shards of one run: layer {odd!r} is not the same in both."
                )
            if (store.labels is None) != (first.labels is None):
                raise FormatError(f"Only one of {store.path} and {first.path} has labels; shards need the same columns.")
        ids, counts = np.unique(self.ids, return_counts=True)
        if (counts > 1).any():
            raise FormatError(f"Sample id {ids[counts > 1][0]} stands in two shards; each sample belongs in one.")

    @property
    def path(self) -> str:
        """The files, joined by commas."""
        return ", ".join(str(store.path) for store in self.stores)

    @property
    def attrs(self) -> dict[str, Any]:
        """Provenance of the first shard."""
        return self.stores[0].attrs

    @property
    def info(self) -> dict[str, LayerInfo]:
        """LayerInfo by layer name."""
        return self.stores[0].info

    @property
    def layers(self) -> list[str]:
        """Layer names in order of execution."""
        return self.stores[0].layers

    @property
    def class_names(self) -> list[str] | None:
        """Name of class 0, 1, ..., or None."""
        return self.stores[0].class_names

    @property
    def ids(self) -> NDArray[np.int64]:
        """Sample ids of all shards, (n,)."""
        return np.concatenate([store.ids for store in self.stores])

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each sample, (n,), or None."""
        found = [labels for store in self.stores if (labels := store.labels) is not None]
        return np.concatenate(found) if found else None

    def __len__(self) -> int:
        return sum(map(len, self.stores))

    def __getitem__(self, layer: str) -> NDArray[Any]:
        """All rows of one layer, (n, ...)."""
        return np.concatenate([store[layer] for store in self.stores])

    def iter(self, layers: Sequence[str] | None = None, size: int | None = None) -> Iterator[Batch]:
        """Batches of rows, shard after shard; see `Store.iter`."""
        for store in self.stores:
            yield from store.iter(layers, size)

    def close(self) -> None:
        """Close every file."""
        for store in self.stores:
            store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _kind(store: Store) -> dict[str, tuple[LayerInfo, tuple[int, ...]]]:
    """What must be the same in every shard; the depth is rounded, since it is a float."""
    return {name: (replace(info, depth=round(info.depth, 9)), store._data(name).shape[1:]) for name, info in store.info.items()}

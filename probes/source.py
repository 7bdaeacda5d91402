"""`Source`: activations of n samples in a file, several files, or memory.

All sources have the same interface. A subclass implements the abstract members; iterating and exporting are implemented
here.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from probes.batch import Batch, LayerInfo
from probes.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    import anndata
    import xarray

__all__ = ["Source"]


class Source(ABC):
    """Activations of n samples, read lazily.

    Attributes
    ----------
    attrs : dict
        Provenance.
    info : dict of str to LayerInfo
        The layers, in order of execution.
    """

    attrs: dict[str, Any]
    info: dict[str, LayerInfo]

    @property
    @abstractmethod
    def name(self) -> str:
        """Name in messages."""

    @property
    @abstractmethod
    def ids(self) -> NDArray[Any]:
        """Sample ids, (n,): integers or texts."""

    @property
    @abstractmethod
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each sample, (n,), -1 if missing; or None."""

    @property
    @abstractmethod
    def split(self) -> NDArray[np.str_] | None:
        """Split of each sample, (n,), or None."""

    @property
    @abstractmethod
    def class_names(self) -> list[str] | None:
        """Name of class 0, 1, ..., or None."""

    @abstractmethod
    def __getitem__(self, layer: str) -> NDArray[Any]:
        """All rows of one layer, (n, ...)."""

    @abstractmethod
    def iter(self, layers: Sequence[str] | None = None, size: int | None = None) -> Iterator[Batch]:
        """Batches of rows, in order.

        Parameters
        ----------
        layers : sequence of str, optional
            Layer names; default all.
        size : int, optional
            Rows per batch; by default about 32 MB.

        Yields
        ------
        Batch
            The next rows of the named layers.

        Raises
        ------
        UsageError
            If there is no such layer.
        """

    @property
    def targets(self) -> NDArray[np.float64] | None:
        """Continuous targets of each sample, (n, t), NaN if missing; or None."""
        return None

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the columns of `targets`; may be empty."""
        names = self.attrs.get("target_names", ())
        return tuple(json.loads(names) if isinstance(names, str) else names)

    @property
    def head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Weights (K, d) and offsets (K,) of the linear layer that the network ends with, or None."""
        return None

    def take(self, layer: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Selected rows of one layer, (len(rows), ...)."""
        return self[layer][rows]

    @property
    def layers(self) -> list[str]:
        """Layer names in order of execution."""
        return list(self.info)

    @property
    def skipped(self) -> dict[str, str]:
        """Layers that ran but were not recorded, each with its reason."""
        return {}

    @property
    def non_finite(self) -> dict[str, int]:
        """Layers that hold NaN or inf, and how many of them."""
        return {}

    def __len__(self) -> int:
        return len(self.ids)

    def close(self) -> None:
        """Close open files."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}: {len(self)} samples, {len(self.info)} layers>"

    def check_layer(self, layer: str) -> None:
        """Raise `UsageError` if there is no such layer."""
        if layer not in self.info:
            raise UsageError(
                f"{self.name} has no layer {layer!r}.{did_you_mean(layer, self.info)} It has {len(self.info)}, "
                f"`.layers` or `repanalysis info` lists them."
            )

    def to_xarray(self, layers: Sequence[str] | None = None) -> xarray.Dataset:
        """Layers as variables of one `xarray.Dataset`; see `probes.export.to_xarray`."""
        from probes.export import to_xarray

        return to_xarray(self, layers)

    def to_anndata(self, layer: str) -> anndata.AnnData:
        """One layer as an `anndata.AnnData`; see `probes.export.to_anndata`."""
        from probes.export import to_anndata

        return to_anndata(self, layer)

    def to_safetensors(self, path: str | PathLike[str], layers: Sequence[str] | None = None) -> None:
        """Layers, ids and labels as one safetensors file; see `probes.export.to_safetensors`."""
        from probes.export import to_safetensors

        to_safetensors(self, path, layers)

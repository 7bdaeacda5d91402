"""`Batch`: n samples with the activations of every recorded layer, the type between capture and analysis.

Row i of every array belongs to sample `ids[i]`. A batch may come from a model, a file, several files or arrays; its
form is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray

from probes.errors import DataError
from probes.ids import Ids, as_ids, id_keys, refuse_duplicates

__all__ = ["Batch", "LayerInfo"]


@dataclass(frozen=True)
class LayerInfo:
    """Position of a layer in its network, and form of its recorded output.

    Attributes
    ----------
    name : str
        Module path; the k-th further call of one module in a forward pass is `name_k`.
    order : int
        Rank among the recorded layers, by first execution, from 0.
    depth : float
        Share of the forward pass's leaf calls that have run when this output exists: 0 is the input, 1 the output.
        It does not depend on which layers were recorded, so that different networks can be compared.
    dims : tuple of str
        Names of the recorded axes, `("sample", "channel", ...)`.
    pool : str
        Pool of the output.
    module_type : str
        Class name of the module.
    call_index : int
        0 for the module's first call in a forward pass, 1 for the next.
    source_shape : tuple of int
        Shape of one sample's output before pooling.
    dtype_source : str
        Element type of the output before pooling.
    prefix_tokens : int
        Number of tokens at the front of `source_shape` without a position in the image (CLS, registers).
    source_dims : tuple of str
        Names of the axes of the output, in the module's order: `("token", "sample", "channel")`. `source_shape` has the sizes
        of all but the samples' axis; `sample*window` is a shared axis.
    axes_from : str
        How they were determined: "measured" (by passes with other batch and input sizes), "weight" (from the module's type or
        weight), "given" (by the option `axes`) or "guessed".
    padding : str
        "excluded" if the pool omitted the padding by the batch's mask; "included: reason" if it did not; empty without a mask.
    averaged : float
        For means over P positions in half-precision networks: the effective number of independently rounded values in each
        mean, P E[mean^2] / E[x^2] in the first step; 1 without averaging. The variance that rounding adds to a feature is
        divided by it.
    """

    name: str
    order: int
    depth: float
    dims: tuple[str, ...]
    pool: str = "none"
    module_type: str = ""
    call_index: int = 0
    source_shape: tuple[int, ...] = ()
    dtype_source: str = ""
    prefix_tokens: int = 0
    source_dims: tuple[str, ...] = ()
    axes_from: str = ""
    padding: str = ""
    averaged: float = field(default=1.0, compare=False)


def default_info(layers: Mapping[str, NDArray[Any]]) -> dict[str, LayerInfo]:
    """The default `LayerInfo` of arrays: order and depth follow the order of the mapping."""
    return {
        name: LayerInfo(
            name=name,
            order=order,
            depth=(order + 1) / len(layers),
            dims=("sample", "channel", *(f"axis{axis}" for axis in range(2, array.ndim)))[: array.ndim],
            source_shape=array.shape[1:],
            dtype_source=str(array.dtype),
        )
        for order, (name, array) in enumerate(layers.items())
    }


@dataclass(frozen=True, eq=False)
class Batch:
    """n samples: ids, optional labels and splits, and one array per layer.

    Parameters
    ----------
    ids : (n,) integer or text array
        Sample ids, unique within the batch.
    layers : mapping of str to (n, ...) array
        Activations by layer name, in order of execution. The batch owns them.
    labels : (n,) integer array, optional
        Class of each sample; -1 and -100 mean a missing label.
    split : (n,) string array, optional
        Split of each sample, such as `"train"`.
    info : mapping of str to LayerInfo, optional
        Defaults to the order of `layers`.
    left_out : mapping of str to str, optional
        Layers that were not recorded, each with the reason.
    ids_from : str, optional
        Origin of the ids, a key of `probes.ids.IDS_FROM`.
    targets : (n,) or (n, t) array of numbers, optional
        Continuous targets of each sample, NaN if missing; stored as (n, t) float64.
    target_names : tuple of str, optional
        Names of their columns.

    Raises
    ------
    DataError
        If the lengths differ, an id is repeated, or labels are not integers.

    Examples
    --------
    >>> batch = Batch(ids=np.arange(2), layers={"relu": np.ones((2, 3))}, labels=np.array([0, 1]))
    >>> len(batch), batch.info["relu"].depth
    (2, 1.0)
    """

    ids: Ids
    layers: Mapping[str, Shaped[np.ndarray, "n ..."]]
    labels: Int[np.ndarray, " n"] | None = None
    split: Shaped[np.ndarray, " n"] | None = None
    info: Mapping[str, LayerInfo] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    ids_from: str = ""
    targets: Float[np.ndarray, "n ..."] | None = None
    target_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", as_ids(self.ids))
        refuse_duplicates(self.ids, "one batch")
        n = len(self.ids)
        if self.labels is not None and (self.labels.ndim != 1 or self.labels.dtype.kind not in "iub"):
            raise DataError(
                f"The labels of a batch have shape {self.labels.shape} and type {self.labels.dtype}; one integer a sample is "
                f"needed. probes.labels.annotated reads text and one-hot rows; continuous ones are targets=."
            )
        if self.targets is not None:
            targets = np.asarray(self.targets, np.float64)
            object.__setattr__(self, "targets", targets.reshape(len(targets), -1))
        rows = {f"layer {name!r}": len(array) for name, array in self.layers.items()}
        rows |= {"labels": n if self.labels is None else len(self.labels)}
        rows |= {"targets": n if self.targets is None else len(self.targets)}
        rows |= {"split": n if self.split is None else len(self.split)}
        for what, length in rows.items():
            if length != n:
                raise DataError(f"{what} has {length} rows for {n} sample ids; every array needs one row per sample.")
        if missing := [name for name in self.layers if name not in self.info]:
            if len(missing) != len(self.layers):
                raise DataError(f"Layer {missing[0]!r} comes without LayerInfo while others have it.")
            object.__setattr__(self, "info", default_info(self.layers))

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def keys(self) -> Int[np.ndarray, " n"]:
        """The 64 bits by which each sample is drawn; see `probes.ids`."""
        return id_keys(self.ids)

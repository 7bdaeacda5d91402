"""Features in memory, with the interface of a file of activations. For files of features see `probes.features`."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probes.batch import Batch, default_info
from probes.errors import DataError
from probes.ids import as_ids
from probes.labels import Annotations, annotated
from probes.source import Source

__all__ = ["Arrays", "from_arrays"]

_BATCH_BYTES = 32 << 20


class Arrays(Source):
    """Activations in memory; see `from_arrays`."""

    def __init__(self, whole: Batch, class_names: Sequence[str] | None, attrs: Mapping[str, Any], title: str) -> None:
        self.attrs = dict(attrs)
        self.info = dict(whole.info)
        self._whole, self._class_names, self._title = whole, class_names, title

    @property
    def name(self) -> str:
        """Name in messages."""
        return self._title

    @property
    def ids(self) -> NDArray[Any]:
        """Sample ids, (n,): integers or texts."""
        return self._whole.ids

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each sample, (n,), or None."""
        return self._whole.labels

    @property
    def targets(self) -> NDArray[np.float64] | None:
        """Continuous targets of each sample, (n, t), or None."""
        return self._whole.targets

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the columns of `targets`; may be empty."""
        return self._whole.target_names

    @property
    def split(self) -> NDArray[np.str_] | None:
        """Split of each sample, (n,), or None."""
        return self._whole.split

    @property
    def class_names(self) -> list[str] | None:
        """Name of class 0, 1, ..., or None."""
        return None if self._class_names is None else list(self._class_names)

    def __getitem__(self, layer: str) -> NDArray[Any]:
        """All rows of one layer, (n, ...)."""
        self.check_layer(layer)
        return self._whole.layers[layer]

    def iter(self, layers: Sequence[str] | None = None, size: int | None = None) -> Iterator[Batch]:
        """Batches of rows, as views; see `Source.iter`."""
        whole = self._whole
        arrays = {name: self[name] for name in (self.layers if layers is None else layers)}
        row_bytes = sum(array[:1].nbytes for array in arrays.values())
        step = size or max(1, _BATCH_BYTES // max(1, row_bytes))
        for start in range(0, len(self), step):
            rows = slice(start, start + step)
            yield Batch(
                ids=whole.ids[rows],
                layers={name: array[rows] for name, array in arrays.items()},
                labels=None if whole.labels is None else whole.labels[rows],
                split=None if whole.split is None else whole.split[rows],
                info={name: self.info[name] for name in arrays},
                targets=None if whole.targets is None else whole.targets[rows],
                target_names=whole.target_names,
                ids_from=whole.ids_from,
            )


def from_arrays(
    layers: Mapping[str, ArrayLike],
    *,
    labels: ArrayLike | None = None,
    ids: ArrayLike | None = None,
    split: ArrayLike | str | None = None,
    class_names: Sequence[str] | None = None,
    attrs: Mapping[str, Any] | None = None,
    targets: ArrayLike | None = None,
    ignore_labels: Collection[int] = (),
) -> Arrays:
    """Features in memory, to analyse or export like a file of activations.

    Parameters
    ----------
    layers : mapping of str to (n, ...) array
        Features by layer, in order of depth. They are not copied.
    labels : (n,) integers or text, or one-hot (n, K), optional
        Class of each sample; -1, -100, NaN and None mean a missing label. Text is numbered in alphabetical order (names that
        are all numbers by value) and becomes the class names. Floats that are not whole are continuous targets.
    ids : (n,) integers or texts, optional
        Sample ids, such as names of files; default 0, 1, ...
    split : str or (n,) text, optional
        Split of all samples, or of each.
    class_names : sequence of str, optional
        Name of class 0, 1, ...
    attrs : mapping, optional
        Provenance, such as `{"model": "mine"}`.
    targets : (n,) or (n, t) numbers, optional
        Continuous targets, NaN if missing.
    ignore_labels : collection of int, optional
        Further labels that mean a missing label.

    Returns
    -------
    Arrays
        A source for `analyze`, with `to_xarray`, `to_anndata`, `to_safetensors`.

    Raises
    ------
    DataError
        If lengths differ, an id is repeated, features are not numbers, or labels are neither classes nor targets.

    Examples
    --------
    >>> source = from_arrays({"early": np.zeros((4, 2)), "late": np.ones((4, 3))}, labels=["cat", "dog", "cat", "dog"])
    >>> source.layers, source.labels.tolist(), source.class_names
    (['early', 'late'], [0, 1, 0, 1], ['cat', 'dog'])
    """
    arrays = {name: np.asarray(array) for name, array in layers.items()}
    if not arrays:
        raise DataError("There are no arrays; give at least one layer.")
    for name, array in arrays.items():
        if array.ndim < 1 or array.dtype.kind not in "fiub":
            raise DataError(
                f"Layer {name!r} has shape {array.shape} and type {array.dtype}; a row of numbers per sample is due."
            )
    arrays = {name: array[:, None] if array.ndim == 1 else array for name, array in arrays.items()}
    n = len(next(iter(arrays.values())))
    read = Annotations() if labels is None else annotated(labels, ignore=ignore_labels, class_names=class_names)
    if read.note:
        warnings.warn(read.note, stacklevel=2)
    if read.targets is not None and targets is not None:
        raise DataError("The labels are continuous targets, and there are targets as well; give labels that are classes.")
    aims = read if targets is None else annotated(targets, what="The targets", continuous=True)
    splits = None if split is None else np.full(n, split) if isinstance(split, str) else np.asarray(split, dtype=np.str_)
    whole = Batch(
        ids=np.arange(n) if ids is None else as_ids(ids),  # type: ignore[arg-type]  # numpy's ArrayLike includes scalars
        layers=arrays,
        labels=read.labels,
        split=splits,
        info=default_info(arrays),
        ids_from="index" if ids is None else "given",
        targets=aims.targets,
        target_names=aims.target_names,
    )
    return Arrays(whole, read.class_names or class_names, attrs or {}, "the arrays")

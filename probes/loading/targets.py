"""Labels and ids of a loader's item: classes or targets of samples, or the reason why they are neither.

Annotations of parts of a sample (boxes, masks, images, a class per token) are skipped with a sentence. `probes.labels` decides
whether the others are classes or targets; the first batch decides for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.errors import DataError
from probes.ids import Ids, are_texts, as_ids, refuse_duplicates
from probes.labels import Annotations, annotated
from probes.loading.inputs import Inputs, tensors_in

__all__ = ["LABELS", "annotations_of", "are_integers", "count_of", "ids_of", "label_of"]

_WHAT = "The loader's labels"
LABELS = ("labels", "label", "targets", "target", "y")  # keys of mappings


def annotations_of(
    labels: Any, inputs: Inputs, class_names: Sequence[str] | None = None, *, before: Annotations | None = None
) -> Annotations | str | None:
    """Classes or continuous targets of samples, from the labels of a loader's item.

    Parameters
    ----------
    labels : object
        A tensor on any device, an array, a list, a number for a single sample; None without labels.
    inputs : Inputs
        Inputs of the same item.
    class_names : sequence of str, optional
        Name of class 0, 1, ...; text is converted to their numbers.
    before : Annotations, optional
        Annotations of the previous batch: classes stay classes, and targets stay targets.

    Returns
    -------
    Annotations, str or None
        The annotations; a sentence if they are not of samples.

    Raises
    ------
    DataError
        If they may be classes or targets.

    Examples
    --------
    >>> annotations_of([[2], [0]], Inputs((torch.zeros(2, 3),), rows=2)).labels
    array([2, 0])
    """
    if labels is None or isinstance(labels, Annotations):
        return labels
    rows, values = inputs.rows, _array(labels)
    if values is None or values.ndim > 2 or (values.ndim == 2 and _like_inputs(values, inputs)):
        return (
            f"The loader's targets ({_described(labels)}) are not classes of samples: recorded without labels. Give one "
            f"integer per sample, or None."
        )
    if values.ndim == 0 and rows != 1:
        raise DataError(f"The loader gives a single label for {rows} rows of x: samples without a batch axis? Give batches.")
    values = _flat(values)
    if len(values) != rows:
        parts = tensors_in((inputs.args, inputs.kwargs))
        first = any(not x.is_nested and x.ndim > 1 and x.shape[1] == len(values) for x in parts)
        advice = " Samples must be the first axis: transpose x, and give forward= to turn it back." if first else ""
        raise DataError(f"The loader gives {len(values)} labels for {rows} rows of x.{advice}")
    if _is_text(values) and class_names is None:
        raise DataError(
            "The loader's labels are text, and batches do not say in which order to number the classes: give "
            "class_names=sorted(set(labels))."
        )
    continuous = before is not None and before.targets is not None
    result = annotated(values, what=_WHAT, class_names=class_names, continuous=continuous, whole=False)
    if before is not None and before.labels is not None and result.targets is not None:
        raise DataError(
            f"{_WHAT} were whole numbers, taken for classes, and now are none: give labels.long() if they are classes; if they "
            f"are continuous targets, give None here, and analyze(..., targets=) (--targets FILE) with all of them."
        )
    return result


def ids_of(ids: Any, rows: int, name: str) -> Ids | str | None:
    """One id per sample; a sentence if the values are not ids, such as metadata.

    Parameters
    ----------
    ids : object
        In the forms of labels; integers or texts.
    rows : int
        Number of samples.
    name : str
        Name of the entry; `"ids"` must be ids.

    Raises
    ------
    DataError
        If an id is repeated, or `"ids"` are not one integer or one text per sample.
    """
    if ids is None:
        return None
    certain, what = name in ("ids", "__key__"), f"The loader's {name}"
    try:
        result = as_ids(_listed(ids, what), what)
        if result.shape != (rows,):
            raise DataError(f"{what} are {len(result)} for {rows} rows of x; one per sample is needed.")
    except DataError:
        if certain:
            raise
        return f"{what} ({_described(ids)}) is not one integer or one text per sample, so it is not taken for ids."
    if are_texts(result) and not certain and len(set(result.tolist())) < rows:
        return f"{what} ({_described(ids)}) is the same text for several samples, so it is not taken for ids."
    refuse_duplicates(result, "one batch", "" if certain else f" If the loader's {name} is something else, leave it out.")
    return result


def _listed(ids: Any, what: str) -> Any:
    """Ids without torch, and without an axis of length 1."""
    if isinstance(ids, Tensor):
        ids = ids.detach().cpu().numpy() if ids.dtype != torch.bfloat16 else ids.detach().cpu().float().numpy()
    if isinstance(ids, list | tuple):
        ids = [item.item() if isinstance(item, Tensor) and item.numel() == 1 else item for item in ids]
        if any(isinstance(item, list | tuple | Mapping | Tensor) for item in ids):
            raise DataError(f"{what} are {_described(ids)}; one integer or one text per sample is needed.")
    elif isinstance(ids, str | bytes | PurePath | Integral):
        ids = [ids]
    elif not hasattr(ids, "__array__"):
        raise DataError(f"{what} are {_described(ids)}; one integer or one text per sample is needed.")
    array = ids if isinstance(ids, list) else np.asarray(ids)
    return _flat(array) if isinstance(array, np.ndarray) else array


def label_of(item: Any) -> Any:
    """The labels, or the label, of an item; None without one."""
    if isinstance(item, Mapping):
        return next((item[key] for key in LABELS if key in item), None)
    return item[1] if isinstance(item, list | tuple) and len(item) > 1 else None


def count_of(labels: Any) -> int | None:
    """Number of samples that labels belong to; None if unknown."""
    if isinstance(labels, Annotations):
        column = labels.targets if labels.labels is None else labels.labels
        return None if column is None else len(column)
    if isinstance(labels, Tensor | np.ndarray):
        return len(labels) if labels.ndim else None
    return len(labels) if isinstance(labels, list | tuple) else None


def are_integers(values: Any) -> bool:
    """Whether values are one integer per sample."""
    array = _array(values)
    return array is not None and array.ndim == 1 and array.dtype.kind in "iub"


def _is_text(values: NDArray[Any]) -> bool:
    """Whether values are text."""
    return values.dtype.kind in "US" or (values.dtype == object and any(isinstance(item, str | bytes) for item in values.flat))


def _like_inputs(values: NDArray[Any], inputs: Inputs) -> bool:
    """Whether targets have the shape of an input of several numbers: a class per token, or the target of an autoencoder."""
    parts = tensors_in((inputs.args, inputs.kwargs))
    return values.shape[1] > 1 and any(not x.is_nested and tuple(x.shape) == values.shape for x in parts)


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """A number, or a column with one number per sample, as an array of one axis."""
    return values.reshape(-1) if values.ndim == 0 or values.shape[1:] == (1,) else values


def _array(values: Any) -> NDArray[Any] | None:
    """Numbers or texts as an array; None if they are ragged."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray(values.float() if values.dtype == torch.bfloat16 else values)
    if isinstance(values, list | tuple):
        values = [entry.item() if isinstance(entry, Tensor) and entry.numel() == 1 else entry for entry in values]
        if any(isinstance(entry, Tensor | Mapping) for entry in values):
            return None
        if any(entry is None for entry in values):
            return np.array([*values, ()], object)[:-1]  # flat, whatever the others are
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return None
    scalar = (str, bytes, int, float, np.generic, type(None))
    return None if array.dtype == object and not all(isinstance(item, scalar) for item in array.flat) else array


def _described(value: Any) -> str:
    """`"a tuple of str"`, `"float32 (8, 3)"`."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    inner = f" of {type(value[0]).__name__}" if isinstance(value, list | tuple) and value else ""
    return f"a {type(value).__name__}{inner}"

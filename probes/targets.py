"""Labels and ids of a loader's item: one per sample, a sentence, or an error; never classes that nobody meant.

What can't be a class of a sample (boxes, masks, images, a class per token) is left out with a sentence; what might stand for
classes but is no integer (floats, one-hot rows, texts, negative numbers) is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from probes.errors import DataError
from probes.ids import Ids, are_texts, as_ids, refuse_duplicates
from probes.inputs import Inputs, tensors_in

__all__ = ["LABELS", "are_integers", "classes_of", "count_of", "ids_of", "label_of"]

LABELS = ("labels", "label", "targets", "target", "y")  # what mappings call them


def classes_of(labels: Any, inputs: Inputs) -> Int64[np.ndarray, " n"] | str | None:
    """One class per sample, of whatever a loader gives as labels.

    Parameters
    ----------
    labels : object
        A tensor on any device, an array, a list, a number for a single sample; None where there are none.
    inputs : Inputs
        What they belong to.

    Returns
    -------
    (n,) int64 array, str or None
        Classes from 0 on; a sentence where the targets are no classes.

    Raises
    ------
    DataError
        If they might be classes, but are not one integer from 0 per sample.

    Examples
    --------
    >>> classes_of([[2], [0]], Inputs((torch.zeros(2, 3),), rows=2))
    array([2, 0])
    """
    if labels is None:
        return None
    rows, values = inputs.rows, _array(labels)
    if values is None or values.ndim > 2 or (values.ndim == 2 and _like_inputs(values, inputs)):
        return (
            f"The loader's targets ({_described(labels)}) are no classes of samples: recorded without labels. Give one integer "
            f"per sample, or None."
        )
    if values.ndim == 0 and rows != 1:
        raise DataError(f"The loader gives a single label for {rows} rows of x: samples without a batch axis? Give batches.")
    values = _flat(values)
    if values.ndim != 1 or values.dtype.kind not in "iub":
        advice = "give labels.long() if they are classes"
        if values.ndim == 2 and values.shape[1] > 1:
            advice = "give labels.argmax(1) if they are one-hot or soft"
        elif values.dtype.kind in "US":
            advice = "number the classes 0, 1, ..."
        raise DataError(
            f"The loader's labels have shape {values.shape} and type {values.dtype}; one integer per sample is needed: "
            f"{advice}, and None if they are no classes."
        )
    if len(values) != rows:
        parts = tensors_in((inputs.args, inputs.kwargs))
        first = any(not x.is_nested and x.ndim > 1 and x.shape[1] == len(values) for x in parts)
        advice = " Samples must be the first axis: transpose x, and give forward= to turn it back." if first else ""
        raise DataError(f"The loader gives {len(values)} labels for {rows} rows of x.{advice}")
    classes = values.astype(np.int64)
    if (negative := classes[classes < 0]).size:
        raise DataError(
            f"The loader gives the label {negative[0]}; classes are 0, 1, ...: leave out samples without a class, give None "
            f"for all labels, or number the classes -1 and 1 as 0 and 1."
        )
    return classes


def ids_of(ids: Any, rows: int, name: str) -> Ids | str | None:
    """One id per sample; a sentence where what may be ids is something else, such as metadata.

    Parameters
    ----------
    ids : object
        As labels may be given; integers or texts.
    rows : int
        Samples.
    name : str
        What the loader calls them; `"ids"` can be nothing else.

    Raises
    ------
    DataError
        If an id stands twice, or `"ids"` are not one integer or one text per sample.
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
        ids = [one.item() if isinstance(one, Tensor) and one.numel() == 1 else one for one in ids]
        if any(isinstance(one, list | tuple | Mapping | Tensor) for one in ids):
            raise DataError(f"{what} are {_described(ids)}; one integer or one text per sample is needed.")
    elif isinstance(ids, str | bytes | PurePath | Integral):
        ids = [ids]
    elif not hasattr(ids, "__array__"):
        raise DataError(f"{what} are {_described(ids)}; one integer or one text per sample is needed.")
    array = ids if isinstance(ids, list) else np.asarray(ids)
    return _flat(array) if isinstance(array, np.ndarray) else array


def label_of(item: Any) -> Any:
    """The labels, or the label, of an item; None where it has none."""
    if isinstance(item, Mapping):
        return next((item[key] for key in LABELS if key in item), None)
    return item[1] if isinstance(item, list | tuple) and len(item) > 1 else None


def count_of(labels: Any) -> int | None:
    """How many samples labels are for, as far as they say it."""
    if isinstance(labels, Tensor | np.ndarray):
        return len(labels) if labels.ndim else None
    return len(labels) if isinstance(labels, list | tuple) else None


def are_integers(values: Any) -> bool:
    """Whether values are one integer per sample."""
    array = _array(values)
    return array is not None and array.ndim == 1 and array.dtype.kind in "iub"


def _like_inputs(values: NDArray[Any], inputs: Inputs) -> bool:
    """Whether targets have the shape of an input of several numbers: a class per token, what an autoencoder is to give."""
    parts = tensors_in((inputs.args, inputs.kwargs))
    return values.shape[1] > 1 and any(not x.is_nested and tuple(x.shape) == values.shape for x in parts)


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    """A number, or a column, of one per sample as a row."""
    return values.reshape(-1) if values.ndim == 0 or values.shape[1:] == (1,) else values


def _array(values: Any) -> NDArray[Any] | None:
    """Numbers or texts as an array; None where they are nested otherwise."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return np.asarray(values.float() if values.dtype == torch.bfloat16 else values)
    if isinstance(values, list | tuple):
        values = [one.item() if isinstance(one, Tensor) and one.numel() == 1 else one for one in values]
        if any(isinstance(one, Tensor | Mapping) or one is None for one in values):
            return None
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths
        return None
    return None if array.dtype == object else array


def _described(value: Any) -> str:
    """`"a tuple of str"`, `"float32 (8, 3)"`."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    inner = f" of {type(value[0]).__name__}" if isinstance(value, list | tuple) and value else ""
    return f"a {type(value).__name__}{inner}"

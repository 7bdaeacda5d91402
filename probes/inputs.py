"""What a loader yields, taken apart: inputs, labels, ids; and the first rows of inputs, however they are nested.

A tensor holds a row per sample along its first axis. A list of images, as detection networks take it, holds a sample per entry.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

__all__ = ["rows_of", "take_rows"]


def rows_of(inputs: Any) -> int | None:
    """Number of samples in the inputs, however they are nested; None where they hold no tensor with a first axis.

    Examples
    --------
    >>> import torch
    >>> rows_of({"ids": torch.zeros(4, 7), "scale": torch.tensor(1.0)})
    4
    >>> rows_of([torch.zeros(3, 20, 30), torch.zeros(3, 25, 25)])
    2
    """
    if isinstance(inputs, Tensor):
        return len(inputs) if inputs.ndim else None
    if isinstance(inputs, PackedSequence):
        return int(inputs.batch_sizes[0])
    if is_image_list(inputs):
        return len(inputs)
    parts = inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, list | tuple) else ()
    return next((rows for part in parts if (rows := rows_of(part)) is not None), None)


def is_image_list(value: Any) -> bool:
    """Whether a value is a list of images, (C, H, W) each, of one to four colours: one sample per entry."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(image, Tensor) and image.ndim == 3 and 1 <= image.shape[0] <= 4 for image in value)
    )


def take_rows(inputs: Any, k: int, *, rows: int | None = None) -> Any:
    """The first k samples of inputs, however they are nested.

    Parameters
    ----------
    inputs : tensor, list, tuple, mapping
        As a network takes them.
    k : int
        How many samples; all of them where there are fewer.
    rows : int, optional
        How many there are, by default what `rows_of` says. A tensor of another length is shared by all samples, and stays.

    Returns
    -------
    object
        Of the same kind and nesting; tensors are views.

    Examples
    --------
    >>> import torch
    >>> cut = take_rows({"x": torch.zeros(4, 7), "pair": (torch.zeros(4), torch.zeros(1, 5))}, 2)
    >>> cut["x"].shape[0], cut["pair"][0].shape[0], cut["pair"][1].shape[0]
    (2, 2, 1)
    """
    rows = rows_of(inputs) if rows is None else rows
    if rows is None or k >= rows:
        return inputs
    if isinstance(inputs, Tensor):
        return inputs[:k] if inputs.ndim and len(inputs) == rows else inputs
    if isinstance(inputs, PackedSequence):
        padded, lengths = pad_packed_sequence(inputs, batch_first=True)
        return pack_padded_sequence(padded[:k], lengths[:k], batch_first=True, enforce_sorted=False)
    if isinstance(inputs, list | tuple) and len(inputs) == rows and (is_image_list(inputs) or rows_of(inputs) != rows):
        return inputs[:k]
    return rebuilt(inputs, lambda value: take_rows(value, k, rows=rows))


def rebuilt(inputs: Any, change: Any) -> Any:
    """A mapping, list or tuple of the same kind with its entries changed; anything else as it is."""
    if isinstance(inputs, MutableMapping):
        result = copy.copy(inputs)  # keeps the class, and with it access by attribute
        for key, value in inputs.items():
            result[key] = change(value)
        return result
    if isinstance(inputs, Mapping):
        return {key: change(value) for key, value in inputs.items()}
    if isinstance(inputs, tuple) and hasattr(inputs, "_fields"):
        return type(inputs)(*map(change, inputs))
    if isinstance(inputs, list | tuple):
        return type(inputs)(map(change, inputs))
    return inputs

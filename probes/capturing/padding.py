"""Padding: which positions of a batch are no padding, where pools may heed it, and nested tensors, which have none.

A batch that is a mapping, or a network that is called with keywords, may hold a mask of shape (samples, length):
`attention_mask` is true where something is; `src_key_padding_mask`, `key_padding_mask` and `padding_mask` are true at padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from probes.capturing.axes import Layout

__all__ = ["UNKNOWN_LENGTH", "padding_mask", "padding_note", "unnested"]

UNKNOWN_LENGTH = "included: it is not known"
_PRESENT = ("attention_mask",)
_PADDING = ("src_key_padding_mask", "key_padding_mask", "padding_mask")
_HEEDING = ("mean", "max", "mean_std")


def padding_mask(inputs: Any) -> Tensor | None:
    """The positions that are no padding, (samples, length) of bool; None where the inputs hold no mask of two axes.

    Numbers that are added to attention scores are a mask too: 0 where something is, very negative at padding.

    Examples
    --------
    >>> padding_mask({"input_ids": torch.ones(1, 3), "attention_mask": torch.tensor([[1, 1, 0]])})
    tensor([[ True,  True, False]])
    >>> padding_mask((({"src_key_padding_mask": torch.tensor([[False, True]])},), {}))
    tensor([[ True, False]])
    """
    for key, value in _named(inputs):
        if isinstance(value, Tensor) and value.ndim == 2 and key in (*_PRESENT, *_PADDING):
            if not value.is_floating_point():
                return value != 0 if key in _PRESENT else value == 0
            added = bool((value < 0).any())
            return value > -1 if added else value > 0.5 if key in _PRESENT else value < 0.5
    return None


def _named(value: Any) -> Iterator[tuple[str, Any]]:
    """Everything in nested mappings, with its key."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key), inner
            yield from _named(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named(inner)


def padding_note(pool: str, layout: Layout, shape: Sequence[int], length: int | None) -> str:
    """Whether a pool leaves padding out: "excluded", "included: why", or nothing where there is no mask or no position.

    Parameters
    ----------
    pool : str
        Its specification; empty where another function reduces the output.
    layout : Layout
        Axes of the output, samples first.
    shape : sequence of int
        Of the output, samples first.
    length : int or None
        Of the mask; None without a mask.
    """
    if length is None or not layout.places or not pool:
        return ""
    if pool not in _HEEDING:
        return f"included: {pool} keeps positions apart"
    size = "x".join(str(shape[axis]) for axis in layout.places)
    if not layout.length or size != str(length):
        return f"{UNKNOWN_LENGTH} that its {size} positions are the {length} of the mask"
    return "excluded"


def unnested(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """A nested tensor (n, length of each, channels) with zeros at its ends, and which positions are no padding.

    Parameters
    ----------
    x : torch.Tensor
        Nested.
    mask : (n, length) tensor of bool or None
        Of the batch; it says how long the result is where it has as many positions per sample.

    Returns
    -------
    padded : (n, length, channels) torch.Tensor
        Zeros at padding.
    present : (n, length) tensor of bool
        True where something is.
    """
    parts = list(x.unbind())
    counts = torch.tensor([len(part) for part in parts], device=x.device)
    padded = torch.nested.to_padded_tensor(x, 0.0)
    if mask is not None and len(mask) == len(parts) and mask.shape[1] > padded.shape[1]:
        padded = torch.nn.functional.pad(padded, [0, 0] * (padded.ndim - 2) + [0, mask.shape[1] - padded.shape[1]])
    return padded, torch.arange(padded.shape[1], device=x.device) < counts[:, None]

"""Padding masks: finding a batch's mask, deciding whether a pool applies it, and converting nested tensors.

A batch that is a mapping, or a network's keyword arguments, may contain a mask of shape (samples, length):
`attention_mask` is true at tokens; `src_key_padding_mask`, `key_padding_mask` and `padding_mask` are true at padding.
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
    """Whether each position holds a token (True) or padding (False), (samples, length); None without a 2-D mask.

    Additive masks of attention scores count too: 0 at tokens, large negative values at padding.

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
    """All values of nested mappings with their keys."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key), inner
            yield from _named(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _named(inner)


def padding_note(pool: str, layout: Layout, shape: Sequence[int], length: int | None) -> str:
    """Whether a pool excludes padding: "excluded", "included: REASON", or "" without a mask or without positions.

    Parameters
    ----------
    pool : str
        Specification of the pool; empty if another function reduces the output.
    layout : Layout
        Axes of the output, samples first.
    shape : sequence of int
        Shape of the output, samples first.
    length : int or None
        Length of the mask; None without a mask.
    """
    if length is None or not layout.positions or not pool:
        return ""
    if pool not in _HEEDING:
        return f"included: {pool} keeps positions apart"
    size = "x".join(str(shape[axis]) for axis in layout.positions)
    if not layout.length or size != str(length):
        return f"{UNKNOWN_LENGTH} that its {size} positions are the {length} of the mask"
    return "excluded"


def unnested(x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Pad a nested tensor (n, length of each sample, channels) with zeros.

    Parameters
    ----------
    x : torch.Tensor
        Nested tensor.
    mask : (n, length) tensor of bool or None
        Mask of the batch. If it covers the same samples and is longer, the result has its length.

    Returns
    -------
    padded : (n, length, channels) torch.Tensor
        Zeros at padding.
    present : (n, length) tensor of bool
        True at the positions of `x`, False at padding.
    """
    parts = list(x.unbind())
    counts = torch.tensor([len(part) for part in parts], device=x.device)
    padded = torch.nested.to_padded_tensor(x, 0.0)
    if mask is not None and len(mask) == len(parts) and mask.shape[1] > padded.shape[1]:
        padded = torch.nn.functional.pad(padded, [0, 0] * (padded.ndim - 2) + [0, mask.shape[1] - padded.shape[1]])
    return padded, torch.arange(padded.shape[1], device=x.device) < counts[:, None]

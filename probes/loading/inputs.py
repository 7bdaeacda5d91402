"""Nested inputs of a network: number of samples, the first k samples, other devices.

A tensor holds a row per sample along its first axis. A list of images, as for detection networks, has a sample per entry.
"""

from __future__ import annotations

import copy
import re
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from probes.errors import ReportedError, UsageError

__all__ = ["Inputs", "explained", "rebuilt", "rows_of", "samples_of", "take_rows", "tensors_in"]

_COLOURS = (1, 3, 4)


@dataclass(frozen=True, eq=False)
class Inputs:
    """The arguments of a network's call: `forward(*args, **kwargs)`.

    Attributes
    ----------
    args, kwargs : tuple, dict
        Positional and keyword arguments.
    rows : int
        Number of samples.
    listed : bool
        Whether an argument is a list with an entry per sample.
    guess : str
        What is assumed about the network if its signature does not say it; part of the message if the call fails.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 0
    listed: bool = False
    guess: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample of the first tensor; if it is constant, so are the shapes inside the network."""
        first = next(tensors_in((self.args, self.kwargs)), None)
        if first is not None and self.listed:
            return tuple(first.shape)
        return _sample_shape(first) or ()

    def to(self, device: torch.device, *, channels_last: bool = False) -> Inputs:
        """The inputs on a device; optionally with images in channels-last memory."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                layout = torch.channels_last if channels_last and value.ndim == 4 else torch.preserve_format
                return value.to(device, non_blocking=True, memory_format=layout)
            if isinstance(value, PackedSequence):
                return value.to(device)  # type: ignore[arg-type]  # torch declares only types
            return rebuilt(value, moved)

        return replace(
            self, args=tuple(map(moved, self.args)), kwargs={key: moved(value) for key, value in self.kwargs.items()}
        )

    def take(self, k: int) -> Inputs:
        """The first k samples."""
        if k >= self.rows:
            return self
        args, kwargs = _cut((self.args, dict(self.kwargs)), k, self.rows, listed=self.listed)
        return replace(self, args=args, kwargs=kwargs, rows=k)

    def call(self, forward: Callable[..., Any]) -> Any:
        """Call a network with the inputs."""
        return forward(*self.args, **self.kwargs)


def rows_of(inputs: Any) -> int | None:
    """Number of samples in nested inputs; None if they contain no tensor with a first axis.

    Examples
    --------
    >>> rows_of({"ids": torch.zeros(4, 7), "scale": torch.tensor(1.0)})
    4
    >>> rows_of([torch.zeros(3, 20, 30), torch.zeros(3, 25, 25)])
    2
    """
    if isinstance(inputs, Tensor | PackedSequence):
        return length_of(inputs)
    if isinstance(inputs, list | tuple) and are_images(inputs):
        return len(inputs)
    return next((rows for part in _entries(inputs) if (rows := rows_of(part)) is not None), None)


def samples_of(arguments: Sequence[Any]) -> tuple[int | None, tuple[int, ...] | None]:
    """Number of samples in the arguments of a call, and the shape of a sample in the first tensor; None without a tensor."""
    rows = next((rows for value in arguments if (rows := rows_of(value)) is not None), None)
    return rows, _sample_shape(next(tensors_in(tuple(arguments)), None))


def _sample_shape(first: Tensor | None) -> tuple[int, ...] | None:
    """Shape of a tensor's samples; None for nested tensors, whose samples have different shapes."""
    return None if first is None or first.is_nested else tuple(first.shape[1:])


def take_rows(inputs: Any, k: int, *, rows: int | None = None) -> Any:
    """The first k samples of nested inputs.

    Parameters
    ----------
    inputs : Inputs, tensor, list, tuple, mapping
        Inputs of a network.
    k : int
        Number of samples; all if there are fewer.
    rows : int, optional
        Number of samples in the inputs; by default that of `rows_of`. A tensor of another length belongs to all samples and is
        unchanged.

    Returns
    -------
    object
        Of the same type and nesting; tensors are views.

    Examples
    --------
    >>> cut = take_rows({"x": torch.zeros(4, 7), "pair": (torch.zeros(4), torch.zeros(1, 5))}, 2)
    >>> cut["x"].shape[0], cut["pair"][0].shape[0], cut["pair"][1].shape[0]
    (2, 2, 1)
    """
    if isinstance(inputs, Inputs):
        return inputs.take(k)
    rows = rows_of(inputs) if rows is None else rows
    listed = isinstance(inputs, list | tuple) and are_images(inputs)
    return inputs if rows is None or k >= rows else _cut(inputs, k, rows, listed=listed)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All nested tensors with at least one axis."""
    if isinstance(value, Tensor):
        if value.ndim:
            yield value
    elif isinstance(value, PackedSequence):
        yield value.data
    else:
        for part in _entries(value):
            yield from tensors_in(part)


def are_images(parts: Sequence[Any]) -> bool:
    """Whether all values are images (C, H, W) with one, three or four channels."""
    shaped = bool(parts) and all(isinstance(part, Tensor) and not part.is_nested and part.ndim == 3 for part in parts)
    return shaped and all(part.shape[0] in _COLOURS and part.is_floating_point() for part in parts)


def _cut(value: Any, k: int, rows: int, *, listed: bool) -> Any:
    if isinstance(value, Tensor):
        if not value.ndim or value.size(0) != rows:
            return value
        return torch.nested.as_nested_tensor(list(value.unbind())[:k]) if value.is_nested else value[:k]
    if isinstance(value, PackedSequence):
        padded, lengths = pad_packed_sequence(value, batch_first=True)
        return pack_padded_sequence(padded[:k], lengths[:k], batch_first=True, enforce_sorted=False)
    entries = Tensor if listed else str | int | float
    if isinstance(value, list | tuple) and len(value) == rows and all(isinstance(item, entries) for item in value):
        return value[:k]
    return rebuilt(value, lambda item: _cut(item, k, rows, listed=listed))


def _entries(value: Any) -> Iterator[Any]:
    """The entries of a mapping, list or tuple."""
    return iter(value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ())


def rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """A mapping, list or tuple of the same type with changed entries; other objects unchanged."""
    if isinstance(value, UserDict):
        result = copy.copy(value)  # keeps the class, and with it access by attribute
        result.update({key: change(item) for key, item in value.items()})
        return result
    if isinstance(value, Mapping):
        changed = {key: change(item) for key, item in value.items()}
        try:
            return type(value)(changed)  # type: ignore[call-arg]  # most mapping types take a mapping
        except TypeError:
            return changed
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(change, value))
    return type(value)(map(change, value)) if isinstance(value, list | tuple) else value


def as_tensors(value: Any) -> Any:
    """Nested inputs with numpy arrays of numbers converted to tensors."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        return torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor | PackedSequence) or not any(_holds_arrays(entry) for entry in _entries(value)):
        return value
    return rebuilt(value, as_tensors)


def _holds_arrays(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (not isinstance(value, PackedSequence) and any(map(_holds_arrays, _entries(value))))


def length_of(value: Tensor | PackedSequence) -> int | None:
    """Number of samples of a tensor: the length of its first axis."""
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    return value.size(0) if value.ndim else None


def rows_among(value: Any, count: int | None) -> int:
    """Number of samples of several inputs: that of the labels if a tensor has as many rows, else that of the first."""
    if count is not None and any(length_of(tensor) == count for tensor in tensors_in(value)):
        return count
    return rows_of(value) or 0


def explained(error: Exception, inputs: Inputs, model: nn.Module) -> UsageError | None:
    """A sentence for an error that the network raises, if the types of the inputs or a guess caused it."""
    if isinstance(error, ReportedError):
        return None
    own = next((tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()), None)
    types = {tensor.dtype for tensor in tensors_in((inputs.args, inputs.kwargs))}
    mismatched = [tensor for tensor in types if tensor != own and (tensor.is_floating_point or len(types) == 1)]
    reason = str(error).strip().partition("\n")[0]
    if isinstance(error, RuntimeError) and own is not None and mismatched and re.search(r"type|[Ll]ong|[Bb]yte", reason):
        actual, needed = (str(tensor).removeprefix("torch.") for tensor in (mismatched[0], own))
        advice = f"x.to(torch.{needed})" + ("" if mismatched[0].is_floating_point else ", scaled as in training,")
        return UsageError(
            f"The loader's inputs are {actual} and the weights of {type(model).__name__} are {needed} ({reason}): yield "
            f"{advice} or another type that the network takes."
        )
    if isinstance(error, RuntimeError) and "indices" in reason and own in types:
        return UsageError(f"{type(model).__name__} takes integers, such as token ids, and the loader gives {own} ({reason}).")
    return UsageError(f"{inputs.guess} It failed: {type(error).__name__}: {reason}") if inputs.guess else None

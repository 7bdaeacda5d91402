"""Passes that measure how the sizes of a network's outputs follow the batch and the size of its input.

Two or three samples of the first batch run through the network: with two batch sizes, and with images of another height and
width or sequences of another length, where the network accepts them. Hooks keep shapes only. Random state, buffers and
attributes of the modules are afterwards what they were. `axis_inference.py` says what the sizes mean.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from probes.capturing.axis_inference import Trace
from probes.capturing.axis_naming import Change
from probes.capturing.hooks import Recording, hooked
from probes.capturing.padding import padding_mask, unnested
from probes.loading.inputs import Inputs, rebuilt, rows_of, tensors_in
from probes.options import CaptureOptions

__all__ = ["measure"]

_ROWS = (2, 3)
_LARGE = 128  # pixels from which a smaller image, not a larger one, is the other size


class _Shapes(Recording):
    """Hooks that keep the shape of every output, which output a call took as its input, and which it handed on."""

    def __init__(self, model: nn.Module, *, ops: bool) -> None:
        super().__init__(model, CaptureOptions(layers=("*",), pool=("none",), ops=ops))
        self.trace = Trace()
        self._producers: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}
        self._sources: list[tuple[nn.Module, str]] = []
        self._source = ""
        self._handles: list[RemovableHandle] = []

    def check(self) -> None:
        """Nothing: a pattern that matches nothing is the real pass's to report."""

    def hook_up(self) -> None:
        """Put the hooks on every module, and those that note what a call's input is."""
        super().hook_up()
        self._handles = [hooked.module.register_forward_pre_hook(self._note) for hooked in self._modules]

    def unhook(self) -> None:
        super().unhook()
        for handle in self._handles:
            handle.remove()

    def _note(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Hook: a call begins; which output is its first input?"""
        first = next((value for value in args if isinstance(value, Tensor)), None)
        source = self._producer(first)
        self._sources.append((module, source))
        if source:
            self.trace.takers.setdefault(source, []).append(module)

    def _producer(self, value: Tensor | None) -> str:
        """The output that is this very tensor, unchanged since; empty if none is."""
        producer = self._producers.get(id(value))
        same = producer is not None and value is not None and producer[0]() is value and producer[1] == value._version
        return producer[2] if producer is not None and same else ""

    def _end(self, call: Any, output: object) -> None:
        self._source = ""
        while self._sources:
            module, source = self._sources.pop()
            if module is call.module.module:
                self._source = source
                break
        super()._end(call, output)

    def operation(self, name: str, output: object) -> None:
        self._source = ""
        super().operation(name, output)

    def _record(
        self,
        name: str,
        output: object,
        kinds: Sequence[str],  # noqa: ARG002  # as in `Recording`
        index: int,  # noqa: ARG002
        module: nn.Module | None,
    ) -> None:
        if not isinstance(output, Tensor) or output.is_inference():
            return
        if output.is_nested:
            self._busy = True
            output = unnested(output, self.mask)[0]
            self._busy = False
        self.trace.shapes[name] = tuple(output.shape)
        self.trace.modules[name] = module
        if source := self._producer(output) or self._source:
            self.trace.sources[name] = source
        if not self._producer(output):
            self._producers[id(output)] = (weakref.ref(output), output._version, name)


@dataclass(frozen=True)
class _Resized:
    """Another size for some axes of some tensors: those of one shape along these axes change together."""

    change: Change
    axes: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """A tensor of that size, repeated or cut; another tensor as it is."""
        if x.ndim <= max(self.axes) or tuple(x.shape[axis] for axis in self.axes) != self.change.before:
            return x
        if self.change.kind == "image" and not (x.is_floating_point() and x.ndim > 3):
            return x
        for axis, size in zip(self.axes, self.change.after, strict=True):
            x = x.index_select(axis, torch.arange(size, device=x.device) % x.shape[axis])
        return x


def measure(model: nn.Module, recording: Recording, forward: Callable[..., Any], inputs: Inputs) -> bool:
    """Measure what the axes of a network's outputs mean, for a recording of it.

    Parameters
    ----------
    model : torch.nn.Module
        The network. It is run in the mode that it is in, with or without gradients, as the caller has set.
    recording : Recording
        Learns it.
    forward : callable
        What is called with inputs: the network, or a method of it.
    inputs : Inputs
        A batch.

    Returns
    -------
    bool
        Whether the network accepts batches of two and of three samples. If not, nothing is learned, and the axes are those that
        modules' weights say, or guessed.
    """

    def trace(count: int, resized: _Resized | None = None) -> tuple[Trace, bool]:
        shapes = _Shapes(model, ops=recording.ops)
        try:
            with hooked(shapes):
                batch = _taken(inputs, count, resized)
                if count not in {rows_of(part) for part in (*batch.args, *batch.kwargs.values())}:
                    return shapes.trace, False
                shapes.clear()
                shapes.expected = count, batch.shape
                shapes.rows, shapes.mask = count, padding_mask((batch.args, batch.kwargs))
                batch.call(forward)
        except Exception:  # the network may refuse any size; what ran before that is measured
            return shapes.trace, False
        return shapes.trace, True

    with _unchanged(model):
        changed = [pair for alternatives in _alternatives(inputs) for pair in _accepted(alternatives, trace)]
        (first, whole), (more, also) = trace(_ROWS[0]), trace(_ROWS[1])
    if whole and also:
        recording.axes.learn(first, more, _ROWS, changed)
    return whole and also


Passes = list[tuple[Change, Trace]]


def _accepted(
    alternatives: Sequence[Sequence[Sequence[_Resized]]], trace: Callable[[int, _Resized], tuple[Trace, bool]]
) -> Passes:
    """The passes that say which axis of one kind of input holds positions: of several, the one that the network lets change.

    Where it lets several change, or none, outputs that more than one of them has changed say nothing.
    """
    results = [_first_accepted(ladder, trace) for ladder in alternatives]
    whole = [passes for passes, accepted in results if accepted]
    if len(whole) == 1:
        return whole[0]
    tried = [passes for passes, _ in results if passes]
    names = [name for passes in tried for name in {name for _, shapes in passes for name in shapes.shapes}]
    unclear = {name for name in names if names.count(name) > 1}
    for _, shapes in (pair for passes in tried for pair in passes):
        shapes.shapes = {name: shape for name, shape in shapes.shapes.items() if name not in unclear}
    return [pair for passes in tried for pair in passes]


def _first_accepted(
    ladder: Sequence[Sequence[_Resized]], trace: Callable[[int, _Resized], tuple[Trace, bool]]
) -> tuple[Passes, bool]:
    """The passes of the first other size that a network accepts; else what ran of the one that came furthest."""
    best: Passes = []
    for sizes in ladder:
        passes = [(resized.change, *trace(_ROWS[0], resized)) for resized in sizes]
        pairs = [(change, shapes) for change, shapes, _ in passes]
        if all(whole for _, _, whole in passes):
            return pairs, True
        if min(len(shapes.shapes) for _, shapes in pairs) > min((len(shapes.shapes) for _, shapes in best), default=0):
            best = pairs
    return best, False


def _alternatives(inputs: Inputs) -> Iterator[list[list[list[_Resized]]]]:
    """Other sizes to try, for each kind of input that a batch holds: alternatives, each a ladder of passes."""
    tensors = [x for x in tensors_in((inputs.args, inputs.kwargs)) if x.ndim > 1 and not x.is_nested and len(x) == inputs.rows]
    for shape in dict.fromkeys(tuple(x.shape) for x in tensors if x.is_floating_point() and x.ndim in (4, 5)):
        yield [_image_sizes(shape)]
    ids = dict.fromkeys(x.shape[1] for x in tensors if not x.is_floating_point() and x.ndim == 2)
    for length in ids:
        yield [_lengths("sequence", length, 1)]
    for shape in dict.fromkeys(tuple(x.shape) for x in tensors if x.is_floating_point() and x.ndim in (2, 3)):
        if len(shape) == 2 and shape[1] not in ids:
            yield [_lengths("vector", shape[1], 1)]
        elif len(shape) == 3 and shape[1] not in ids:
            yield [_lengths("sequence", shape[axis], axis) for axis in (1, 2)]


def _lengths(kind: Literal["sequence", "vector"], length: int, axis: int) -> list[list[_Resized]]:
    """Half the length, and twice."""
    others = [*([(length + 1) // 2] if length > 3 else []), 2 * length]
    return [[_Resized(Change(kind, (length,), (other,)), (axis,))] for other in others]


def _image_sizes(shape: tuple[int, ...]) -> list[list[_Resized]]:
    """Other heights and widths, for channels first, then for channels last."""
    ladder: list[list[_Resized]] = []
    inner = len(shape) - 2
    for axes in (tuple(range(2, len(shape))), tuple(range(1, 1 + inner)), (1, *range(3, len(shape)))):
        if len(axes) != inner or (len(shape) == 4 and axes[0] == 1 and axes[-1] == 3):
            continue
        before = tuple(shape[axis] for axis in axes)
        *time, height, width = before
        frames = tuple(2 * size for size in time)
        large = min(height, width) >= _LARGE
        sizes = [(height // 32 * 32 - 32, width // 32 * 32 - 64), (height // 14 * 14 - 28, width // 14 * 14 - 56)]
        single = [(2 * height, 3 * width)] if not large else [size for size in sizes if size[0] != height and size[1] != width]
        ladder += [[_Resized(Change("image", before, (*frames, *size)), axes)] for size in single]
        pair = [(*frames, 2 * height, width), (*time, height, 2 * width)]
        ladder.append([_Resized(Change("image", before, tuple(size)), axes) for size in pair])
    return ladder


def _taken(inputs: Inputs, rows: int, resized: _Resized | None) -> Inputs:
    """The first rows of a batch, repeated where there are fewer, of another size if wanted."""
    batch = inputs.take(rows)
    if batch.rows < rows:
        order = [row % inputs.rows for row in range(rows)]
        batch = _changed(batch, lambda value: _ordered(value, order, inputs.rows, listed=inputs.listed), rows)
    if resized is None:
        return batch
    return _changed(batch, lambda x: resized(x) if isinstance(x, Tensor) and x.ndim and len(x) == rows else x, rows)


def _changed(inputs: Inputs, change: Callable[[Any], Any], rows: int) -> Inputs:
    """The same call with other tensors."""

    def inner(value: Any) -> Any:
        value = change(value)
        return value if isinstance(value, Tensor | PackedSequence) else rebuilt(value, inner)

    args = tuple(inner(value) for value in inputs.args)
    return replace(inputs, args=args, kwargs={key: inner(value) for key, value in inputs.kwargs.items()}, rows=rows)


def _ordered(value: Any, order: Sequence[int], rows: int, *, listed: bool) -> Any:
    """The samples of a tensor or a list in another order; anything else as it is."""
    if isinstance(value, Tensor):
        return (
            value[torch.tensor(order, device=value.device)]
            if value.ndim and not value.is_nested and len(value) == rows
            else value
        )
    return [value[row] for row in order] if listed and isinstance(value, list) and len(value) == rows else value


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Random state, buffers and modules' attributes are afterwards what they were."""
    modules = list(model.modules())
    attributes = [(module, dict(module.__dict__), dict(module._buffers)) for module in modules]
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers() if not buffer.is_inference()]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  # the network's own draws may be from there
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for module, before, held in attributes:
            for name in module.__dict__.keys() - before.keys():
                del module.__dict__[name]
            module.__dict__.update(before)
            module._buffers.clear()
            module._buffers.update(held)
        with torch.no_grad(), suppress(RuntimeError):
            for buffer, version, copy in buffers:
                if buffer._version != version:
                    buffer.copy_(copy)

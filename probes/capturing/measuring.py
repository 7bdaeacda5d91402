"""Passes that measure how the sizes of a network's outputs follow the batch and the size of its input.

The network runs on two and on three samples of the first batch, and on two samples whose images have another height and width
or whose sequences have another length, if it accepts them. Hooks record shapes only. Random state, buffers and attributes of
the modules are restored afterwards. `axis_inference.py` infers the axes from the sizes.
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
_LARGE = 128  # pixels; images of at least this size are made smaller, others larger


class _Shapes(Recording):
    """Records the shape of every output, and the output from which it was computed (see `Trace.sources`)."""

    def __init__(self, model: nn.Module, *, ops: bool) -> None:
        super().__init__(model, CaptureOptions(layers=("*",), pool=("none",), ops=ops))
        self.trace = Trace()
        self._producers: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}
        self._sources: list[tuple[nn.Module, str]] = []
        self._source = ""
        self._handles: list[RemovableHandle] = []

    def check(self) -> None:
        """Does nothing: patterns without a match are reported in the recorded pass."""

    def hook_up(self) -> None:
        """Add the hooks to every module, with an additional one that records a call's input."""
        super().hook_up()
        self._handles = [hooked.module.register_forward_pre_hook(self._record_input) for hooked in self._modules]

    def unhook(self) -> None:
        super().unhook()
        for handle in self._handles:
            handle.remove()

    def _record_input(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Hook: a call begins; records which output is its first input."""
        first = next((value for value in args if isinstance(value, Tensor)), None)
        source = self._producer(first)
        self._sources.append((module, source))
        if source:
            self.trace.consumers.setdefault(source, []).append(module)

    def _producer(self, value: Tensor | None) -> str:
        """The name of the output that is this tensor object, unmodified since; empty if there is none."""
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
    """Changes the size of some axes in all tensors that have the sizes `change.before` along them."""

    change: Change
    axes: tuple[int, ...]

    def __call__(self, x: Tensor) -> Tensor:
        """The tensor repeated or cut to the new size; a tensor of other sizes unchanged."""
        if x.ndim <= max(self.axes) or tuple(x.shape[axis] for axis in self.axes) != self.change.before:
            return x
        if self.change.kind == "image" and not (x.is_floating_point() and x.ndim > 3):
            return x
        for axis, size in zip(self.axes, self.change.after, strict=True):
            x = x.index_select(axis, torch.arange(size, device=x.device) % x.shape[axis])
        return x


def measure(model: nn.Module, recording: Recording, forward: Callable[..., Any], inputs: Inputs) -> bool:
    """Measure the axes of a network's outputs, and store them in `recording.axes`.

    Parameters
    ----------
    model : torch.nn.Module
        The network. Its mode is not changed, nor whether gradients are computed.
    recording : Recording
        Receives the axes.
    forward : callable
        Called with the inputs: the network, or a method of it.
    inputs : Inputs
        A batch.

    Returns
    -------
    bool
        Whether the network accepts batches of two and of three samples. If not, nothing is measured, and the axes are inferred
        from modules' weights, or guessed.
    """

    def trace(count: int, resized: _Resized | None = None) -> tuple[Trace, bool]:
        shapes = _Shapes(model, ops=recording.ops)
        try:
            with hooked(shapes):
                batch = _batch_of(inputs, count, resized)
                if count not in {rows_of(part) for part in (*batch.args, *batch.kwargs.values())}:
                    return shapes.trace, False
                shapes.clear()
                shapes.expected = count, batch.shape
                shapes.rows, shapes.mask = count, padding_mask((batch.args, batch.kwargs))
                batch.call(forward)
        except Exception:  # the network may refuse any size; outputs computed before the error count
            return shapes.trace, False
        return shapes.trace, True

    with _restored(model):
        changed = [pair for candidates in _size_candidates(inputs) for pair in _accepted(candidates, trace)]
        (first, first_complete), (second, second_complete) = trace(_ROWS[0]), trace(_ROWS[1])
    complete = first_complete and second_complete
    if complete:
        recording.axes.learn(first, second, _ROWS, changed)
    return complete


Passes = list[tuple[Change, Trace]]


def _accepted(
    candidates: Sequence[Sequence[Sequence[_Resized]]], trace: Callable[[int, _Resized], tuple[Trace, bool]]
) -> Passes:
    """The passes for the axis of positions of one input: if several axes are candidates, the one that may change its size.

    If the network accepts another size of several axes, or of none, outputs that occur in the passes of more than one axis are
    ambiguous, and are removed.
    """
    results = [_first_accepted(alternatives, trace) for alternatives in candidates]
    complete = [passes for passes, accepted in results if accepted]
    if len(complete) == 1:
        return complete[0]
    remaining = [passes for passes, _ in results if passes]
    names = [name for passes in remaining for name in {name for _, result in passes for name in result.shapes}]
    ambiguous = {name for name in names if names.count(name) > 1}
    for _, result in (pair for passes in remaining for pair in passes):
        result.shapes = {name: shape for name, shape in result.shapes.items() if name not in ambiguous}
    return [pair for passes in remaining for pair in passes]


def _first_accepted(
    alternatives: Sequence[Sequence[_Resized]], trace: Callable[[int, _Resized], tuple[Trace, bool]]
) -> tuple[Passes, bool]:
    """The passes of the first alternative that the network accepts, and True; else the passes with most outputs, and False."""
    best: Passes = []
    for sizes in alternatives:
        results = [(resized.change, *trace(_ROWS[0], resized)) for resized in sizes]
        passes = [(change, result) for change, result, _ in results]
        if all(complete for _, _, complete in results):
            return passes, True
        if min(len(result.shapes) for _, result in passes) > min((len(result.shapes) for _, result in best), default=0):
            best = passes
    return best, False


def _size_candidates(inputs: Inputs) -> Iterator[list[list[list[_Resized]]]]:
    """Other sizes to try for each kind of input in a batch.

    Yields for each kind a list of candidate axes; for each of these the alternative sizes, in the order in which to try them;
    for each alternative the passes that measure it.
    """
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
    """Alternatives to a length: half of it and twice."""
    new_lengths = [*([(length + 1) // 2] if length > 3 else []), 2 * length]
    return [[_Resized(Change(kind, (length,), (new_length,)), (axis,))] for new_length in new_lengths]


def _image_sizes(shape: tuple[int, ...]) -> list[list[_Resized]]:
    """Alternatives to the height and width of images or clips, for channels first, then for channels last."""
    alternatives: list[list[_Resized]] = []
    count = len(shape) - 2
    for axes in (tuple(range(2, len(shape))), tuple(range(1, 1 + count)), (1, *range(3, len(shape)))):
        if len(axes) != count or (len(shape) == 4 and axes[0] == 1 and axes[-1] == 3):
            continue
        before = tuple(shape[axis] for axis in axes)
        *time, height, width = before
        frames = tuple(2 * size for size in time)
        large = min(height, width) >= _LARGE
        sizes = [(height // 32 * 32 - 32, width // 32 * 32 - 64), (height // 14 * 14 - 28, width // 14 * 14 - 56)]
        single = [(2 * height, 3 * width)] if not large else [size for size in sizes if size[0] != height and size[1] != width]
        alternatives += [[_Resized(Change("image", before, (*frames, *size)), axes)] for size in single]
        pair = [(*frames, 2 * height, width), (*time, height, 2 * width)]
        alternatives.append([_Resized(Change("image", before, tuple(size)), axes) for size in pair])
    return alternatives


def _batch_of(inputs: Inputs, rows: int, resized: _Resized | None) -> Inputs:
    """A batch of `rows` samples, taken from the first ones and repeated if there are fewer, and resized by `resized`."""
    batch = inputs.take(rows)
    if batch.rows < rows:
        order = [row % inputs.rows for row in range(rows)]
        batch = _map_values(batch, lambda value: _select_samples(value, order, inputs.rows, listed=inputs.listed), rows)
    if resized is None:
        return batch
    return _map_values(batch, lambda x: resized(x) if isinstance(x, Tensor) and x.ndim and len(x) == rows else x, rows)


def _map_values(inputs: Inputs, function: Callable[[Any], Any], rows: int) -> Inputs:
    """The inputs with a function applied to every value, however nested; they have `rows` samples afterwards."""

    def apply(value: Any) -> Any:
        value = function(value)
        return value if isinstance(value, Tensor | PackedSequence) else rebuilt(value, apply)

    args = tuple(apply(value) for value in inputs.args)
    return replace(inputs, args=args, kwargs={key: apply(value) for key, value in inputs.kwargs.items()}, rows=rows)


def _select_samples(value: Any, order: Sequence[int], rows: int, *, listed: bool) -> Any:
    """The samples with the indices `order` of a tensor or list of `rows` samples; any other value unchanged."""
    if isinstance(value, Tensor):
        return (
            value[torch.tensor(order, device=value.device)]
            if value.ndim and not value.is_nested and len(value) == rows
            else value
        )
    return [value[row] for row in order] if listed and isinstance(value, list) and len(value) == rows else value


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restore random state, buffers and modules' attributes at the end of the block."""
    modules = list(model.modules())
    attributes = [(module, dict(module.__dict__), dict(module._buffers)) for module in modules]
    buffers = [(buffer, buffer._version, buffer.clone()) for buffer in model.buffers() if not buffer.is_inference()]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002  # the network may draw from it
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        for module, before, module_buffers in attributes:
            for name in module.__dict__.keys() - before.keys():
                del module.__dict__[name]
            module.__dict__.update(before)
            module._buffers.clear()
            module._buffers.update(module_buffers)
        with torch.no_grad(), suppress(RuntimeError):
            for buffer, version, original in buffers:
                if buffer._version != version:
                    buffer.copy_(original)

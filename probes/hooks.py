"""Hooks: what every layer of a network gave out, pooled and copied the moment it exists.

`attach` puts hooks on a model for as long as a `with` block lasts. Hooks only read: the network computes what it would
compute without them, and after the block, however it ends, none is left. An output may be a tensor, or tensors in
tuples, lists, mappings and dataclasses: then every part is a layer of its own, `attn.0`, `encoder.last_hidden_state`.
"""

from __future__ import annotations

import mmap
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.hooks import RemovableHandle

from probes.batch import LayerInfo
from probes.layers import Selection, axes, unwrap
from probes.patterns import Patterns
from probes.pooling import keep, pool_named

__all__ = ["Recording", "attach", "hooked", "parts_of", "rows_of"]


@dataclass
class _Frame:
    """A module call under way."""

    module: nn.Module
    leaf: bool = True


class Recording(Mapping[str, Tensor]):
    """What the hooks kept of the latest forward pass: layer name -> pooled copy, on the device where it was computed.

    Made by `attach`. Every forward pass of the whole model starts it afresh.
    """

    def __init__(self, model: nn.Module, layers: Patterns, pool: str) -> None:
        self.pool = pool
        self._model = model
        self._selection = Selection(layers)
        self._pool = pool_named(pool)
        self._names = {module: name or "model" for name, module in model.named_modules()}
        self._modules = set(self._names.values())
        self._slots: dict[str, Tensor] = {}
        self.clear()

    def clear(self) -> None:
        """Forget the latest forward pass; needed only where parts of the model are called instead of the model."""
        self._kept: dict[str, Tensor] = {}
        self._info: dict[str, LayerInfo] = {}
        self.left_out: dict[str, str] = {}
        self._calls: dict[str, str] = {}
        self._leaf_calls = 0
        self._count: Counter[nn.Module] = Counter()
        self._stack: list[_Frame] = []
        self._axes: dict[tuple[int, ...], tuple[str, ...]] = {}
        self._latest: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}
        self.rows: int | None = None

    def reserve(self) -> None:
        """Lay out one block, outside the heap, for what the next forward pass will keep: as much as the latest did.

        Small tensors that live on between large ones that come and go break the heap into pieces: hand-written hooks
        let a process grow by 200 MB that way (benchmarks/extract.py).
        """
        self._slots = {}
        shapes = {name: kept for name, kept in self._kept.items() if kept.device.type == "cpu"}
        starts = list(accumulate((-(-kept.nbytes // 64) * 64 for kept in shapes.values()), initial=0))
        if starts[-1]:
            block = np.frombuffer(mmap.mmap(-1, starts[-1]), np.uint8)
            for start, (name, kept) in zip(starts, shapes.items(), strict=False):
                flat = torch.from_numpy(block[start : start + kept.nbytes])
                self._slots[name] = flat.view(kept.dtype).view(kept.shape)

    @property
    def info(self) -> dict[str, LayerInfo]:
        """LayerInfo of every kept layer; complete once the forward pass has ended."""
        total = max(1, self._leaf_calls)
        return {name: replace(info, depth=info.depth / total) for name, info in self._info.items()}

    @property
    def calls(self) -> dict[str, str]:
        """Every module call of the latest forward pass in order of completion: name -> module type."""
        return dict(self._calls)

    def check(self) -> None:
        """Raise `UsageError` where a layer pattern has matched nothing that ran."""
        self._selection.check(self._model, self._calls)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._kept:
            reason = f": it was left out, {self.left_out[name]}" if name in self.left_out else ""
            raise KeyError(f"{name!r} was not recorded in the latest forward pass{reason}")
        return self._kept[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Hook: a module call begins."""
        if module is self._model and not any(frame.module is module for frame in self._stack):
            self.clear()
            self.rows = rows_of((*args, *kwargs.values()))
        if self._stack:
            self._stack[-1].leaf = False
        self._stack.append(_Frame(module))

    def after(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Hook: a module call ends, with its output."""
        leaf = self._pop(module)
        self._leaf_calls += leaf
        name = self._name(module)
        self._calls[name] = type(module).__name__
        whole = self._selection.wants(name, module, leaf=leaf)
        for part, value in self._parts(name, output):
            if whole or (part != name and self._selection.wants(part, module, leaf=leaf)):
                self._keep(part, module, value)
        if module is self._model and not self._stack:
            self.check()

    def _pop(self, module: nn.Module) -> bool:
        """End the call of `module`, and the inner calls that an exception, caught by the model, left open."""
        while self._stack:
            frame = self._stack.pop()
            if frame.module is module:
                return frame.leaf
        return True

    def _name(self, module: nn.Module) -> str:
        index, base = self._count[module], self._names[module]
        self._count[module] += 1
        if not index:
            return base
        name = f"{base}_{index}"
        while name in self._calls or name in self._modules:
            name += "_"
        return name

    def _parts(self, name: str, output: object) -> list[tuple[str, object]]:
        """What an output holds, named: the call's own name if that is one thing, else name.KEY of every part."""
        parts = [(key, value) for key, value in parts_of(output) if value is not None]
        if len(parts) < 2:
            return [(name, parts[0][1] if parts else output)]
        named = []
        for key, value in parts:
            part = f"{name}.{key}"
            while part in self._modules:
                part += "_"
            named.append((part, value))
        return named

    def _keep(self, name: str, module: nn.Module, output: object) -> None:
        if reason := self._unfit(output):
            self.left_out[name] = reason
            return
        assert isinstance(output, Tensor)
        seen = self._latest.get(id(output))
        if seen and seen[0]() is output and seen[1] == output._version:
            twin = self._info[seen[2]]  # an identity handed the same values on: reading them again gives nothing new
            kept, dims = self._kept[seen[2]], twin.dims
            kept = kept if name in self._slots else kept.clone()
        else:
            kept, dims = keep(output, axes(module, output, self._axes), self._pool)
        slot = self._slots.pop(name, None)
        if slot is not None:
            fits = slot.shape == kept.shape and slot.dtype == kept.dtype and slot.device == kept.device
            kept = slot.copy_(kept) if fits else kept.clone()
        self._latest[id(output)] = (weakref.ref(output), output._version, name)
        self._kept[name] = kept
        self._info[name] = LayerInfo(
            name=name,
            order=len(self._info),
            depth=float(self._leaf_calls),
            dims=dims,
            pool=self.pool,
            module_type=type(module).__name__,
            call_index=self._count[module] - 1,
            source_shape=tuple(output.shape[1:]),
            dtype_source=str(output.dtype).removeprefix("torch."),
        )

    def _unfit(self, output: object) -> str:
        """Why an output can't be recorded; empty if it can."""
        if not isinstance(output, Tensor):
            return f"its output is a {type(output).__name__}, not a tensor"
        if output.is_inference():
            return "it was computed in inference mode; use torch.no_grad() with attach"
        if not output.is_floating_point():
            return f"its output is {str(output.dtype).removeprefix('torch.')}, not floating point"
        if not output.numel():
            return f"its output has shape {tuple(output.shape)}: it is empty"
        if output.ndim == 0 or (self.rows is not None and len(output) != self.rows):
            return f"its output has shape {tuple(output.shape)} for {self.rows} samples: rows are not samples"
        return ""


def parts_of(output: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Everything that a nested output holds, with the dotted keys that lead to it: tuples, lists, mappings, dataclasses.

    Examples
    --------
    >>> list(parts_of({"a": 1, "b": (2, [3])}))
    [('a', 1), ('b.0', 2), ('b.1.0', 3)]
    """
    items: Iterable[tuple[Any, object]]
    if isinstance(output, Mapping):
        items = output.items()
    elif is_dataclass(output) and not isinstance(output, type):
        items = ((field.name, getattr(output, field.name)) for field in fields(output))
    elif isinstance(output, list | tuple):
        items = enumerate(output)
    else:
        yield key, output
        return
    for inner, value in items:
        yield from parts_of(value, f"{key}.{inner}" if key else str(inner))


def rows_of(inputs: Iterable[object]) -> int | None:
    """Number of samples: the length of the first tensor found in the inputs."""
    for value in inputs:
        if isinstance(value, Tensor) and value.ndim:
            return len(value)
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        if (found := rows_of(inner)) is not None:
            return found
    return None


@contextmanager
def attach(model: nn.Module, layers: Patterns = None, pool: str = "mean") -> Iterator[Recording]:
    """Record every forward pass of `model` inside the `with` block.

    Parameters
    ----------
    model : torch.nn.Module
        Any network; wrappers such as `DataParallel` are looked through.
    layers : str or sequence of str, optional
        Patterns: globs over names (`layer*.conv?`), `re:REGEX`, `type:Conv2d`. Default: every leaf call.
    pool : {"mean", "max", "flatten", "none"}, default "mean"
        What is kept of each output; `mean` and `max` reduce space or tokens.

    Yields
    ------
    Recording
        Mapping from layer name to the pooled copy of its output in the latest forward pass.

    Raises
    ------
    UsageError
        If the pool is unknown, the model is scripted, or (at the first forward pass) a pattern matches nothing.

    Notes
    -----
    The mode (train or eval) is left alone; `capture` sets eval. Hooks are gone when the block ends, by whatever way.

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True))
    >>> with attach(net) as recording:
    ...     _ = net(torch.zeros(2, 1, 8, 8))
    >>> {name: tuple(kept.shape) for name, kept in recording.items()}
    {'0': (2, 4), '1': (2, 4)}
    """
    model = unwrap(model)
    recording = Recording(model, layers, pool)
    with hooked(model, recording):
        yield recording


@contextmanager
def hooked(model: nn.Module, recording: Recording) -> Iterator[None]:
    """Put a recording's hooks on every module for as long as the block lasts."""
    handles: list[RemovableHandle] = []
    skipped = {
        inner
        for module in model.modules()
        for parametrization in module.children()
        if isinstance(parametrization, nn.ModuleDict)
        and any(isinstance(value, ParametrizationList) for value in parametrization.values())
        for inner in parametrization.modules()
    }
    try:
        for module in model.modules():
            if module not in skipped:  # a parametrization computes weights, not features
                handles.append(module.register_forward_pre_hook(recording.before, with_kwargs=True))
                handles.append(module.register_forward_hook(recording.after))
        yield
    finally:
        for handle in handles:
            handle.remove()

"""Forward hooks that pool and copy the output of every layer as soon as it is computed.

`attach` adds hooks to a model for the duration of a `with` block. Hooks only read, so the network's results do not change, and
all hooks are removed when the block ends or raises. An output may be a tensor, or tensors in tuples, lists, mappings and
dataclasses. Then each of these tensors is a layer of its own: `attn.0`, `encoder.last_hidden_state`.

The first pass determines each call's name and the specification of its output (`_OutputSpec`). Later passes reuse them while
the output keeps its shape and type. For another path through the network or another input size they are determined anew.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Unpack

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.hooks import RemovableHandle

from probes.batch import LayerInfo
from probes.capturing.arena import BufferPool, BufferView
from probes.capturing.axes import Layout, UnfitError
from probes.capturing.axis_inference import AxisInference
from probes.capturing.keywords import options_of
from probes.capturing.network import is_compiled, unwrap
from probes.capturing.operations import Operations, is_opaque
from probes.capturing.outputs import parts_of
from probes.capturing.padding import padding_mask, padding_note, unnested
from probes.capturing.pooling import AVERAGING, DTYPES, HALF, Pool, Pooling, apply_pool, averaging_factor, mean, mean_dtype
from probes.capturing.selection import Selection, types_of
from probes.errors import UsageError
from probes.loading.inputs import samples_of
from probes.options import CaptureKeywords, CaptureOptions, shows_options
from probes.patterns import closest

__all__ = ["Recording", "Reduction", "StopForward", "attach", "hooked"]


_CALL = nn.Module._call_impl.__code__

Reduction = Callable[[str, Tensor], Tensor]  # (layer name, whole output) -> tensor to record, one row per sample


@dataclass(slots=True)
class _OutputSpec:
    """Axes, pool and description of an output; computed once and valid for every output of that shape and type."""

    shape: torch.Size
    dtype: torch.dtype
    rows: int | None
    length: int | None  # length of the padding mask
    layout: Layout
    pool: Pool
    info: LayerInfo
    direct: _Direct | None = None
    leaf: bool = True
    shares: bool = False  # whether the output was the same tensor object that an earlier module returned, unmodified
    passed_on: bool = False  # whether a later module returned the same tensor object

    def name_axes(self, dims: tuple[str, ...]) -> None:
        """Store the axes of the pooled output."""
        if self.info.dims != dims:
            self.info = replace(self.info, dims=dims)

    def fits(self, output: Tensor, rows: int | None, length: int | None) -> bool:
        """Whether the specification is valid for an output."""
        return (
            not output.is_nested
            and output.shape == self.shape
            and output.dtype == self.dtype
            and rows == self.rows
            and length == self.length
            and output.layout == torch.strided
            and not output.is_inference()
        )


class _Direct(NamedTuple):
    """Shape and type of a pooled output that can be written to its buffer without an intermediate tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    write: Callable[[Tensor, Tensor], object]  # buffer, output


class _Output(NamedTuple):
    """A pooled output, and the number of leaf calls that had ended before or with it."""

    view: BufferView
    spec: _OutputSpec
    leaf_calls: int


@dataclass(slots=True, eq=False)
class _Call:
    """The k-th call of a module in a forward pass; the same object in every pass."""

    module: _HookedModule
    name: str
    index: int
    entry: tuple[str, str]  # name and module type
    leaf: bool = True
    operations: Counter[str] | None = None
    spec: _OutputSpec | None = None  # set if the latest output was a single, recorded tensor


class _HookedModule:
    """A module's hooks, and its calls so far."""

    __slots__ = ("calls", "count", "is_opaque", "kinds", "module", "name", "recording", "type_name")

    def __init__(self, recording: Recording, module: nn.Module, name: str) -> None:
        self.recording = weakref.ref(recording)  # no reference cycle: a recording's memory is freed with its last reference
        self.module = module
        self.name = name
        self.kinds = types_of(module)
        self.type_name = type(module).__name__
        self.is_opaque = is_opaque(module)
        self.calls: list[_Call] = []
        self.count = 0  # calls in this pass

    def call(self, recording: Recording) -> _Call:
        """The next call of the module."""
        index = self.count
        self.count = index + 1
        if index == len(self.calls):
            name = recording._unique_name(f"{self.name}_{index}") if index else self.name
            self.calls.append(_Call(self, name, index, (name, self.type_name)))
        call = self.calls[index]
        call.leaf, call.operations = True, None
        return call

    def before(self, _module: nn.Module, _args: tuple[Any, ...]) -> None:
        """Hook: a call begins."""
        if (recording := self.recording()) is not None:
            calls = recording._stack
            if calls:
                calls[-1].leaf = False
            calls.append(self.call(recording))

    def after(self, _module: nn.Module, _args: tuple[Any, ...], output: object) -> None:
        """Hook: a call ends, with its output."""
        if (recording := self.recording()) is not None:
            calls = recording._stack
            # Inner calls that ended by an exception which the model caught are still open; they end with this call.
            call = calls.pop() if calls else self.call(recording)
            while call.module is not self:
                call = calls.pop() if calls else self.call(recording)
            recording._end(call, output)


class StopForward(BaseException):
    """Raised inside a forward pass once every selected layer is recorded; `capture` catches it."""


class Recording(Mapping[str, Tensor]):
    """The recorded outputs of the latest forward pass: layer name -> pooled copy, on the device where it was computed.

    Returned by `attach`. Every forward pass of the whole model clears it first.
    """

    def __init__(
        self,
        model: nn.Module,
        options: CaptureOptions,
        *,
        reduce: Reduction | None = None,
    ) -> None:
        self.reduce = reduce
        self.pooling = Pooling(options.pool, seed=options.seed)
        self.axes = AxisInference(model, options.axes, options.prefix_tokens)
        self.ops = options.ops
        self.last: str | None = None  # the layer after which a forward pass may end
        self.expected: tuple[int, tuple[int, ...]] | None = (
            None  # number of samples and shape of one sample, if the caller knows them
        )
        self.compiled = is_compiled(model)
        self._dtype = DTYPES[options.dtype]
        self._model = model
        self._selection = Selection(options.layers)
        names = {module: name.replace("_orig_mod.", "") or "model" for name, module in model.named_modules()}
        self._module_names = set(names.values())
        self._names_used: set[str] = set()
        self._operation_names: dict[tuple[str, str, int], str] = {}
        weights = _parametrizations(model)
        self._modules = [_HookedModule(self, module, name) for module, name in names.items() if module not in weights]
        self._slots: list[tuple[dict[int, Callable[..., None]], int, Callable[..., None]]] = []
        self._root: RemovableHandle | None = None
        self._buffers = BufferPool()
        self._busy = False
        self._shape: tuple[int, ...] | None = ()
        self._is_coarse = False  # whether any output so far was in half precision: its rounding error propagates
        self._checked = False
        self.clear()

    def clear(self, shape: tuple[int, ...] | None = None) -> None:
        """Clear the latest forward pass; needed only if parts of the model are called instead of the model.

        Parameters
        ----------
        shape : tuple of int, optional
            Shape of one input sample. If it changes, the axes of all outputs are determined anew.
        """
        self._outputs: dict[str, _Output] = {}
        self._buffers.restart()
        self._reasons: dict[str, str] = {}
        self._calls: list[tuple[str, str]] = []
        self._leaf_calls = 0
        self._complete = False
        self._stack: list[_Call] = []
        for module in self._modules:
            module.count = 0
        if shape != self._shape:
            for call in (call for module in self._modules for call in module.calls):
                call.spec = None
            self._shape = shape
            self.axes.forget()
            self._specs: dict[str, _OutputSpec] = {}
            self._seen: set[str] = set()
        self._latest: dict[int, tuple[weakref.ref[Tensor], int, str]] = {}
        self.rows: int | None = None
        self.mask: Tensor | None = None  # True at positions of the inputs that are not padding

    @property
    def info(self) -> dict[str, LayerInfo]:
        """LayerInfo of every recorded layer; complete once the forward pass has ended."""
        total = max(1, self._leaf_calls)
        return {
            name: replace(output.spec.info, order=order, depth=output.leaf_calls / total)
            for order, (name, output) in enumerate(self._outputs.items())
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one sample of every recorded layer."""
        return {name: output.view.shape[1:] for name, output in self._outputs.items()}

    @property
    def calls(self) -> dict[str, str]:
        """Every module call of the latest forward pass in order of completion: name -> module type."""
        return dict(self._calls)

    @property
    def skipped(self) -> dict[str, str]:
        """Selected layers that were not recorded in the latest pass, each with the reason; uncalled ones once it has ended."""
        return self._reasons | (self.uncalled_modules if self._complete else {})

    @property
    def uncalled_modules(self) -> dict[str, str]:
        """Selected modules without children that the latest forward pass never called, each with the reason."""
        reason = "the forward pass never calls it (its parent may use its weights directly, or skip it in eval mode)"
        return {
            hooked.name: reason
            for hooked in self._modules
            if not hooked.count and next(hooked.module.children(), None) is None
            if self._selection.includes(hooked.name, hooked.kinds, leaf=True)
        }

    def check(self) -> None:
        """Raise `UsageError` if a pattern of layers, pools or axes has matched no call."""
        self._selection.check(self._model, self.calls)
        for pattern in (pattern for pattern, matched in self.pooling.matched.items() if not matched):
            raise UsageError(
                f"No recorded layer of {type(self._model).__name__!r} matches {pattern!r}, the pattern of a pool."
                f"{closest(pattern, self._outputs)} `repanalysis layers` lists all."
            )
        self.axes.rules.check(type(self._model).__name__, self._outputs)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._outputs:
            reason = f": it was left out, {reasons[name]}" if name in (reasons := self.skipped) else ""
            raise KeyError(f"{name!r} was not recorded in the latest forward pass{reason}")
        return self._outputs[name].view.tensor()

    def __iter__(self) -> Iterator[str]:
        return iter(self._outputs)

    def __len__(self) -> int:
        return len(self._outputs)

    def array(self, name: str) -> NDArray[Any]:
        """A recorded layer as an array: on the CPU without a copy, in memory that no later forward pass overwrites."""
        return self._outputs[name].view.array()

    def listens(self) -> bool:
        """Whether the next operation may be recorded: not an operation of the hooks, nor one inside torch's leaf modules."""
        return not self._busy and bool(self._stack) and not self._stack[-1].module.is_opaque

    def operation(self, name: str, output: object) -> None:
        """Record the output of an operation inside the current module call."""
        call = self._stack[-1]
        if call.operations is None:
            call.operations = Counter()
        index = call.operations[name]
        call.operations[name] += 1
        key = (call.name, name, index)
        if key not in self._operation_names:
            path = name if call.module.module is self._model else f"{call.name}.{name}"
            self._operation_names[key] = self._unique_name(f"{path}_{index}" if index else path)
        path = self._operation_names[key]
        self._calls.append((path, name))
        for part, value in self._parts(path, output):
            if self._selection.includes(part, [name], leaf=True):
                self._record(part, value, [name], index, None)

    def hook_up(self) -> None:
        """Add the hooks to every module.

        After the first time, the registered hooks are put back into the modules' hook dictionaries, which is ten times as fast
        as registering.
        """
        self._root = self._model.register_forward_pre_hook(self.begin, with_kwargs=True)
        if self._slots:
            for slot, key, hook in self._slots:
                slot[key] = hook
            return
        for hooked in self._modules:
            before, after = hooked.before, hooked.after
            self._slots.append(_slot(hooked.module.register_forward_pre_hook(before), before))
            self._slots.append(_slot(hooked.module.register_forward_hook(after), after))

    def unhook(self) -> None:
        """Remove the hooks from every module."""
        if self._root is not None:
            self._root.remove()
        for slot, key, _ in self._slots:
            slot.pop(key, None)

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Hook that runs before all others: starts a new forward pass, unless the model is called inside its own call."""
        if not self._stack or not _calls_itself(module):
            rows, shape = self.expected or samples_of((*args, *kwargs.values()))
            self.clear(shape)
            self.rows = rows
            self.mask = padding_mask((args, kwargs))

    def _end(self, call: _Call, output: object) -> None:
        """Record the output of a module call that has ended."""
        self._leaf_calls += call.leaf
        self._calls.append(call.entry)
        spec = call.spec
        length = None if self.mask is None else self.mask.shape[1]
        if spec is not None and type(output) is Tensor and call.leaf == spec.leaf and spec.fits(output, self.rows, length):
            self._keep(call.name, output, spec, self.mask)
        else:
            call.spec = self._select(call, output)
        if not self._stack and call.module.module is self._model:
            self._complete = True
            if not self._checked:
                self._reasons = self.skipped
                self.check()
                self._checked = True

    def _select(self, call: _Call, output: object) -> _OutputSpec | None:
        """Record the selected parts of an output; returns the specification if the output is one recorded tensor."""
        module, kinds = call.module.module, call.module.kinds
        whole = self._selection.includes(call.name, kinds, leaf=call.leaf)
        for part, value in ((call.name, output),) if type(output) is Tensor else self._parts(call.name, output):
            if self._includes_part(part, call, whole=whole):
                spec = self._record(part, value, kinds, call.index, module)
                if spec is not None and value is output:
                    spec.leaf = call.leaf
                    return spec
            elif self.axes.has_prefix and part not in self._seen and isinstance(value, Tensor) and not value.is_nested:
                self._seen.add(part)
                with suppress(UnfitError):
                    # The number of positions, from which prefix tokens of later layers are inferred.
                    self.axes.see(part, module, tuple(value.shape), self.rows)
        return None

    def _includes_part(self, part: str, call: _Call, *, whole: bool) -> bool:
        """Whether a part of an output is selected by its own name or the call's name, and excluded by neither."""
        selection, kinds = self._selection, call.module.kinds
        if part == call.name:
            return whole
        if selection.excludes(call.name, kinds) or selection.excludes(part, kinds):
            return False
        return whole or selection.includes(part, kinds, leaf=call.leaf)

    def _unique_name(self, name: str) -> str:
        """The name with underscores appended until no module and no other call has it."""
        while name in self._names_used or name in self._module_names:
            name += "_"
        self._names_used.add(name)
        return name

    def _parts(self, name: str, output: object) -> list[tuple[str, object]]:
        """The parts of an output with their names: the call's own name for a single part, else `name.KEY`."""
        parts = [(key, value) for key, value in parts_of(output) if value is not None]
        if len(parts) < 2:
            return [(name, parts[0][1] if parts else output)]
        named = []
        for key, value in parts:
            part = f"{name}.{key}"
            while part in self._module_names:
                part += "_"
            named.append((part, value))
        return named

    def _record(
        self, name: str, output: object, kinds: Sequence[str], index: int, module: nn.Module | None
    ) -> _OutputSpec | None:
        """Record an output and return its specification; returns None and stores the reason if it can't be recorded."""
        mask = self.mask
        self._busy = True
        try:
            if isinstance(output, Tensor) and output.is_nested:
                output, mask = unnested(output, mask)
            if reason := self._unfit(output):
                raise UnfitError(reason)
            assert isinstance(output, Tensor)
            spec = self._specs.get(name)
            length = None if mask is None else mask.shape[1]
            if spec is None or not spec.fits(output, self.rows, length):
                spec = self._specify(name, output, kinds, index, module, length)
        except UnfitError as error:
            self._reasons[name] = str(error)
            return None
        finally:
            self._busy = False
        self._keep(name, output, spec, mask)
        return spec

    def _keep(self, name: str, output: Tensor, spec: _OutputSpec, mask: Tensor | None) -> None:
        """Record an output for which `spec` is valid; `mask` is False at padding."""
        self._busy = True
        direct = spec.direct
        try:
            if direct is None or spec.shares or not output.is_cpu:
                view = self._pooled(output, spec, mask)
            else:
                view = self._buffers.reserve(direct.shape, direct.dtype)
                buffer = view.tensor() if view.prepared is None else view.prepared
                direct.write(buffer, output.detach() if output.requires_grad else output)
            if direct is None or spec.passed_on:
                self._latest[id(output)] = (weakref.ref(output), output._version, name)
        except UnfitError as error:
            self._reasons[name] = str(error)
            return
        finally:
            self._busy = False
        self._outputs[name] = _Output(view, spec, self._leaf_calls)
        if name == self.last:
            raise StopForward

    def _specify(  # noqa: PLR0917  # one call, above
        self, name: str, output: Tensor, kinds: Sequence[str], index: int, module: nn.Module | None, length: int | None
    ) -> _OutputSpec:
        """Determine the axes, pool and description of an output."""
        shape, dtype = output.shape[1:], output.dtype
        spec = self._specs.get(name)
        same = spec is not None and (spec.shape[1:], spec.dtype, spec.length) == (shape, dtype, length)
        if spec is not None and same and not spec.layout.sample and spec.layout.fits(output.shape, self.rows):
            # Only the number of samples differs.
            spec.shape, spec.rows, spec.direct = output.shape, self.rows, None
            return spec
        pool_spec, pool = self.pooling.of(name, kinds) if self.reduce is None else ("", _reducing(name, self.reduce))
        layout = self.axes.layout(name, module, output.shape, self.rows, kinds)
        arranged = tuple(layout.arrange(output, self.rows).shape)
        info = LayerInfo(
            name=name,
            order=0,
            depth=0.0,
            dims=layout.dims,
            pool=pool_spec,
            module_type=kinds[0] if kinds else "",
            call_index=index,
            source_shape=arranged[1:],
            dtype_source=str(dtype).removeprefix("torch."),
            prefix_tokens=layout.prefix,
            source_dims=layout.source_dims,
            axes_from=layout.origin,
            padding=padding_note(pool_spec, layout, arranged, length),
        )
        self._specs[name] = _OutputSpec(output.shape, dtype, self.rows, length, layout, pool, info)
        return self._specs[name]

    def _pooled(self, output: Tensor, spec: _OutputSpec, mask: Tensor | None) -> BufferView:
        """The pooled output, in memory of its own."""
        latest = self._latest.get(id(output))
        spec.shares = latest is not None and latest[0]() is output and latest[1] == output._version
        if latest is not None and spec.shares:
            source = self._outputs[latest[2]].spec
            source.passed_on = True
            if (source.info.pool, source.info.padding, source.layout) == (spec.info.pool, spec.info.padding, spec.layout):
                # A module such as Identity returned its input: copy the pooled values instead of pooling again.
                spec.name_axes(source.info.dims)
                return self._buffers.put(self._outputs[latest[2]].view.tensor())
        excluded = spec.info.padding == "excluded"
        layout = replace(spec.layout, mask=mask) if excluded else spec.layout
        arranged = layout.arrange(output, self.rows)
        pooled, dims = apply_pool(arranged, layout, spec.pool, self._dtype)
        spec.name_axes(dims)
        self._is_coarse |= output.dtype in HALF
        if self._is_coarse and spec.info.averaged == 1.0 and spec.info.pool.partition(":")[0] in AVERAGING:
            spec.info = replace(spec.info, averaged=averaging_factor(arranged, layout, spec.pool))
        if self.reduce is None and not excluded:
            spec.direct = _direct(output, pooled, spec)
        return self._buffers.put(pooled)

    def _unfit(self, output: object) -> str:
        """The reason why an output can't be recorded; empty if it can."""
        if not isinstance(output, Tensor):
            return f"its output is a {type(output).__name__}, not a tensor"
        if output.is_inference():
            return "it was computed in inference mode; use torch.no_grad() with attach"
        if output.is_nested or output.layout != torch.strided or not output.is_floating_point():
            kind = "nested" if output.is_nested else output.dtype if output.layout == torch.strided else output.layout
            return f"its output is {str(kind).removeprefix('torch.')}, not dense floating point"
        if not output.numel():
            return f"its output has shape {tuple(output.shape)}: it is empty"
        if output.ndim == 0:
            return "its output is one number for all samples"
        return ""


def _calls_itself(model: nn.Module) -> bool:
    """Whether the current call of a model was made inside another call of the same model.

    The recording's own stack of calls can't answer this: calls that ended by an exception are still on it.
    """
    frame, calls = sys._getframe(), 0
    while frame is not None and calls < 2:
        calls += frame.f_code is _CALL and frame.f_locals.get("self") is model
        frame = frame.f_back  # type: ignore[assignment]  # None at the end
    return calls > 1


def _slot(
    handle: RemovableHandle, hook: Callable[..., None]
) -> tuple[dict[int, Callable[..., None]], int, Callable[..., None]]:
    """Location of a registered hook: the module's hook dictionary, the key in it, and the hook."""
    hooks: Any = handle.hooks_dict_ref()
    return hooks, handle.id, hook


def _direct(output: Tensor, pooled: Tensor, spec: _OutputSpec) -> _Direct | None:
    """How to pool later outputs of that shape directly into their buffer; None if the pool needs an intermediate tensor."""
    unchanged = pooled.shape == output.shape and pooled.stride() == output.stride() and pooled.dtype == output.dtype
    if unchanged and pooled.data_ptr() == output.data_ptr():
        write: Callable[[Tensor, Tensor], object] = Tensor.copy_
    elif spec.pool is mean and output.ndim > 1 and pooled.dtype == mean_dtype(output.dtype):
        layout, rows = spec.layout, spec.rows
        is_arranged = not layout.fold and not layout.sample

        def write(buffer: Tensor, x: Tensor) -> object:
            result = mean(x if is_arranged else layout.arrange(x, rows), layout, buffer)[0]
            return buffer if result is buffer else buffer.copy_(result)

    else:
        return None
    return _Direct(tuple(pooled.shape), pooled.dtype, write)


def _reducing(name: str, reduce: Reduction) -> Pool:
    """A reduction as the pool of one layer."""

    def pool(x: Tensor, layout: Layout) -> tuple[Tensor, tuple[str, ...]]:  # noqa: ARG001  # pools share one signature
        reduced = reduce(name, x)
        return reduced, ("sample", *(f"axis{axis}" for axis in range(1, reduced.ndim)))

    return pool


def _parametrizations(model: nn.Module) -> set[nn.Module]:
    """Modules of parametrizations, which compute weights and not features."""
    return {
        inner
        for module in model.modules()
        for holder in module.children()
        if isinstance(holder, nn.ModuleDict) and any(isinstance(value, ParametrizationList) for value in holder.values())
        for inner in holder.modules()
    }


@shows_options(CaptureKeywords)
@contextmanager
def attach(model: nn.Module, *, reduce: Reduction | None = None, **options: Unpack[CaptureKeywords]) -> Iterator[Recording]:
    """Record every forward pass of `model` inside the `with` block.

    Parameters
    ----------
    model : torch.nn.Module
        Any network. Wrappers such as `DataParallel` are unwrapped, and modules compiled by `torch.compile` run
        uncompiled inside the block.
    reduce : callable, optional
        Replaces the pool: a function of the layer's name and its whole output, (n, ...) with samples first, that returns a
        tensor with one row per sample. It is called once per output while the output exists, so only its results are stored.
    **options
        See `probes.CaptureOptions`: `layers`, `pool`, `ops`, `prefix_tokens`, `dtype`, `seed`, `axes`. Without `axes`, axes
        are inferred from module types and weights and, once two passes with different batch sizes have run, from the sizes that
        changed.

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
    The mode (train or eval) is not changed; `capture` sets eval. Hooks are removed when the block ends or raises.

    Examples
    --------
    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True))
    >>> with attach(net) as recording:
    ...     _ = net(torch.zeros(2, 1, 8, 8))
    >>> {name: tuple(pooled.shape) for name, pooled in recording.items()}
    {'0': (2, 4), '1': (2, 4)}
    """
    model = unwrap(model)
    recording = Recording(model, options_of(**options), reduce=reduce)
    with hooked(recording):
        yield recording


@contextmanager
def hooked(recording: Recording) -> Iterator[None]:
    """Add a recording's hooks to every module for the duration of the block."""
    with ExitStack() as stack:
        if recording.compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # hooks do not run inside compiled code
        if recording.ops:
            stack.enter_context(Operations(recording))
        stack.callback(recording.unhook)
        recording.hook_up()
        yield

"""Hooks: what every layer of a network gave out, pooled and copied the moment it exists.

`attach` puts hooks on a model for as long as a `with` block lasts. Hooks only read: the network computes what it would
compute without them, and after the block, however it ends, none is left. An output may be a tensor, or tensors in
tuples, lists, mappings and dataclasses: then every part is a layer of its own, `attn.0`, `encoder.last_hidden_state`.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils.hooks import RemovableHandle

from probes.arena import Arena, Place
from probes.axes import AxesOption, Layout, UnfitError
from probes.axis_inference import AxisInference
from probes.batch import LayerInfo
from probes.errors import UsageError, did_you_mean
from probes.layers import Selection, is_compiled, types_of, unwrap
from probes.operations import Operations, is_opaque
from probes.padding import padding_mask, padding_note, unnested
from probes.patterns import Patterns, closest
from probes.pooling import DTYPES, Pool, Pooling, Pools, keep

__all__ = ["Enough", "Recording", "Reduction", "attach", "first_tensor", "hooked", "parts_of"]


Reduction = Callable[[str, Tensor], Tensor]  # layer and whole output -> what is kept of it, a row per sample


@dataclass
class _Frame:
    """A module call under way."""

    module: nn.Module
    name: str
    index: int = 0
    leaf: bool = True
    operations: Counter[str] = field(default_factory=Counter)


@dataclass
class _Known:
    """What the latest pass has found out about an output: valid for every output of that shape and type."""

    shape: torch.Size
    dtype: torch.dtype
    length: int | None  # of the padding mask
    layout: Layout
    pool: Pool
    info: LayerInfo


class Enough(BaseException):
    """Raised inside a forward pass once everything wanted was recorded; `capture` catches it."""


class Recording(Mapping[str, Tensor]):
    """What the hooks kept of the latest forward pass: layer name -> pooled copy, on the device where it was computed.

    Made by `attach`. Every forward pass of the whole model starts it afresh.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Patterns = None,
        pool: Pools = "mean",
        *,
        ops: bool = False,
        prefix_tokens: int | None = None,
        dtype: str = "auto",
        seed: int = 0,
        reduce: Reduction | None = None,
        axes: AxesOption = None,
    ) -> None:
        one_of_dtypes(dtype)
        self.reduce = reduce
        self.pooling = Pooling(pool, seed=seed)
        self.axes = AxisInference(model, axes, prefix_tokens)
        self.ops = ops
        self.last: str | None = None  # the layer after which a forward pass may end
        self._dtype = DTYPES[dtype]
        self._model = model
        self._selection = Selection(layers)
        self._names = {module: name.replace("_orig_mod.", "") or "model" for name, module in model.named_modules()}
        self._modules = set(self._names.values())
        self._arena = Arena()
        self._busy = False
        self._shape: tuple[int, ...] | None = ()
        self._kinds = {module: types_of(module) for module in self._names}
        weights = _parametrizations(model)
        self.modules = [module for module in self._names if module not in weights]
        self._hookable = set(self.modules)
        self.compiled = is_compiled(model)
        self.clear()

    def clear(self, shape: tuple[int, ...] | None = None) -> None:
        """Forget the latest forward pass; needed only where parts of the model are called instead of the model.

        Parameters
        ----------
        shape : tuple of int, optional
            Of one input sample. While it stays the same, so does what the axes of the outputs mean.
        """
        self._kept: dict[str, Place] = {}
        self._arena = Arena(self._arena)
        self._info: dict[str, LayerInfo] = {}
        self.left_out: dict[str, str] = {}
        self._calls: dict[str, str] = {}
        self._leaf_calls = 0
        self._count: Counter[nn.Module] = Counter()
        self._names_used: set[str] = set()
        self._stack: list[_Frame] = []
        if shape != self._shape:
            self._shape = shape
            self.axes.forget()
            self._recall: dict[str, _Known] = {}
            self._seen: set[str] = set()
        self._latest: dict[int, tuple[weakref.ref[Tensor], int, str, Layout]] = {}
        self.rows: int | None = None
        self.mask: Tensor | None = None  # positions of the inputs that are no padding

    @property
    def info(self) -> dict[str, LayerInfo]:
        """LayerInfo of every kept layer; complete once the forward pass has ended."""
        total = max(1, self._leaf_calls)
        return {name: replace(info, depth=info.depth / total) for name, info in self._info.items()}

    @property
    def calls(self) -> dict[str, str]:
        """Every module call of the latest forward pass in order of completion: name -> module type."""
        return dict(self._calls)

    @property
    def idle(self) -> dict[str, str]:
        """Wanted modules without children that the latest forward pass never called, each with the reason."""
        reason = "the forward pass never calls it (its parent may use its weights directly, or skip it in eval mode)"
        return {
            name: reason
            for module, name in self._names.items()
            if not self._count[module] and next(module.children(), None) is None and module in self._hookable
            if self._selection.wants(name, self._kinds[module], leaf=True)
        }

    def check(self) -> None:
        """Raise `UsageError` where a pattern, of layers or of pools, has matched nothing that ran."""
        self._selection.check(self._model, self._calls)
        for pattern in (pattern for pattern, met in self.pooling.met.items() if not met):
            raise UsageError(
                f"No recorded layer of {type(self._model).__name__!r} matches {pattern!r}, the pattern of a pool."
                f"{closest(pattern, self._kept)} `repanalysis layers` lists all."
            )
        self.axes.rules.check(type(self._model).__name__, self._kept)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._kept:
            reason = f": it was left out, {self.left_out[name]}" if name in self.left_out else ""
            raise KeyError(f"{name!r} was not recorded in the latest forward pass{reason}")
        return self._kept[name].tensor()

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)

    def __len__(self) -> int:
        return len(self._kept)

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Hook: a module call begins."""
        if module is self._model and not any(frame.module is module for frame in self._stack):
            first = first_tensor((*args, *kwargs.values()))
            self.clear(None if first is None else tuple(first.shape[1:]))
            self.rows = None if first is None else len(first)
            self.mask = padding_mask((args, kwargs))
        if self._stack:
            self._stack[-1].leaf = False
        self._stack.append(self._frame(module))

    def after(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Hook: a module call ends, with its output."""
        frame = self._pop(module)
        self._leaf_calls += frame.leaf
        name = frame.name
        self._calls[name] = type(module).__name__
        kinds = self._kinds[module]
        whole = self._selection.wants(name, kinds, leaf=frame.leaf)
        for part, value in self._parts(name, output):
            if whole or (part != name and self._selection.wants(part, kinds, leaf=frame.leaf)):
                self._keep(part, value, kinds, frame.index, module)
            elif self.axes.has_prefix and part not in self._seen and isinstance(value, Tensor) and not value.is_nested:
                self._seen.add(part)
                with suppress(UnfitError):
                    self.axes.see(part, module, tuple(value.shape), self.rows)  # how many places, for the tokens to come
        if module is self._model and not self._stack:
            self.left_out |= self.idle
            self.check()

    def listens(self) -> bool:
        """Whether an operation that is about to run counts: not our own, nor those inside torch's leaf modules."""
        return not self._busy and bool(self._stack) and not is_opaque(self._stack[-1].module)

    def operation(self, name: str, output: object) -> None:
        """An operation has run inside the module call under way."""
        frame = self._stack[-1]
        index = frame.operations[name]
        frame.operations[name] += 1
        path = name if frame.module is self._model else f"{frame.name}.{name}"
        path = self._free(f"{path}_{index}" if index else path)
        self._calls[path] = name
        for part, value in self._parts(path, output):
            if self._selection.wants(part, [name], leaf=True):
                self._keep(part, value, [name], index, None)

    def _pop(self, module: nn.Module) -> _Frame:
        """End the call of `module`, and the inner calls that an exception, caught by the model, left open."""
        while self._stack:
            frame = self._stack.pop()
            if frame.module is module:
                return frame
        return self._frame(module)

    def _frame(self, module: nn.Module) -> _Frame:
        """The next call of a module."""
        index, base = self._count[module], self._names[module]
        self._count[module] += 1
        return _Frame(module, self._free(f"{base}_{index}") if index else base, index)

    def _free(self, name: str) -> str:
        """The name, made different from every module's and every other call's."""
        while name in self._names_used or name in self._modules:
            name += "_"
        self._names_used.add(name)
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

    def _keep(self, name: str, output: object, kinds: Sequence[str], index: int, module: nn.Module | None) -> None:
        mask = self.mask
        self._busy = True
        try:
            if isinstance(output, Tensor) and output.is_nested:
                output, mask = unnested(output, mask)
            if reason := self._unfit(output):
                raise UnfitError(reason)
            assert isinstance(output, Tensor)
            known = self._known(name, output, kinds, index, module, mask)
            kept = self._pooled(name, output, known, mask)
        except UnfitError as error:
            self.left_out[name] = str(error)
            return
        finally:
            self._busy = False
        self._latest[id(output)] = (weakref.ref(output), output._version, name, known.layout)
        self._kept[name] = kept
        self._info[name] = known.info
        if known.info.order != len(self._info) - 1 or known.info.depth != self._leaf_calls:  # another way through the network
            self._info[name] = replace(known.info, order=len(self._info) - 1, depth=float(self._leaf_calls))
        if name == self.last:
            raise Enough

    def _known(  # noqa: PLR0917  # one call, above
        self, name: str, output: Tensor, kinds: Sequence[str], index: int, module: nn.Module | None, mask: Tensor | None
    ) -> _Known:
        """What an output's axes mean and how it is pooled: as in the pass before, if its shape and type are the same."""
        shape, dtype = output.shape[1:], output.dtype
        known = self._recall.get(name)
        length = None if mask is None else mask.shape[1]
        if (
            known is None or known.shape != shape or known.dtype != dtype or known.length != length
            or not known.layout.fits(output.shape, self.rows)
        ):  # fmt: skip
            spec, pool = self.pooling.of(name, kinds) if self.reduce is None else ("", _reducing(name, self.reduce))
            layout = self.axes.layout(name, module, output.shape, self.rows, kinds)
            arranged = tuple(layout.arrange(output, self.rows).shape)
            info = LayerInfo(
                name=name,
                order=len(self._info),
                depth=float(self._leaf_calls),
                dims=layout.dims,
                pool=spec,
                module_type=kinds[0] if kinds else "",
                call_index=index,
                source_shape=arranged[1:],
                dtype_source=str(dtype).removeprefix("torch."),
                prefix_tokens=layout.prefix,
                source_dims=layout.source_dims,
                axes_from=layout.found,
                padding=padding_note(spec, layout, arranged, length),
            )
            known = self._recall[name] = _Known(shape, dtype, length, layout, pool, info)
        return known

    def _pooled(self, name: str, output: Tensor, known: _Known, mask: Tensor | None) -> Place:
        """The part of an output that is kept, in memory of its own."""
        seen = self._latest.get(id(output))
        same = seen is not None and seen[0]() is output and seen[1] == output._version and seen[3] == known.layout
        if seen and same and self._info[seen[2]].pool == known.info.pool:
            # An identity handed the same values on: reading them again gives nothing new.
            kept, dims = self._kept[seen[2]].tensor(), self._info[seen[2]].dims
        else:
            layout = replace(known.layout, mask=mask) if known.info.padding == "excluded" else known.layout
            kept, dims = keep(layout.arrange(output, self.rows), layout, known.pool, self._dtype)
        if known.info.dims != dims:
            known.info = replace(known.info, dims=dims)
        return self._arena.put(kept)

    def _unfit(self, output: object) -> str:
        """Why an output can't be recorded; empty if it can."""
        if not isinstance(output, Tensor):
            return f"its output is a {type(output).__name__}, not a tensor"
        if output.is_inference():
            return "it was computed in inference mode; use torch.no_grad() with attach"
        if output.layout != torch.strided or not output.is_floating_point():
            what = output.dtype if output.layout == torch.strided else output.layout
            return f"its output is {str(what).removeprefix('torch.')}, not dense floating point"
        if not output.numel():
            return f"its output has shape {tuple(output.shape)}: it is empty"
        if output.ndim == 0:
            return "its output is one number for all samples"
        return ""


def _reducing(name: str, reduce: Reduction) -> Pool:
    """A reduction as the pool of one layer."""

    def pool(x: Tensor, layout: Layout) -> tuple[Tensor, tuple[str, ...]]:  # noqa: ARG001  # pools share one signature
        kept = reduce(name, x)
        return kept, ("sample", *(f"axis{axis}" for axis in range(1, kept.ndim)))

    return pool


def one_of_dtypes(dtype: str) -> None:
    """Raise `UsageError` unless `dtype` is one that can be kept."""
    if dtype not in DTYPES:
        raise UsageError(f"Unknown dtype {dtype!r}.{did_you_mean(dtype, DTYPES)} Known are {', '.join(DTYPES)}.")


def _parametrizations(model: nn.Module) -> set[nn.Module]:
    """Modules that compute weights, not features."""
    return {
        inner
        for module in model.modules()
        for holder in module.children()
        if isinstance(holder, nn.ModuleDict) and any(isinstance(value, ParametrizationList) for value in holder.values())
        for inner in holder.modules()
    }


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
        items = ((part.name, getattr(output, part.name)) for part in fields(output))
    elif isinstance(output, list | tuple):
        items = enumerate(output)
    else:
        yield key, output
        return
    for inner, value in items:
        yield from parts_of(value, f"{key}.{inner}" if key else str(inner))


def first_tensor(inputs: Iterable[object]) -> Tensor | None:
    """The first tensor found in the inputs, however they are nested: its length is the number of samples."""
    for value in inputs:
        if isinstance(value, Tensor) and value.ndim:
            return value
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
        if (found := first_tensor(inner)) is not None:
            return found
    return None


@contextmanager
def attach(
    model: nn.Module,
    layers: Patterns = None,
    pool: Pools = "mean",
    *,
    ops: bool = False,
    prefix_tokens: int | None = None,
    dtype: str = "auto",
    seed: int = 0,
    reduce: Reduction | None = None,
    axes: AxesOption = None,
) -> Iterator[Recording]:
    """Record every forward pass of `model` inside the `with` block.

    Parameters
    ----------
    model : torch.nn.Module
        Any network; wrappers such as `DataParallel` are looked through, and what `torch.compile` has compiled runs
        without compilation inside the block.
    layers : str or sequence of str, optional
        Patterns: globs over names (`layer*.conv?`), `re:REGEX`, `type:Conv2d`. Default: every leaf call.
    pool : str, mapping or sequence of str, default "mean"
        What is kept of each output: `mean`, `max`, `mean_std`, `cls`, `tokens`, `flatten`, `none`, `grid:G`,
        `project:K`; or pools by layer pattern, the first that matches: `{"layer4*": "none", "*": "mean"}`.
    ops : bool, default False
        Whether to record operations that are no modules as well: `layer1.0.add`, `layer1.0.relu_1`.
    prefix_tokens : int, optional
        Tokens at the front that are no place in the image (CLS, registers), which no pool mixes with the others. By
        default those that the network has parameters for.
    dtype : {"auto", "float32", "float16"}, default "auto"
        Type to keep; "auto" keeps what the network computes with.
    seed : int, default 0
        Seed of random projections.
    reduce : callable, optional
        What to keep in place of a pool: a function of the layer's name and its whole output, (n, ...), that returns a tensor
        with a row per sample. It sees every output once, samples first, while it exists, so nothing larger than its result is
        kept.
    axes : str, mapping or sequence of str, optional
        What the axes of layers' outputs are, by layer pattern, one letter an axis in the order of the output: `"blocks.*=TBC"`.
        B or N samples, C channels, T tokens, H height, W width, D time, A attention heads, K the tokens attended to, L layers,
        P windows; `(BP)TC` for windows folded into the batch, sample by sample. It overrules what is found without it: from the
        modules' kinds and weights, and, once two passes with different batch sizes have run, from what grew.

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
    recording = Recording(
        model, layers, pool, ops=ops, prefix_tokens=prefix_tokens, dtype=dtype, seed=seed, reduce=reduce, axes=axes
    )
    with hooked(recording):
        yield recording


@contextmanager
def hooked(recording: Recording) -> Iterator[None]:
    """Put a recording's hooks on every module for as long as the block lasts."""
    handles: list[RemovableHandle] = []
    with ExitStack() as stack:
        if recording.compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # hooks do not run inside compiled code
        if recording.ops:
            stack.enter_context(Operations(recording))
        try:
            for module in recording.modules:
                handles.append(module.register_forward_pre_hook(recording.before, with_kwargs=True))
                handles.append(module.register_forward_hook(recording.after))
            yield
        finally:
            for handle in handles:
                handle.remove()

"""Which axis of an output holds the samples, the positions and the channels.

Sizes answer it. The network runs on two batch sizes: the axes whose size is proportional to the batch hold samples. It runs
on inputs of another height and width, or another length: the axes whose size changes are positions. What never changes is
channels or attention heads, and the module's own weight says which (`out_features`, `out_channels`, `normalized_shape`).
Where the network accepts one size only, the module's weight and the axes of its input decide; what remains is a guess, and
is called one.

    size(rows, h, w) = k rows   samples; k > 1: windows, frames or tokens are folded into the batch
    size(h', w') != size(h, w)  positions: height moves with h, width with w, tokens with h w
    tokens(h, w) = h w / s^2 + p   p prefix tokens (CLS, registers); two sizes give s and p

`--axes 'blocks.*=TBC'` has the last word: one letter an axis, in the order of the module's output.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt

from torch import nn

from probes.capturing.axes import KEPT, AxesOption, AxesOrigin, AxisRules, Dims, Layout, Shape, UnfitError, letters_of
from probes.capturing.axis_naming import Change, Output, measured_prefix, named, samples_of
from probes.errors import UsageError

__all__ = ["AxisInference", "Trace", "tower_tokens"]

_PREFIX = (
    "cls_token", "class_token", "class_embedding", "dist_token", "distillation_token", "reg_token", "register_tokens",
    "storage_tokens",
)  # fmt: skip
_STACKS = (nn.ModuleList, nn.Sequential)
_HEAD_COUNTS = (
    "num_heads", "n_heads", "n_head", "nhead", "heads", "num_attention_heads", "num_key_value_heads", "num_kv_heads",
    "n_kv_heads", "encoder_attention_heads", "decoder_attention_heads",
)  # fmt: skip


def tower_tokens(model: nn.Module) -> dict[str, int]:
    """Prefix tokens by the module below which they are: of a network of two towers, each has its own.

    The parameters are named as usual (`cls_token`, `class_embedding`, `register_tokens`, ...). A tower is the smallest module
    that holds both the parameter and a stack of blocks (`nn.ModuleList`, `nn.Sequential`).

    Examples
    --------
    >>> import torch
    >>> net = nn.Module()
    >>> net.text, net.vision = nn.Module(), nn.Module()
    >>> net.vision.cls_token, net.vision.blocks = nn.Parameter(torch.zeros(1, 1, 8)), nn.Sequential(nn.Linear(8, 8))
    >>> tower_tokens(net)
    {'vision': 1}
    """
    counts: dict[str, dict[str, int]] = {}
    for name, parameter in model.named_parameters():
        owner, _, last = name.rpartition(".")
        last = re.sub(r"_?\d+$", "", last)  # a token for each stage: outputs of one stage have one
        if last in _PREFIX:
            while owner and not any(
                isinstance(part, nn.ModuleList | nn.Sequential) for part in model.get_submodule(owner).modules()
            ):
                owner = owner.rpartition(".")[0]
            counts.setdefault(owner, {}).setdefault(last, parameter.shape[-2] if parameter.ndim > 1 else 1)
    return {owner.replace("_orig_mod.", ""): sum(tokens.values()) for owner, tokens in counts.items()}


@dataclass
class Trace:
    """One pass: shape and module of every output by name, and where a module's input came from.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        In order of execution.
    modules : dict of str to torch.nn.Module or None
        None for an operation.
    sources : dict of str to str
        The output that the call handed on as it was, or else the one that it took as its first input.
    takers : dict of str to list of torch.nn.Module
        Modules that took an output, unchanged, as their first input.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    modules: dict[str, nn.Module | None] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    takers: dict[str, list[nn.Module]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Growth:
    """How one output's sizes follow the batch and the input's size.

    `moves` holds for each axis whether it changes with the input's size, and is None where no pass with another size came so
    far; `steps` are the changes of the input, each with the output's shape after it.
    """

    shape: Shape
    per_row: Shape  # size / rows of axes that grow with the batch, 0 for those that do not, -1 for what is neither
    steps: tuple[tuple[Change, Shape], ...] = ()

    @property
    def moves(self) -> tuple[bool, ...] | None:
        if not self.steps:
            return None
        return tuple(any(after[axis] != size for _, after in self.steps) for axis, size in enumerate(self.shape))

    @property
    def reason(self) -> str:
        """Why there is no row per sample; empty if there is."""
        growing = [axis for axis, count in enumerate(self.per_row) if count]
        if not growing:
            return "no axis of it grows with the batch: rows are not samples"
        if len(growing) > 1:
            return f"axes {growing[0]} and {growing[1]} both grow with the batch: rows are not samples"
        count = self.per_row[growing[0]]
        if count < 0:
            return f"axis {growing[0]} does not grow in proportion to the batch: rows are not samples"
        if count > 1:
            return (
                f"axis {growing[0]} of its {len(self.shape)} holds {count} rows for each sample (windows, frames or tokens "
                f"folded into the batch); to keep the layer, state its axes, such as '(BP)TC'"
            )
        return ""


@dataclass(frozen=True)
class _Spec:
    """The axes of one output as found: samples first, and how its tokens and length follow the input."""

    sample: int
    dims: Dims
    origin: AxesOrigin
    prefix: int | None = None  # measured
    kind: str = ""  # of the input whose size moves its positions
    length: bool = False  # the positions are those of the input
    decided: tuple[int, int] | None = None  # tokens of the measuring pass, and how many of them are prefix tokens


class AxisInference:
    """What the axes of a network's outputs mean.

    Parameters
    ----------
    model : torch.nn.Module, optional
        The network, for the prefix tokens of its towers and the heads of its attention.
    axes : str, mapping or sequence of str, optional
        As for `AxisRules`.
    prefix : int, optional
        Prefix tokens that the user states; by default each tower's own.

    Examples
    --------
    >>> AxisInference().layout("fc", nn.Linear(2, 2), (3, 7, 7, 2), rows=3).dims
    ('sample', 'height', 'width', 'channel')
    >>> AxisInference(prefix=1).layout("norm", nn.LayerNorm(2), (3, 197, 2), rows=3).prefix
    1
    """

    def __init__(self, model: nn.Module | None = None, axes: AxesOption = None, prefix: int | None = None) -> None:
        self.rules = AxisRules(axes)
        self._stated_prefix = prefix
        self._towers = {} if model is None else tower_tokens(model)
        self._modules = {} if model is None else {_plain(name): module for name, module in model.named_modules()}
        self._specs: dict[str, _Spec | str] = {}
        self._seen: dict[str, tuple[int, Shape]] = {}
        self._measured_prefixes: set[int] = set()
        self.forget()

    @property
    def has_prefix(self) -> bool:
        """Whether some output may have prefix tokens, as far as parameters and the user say."""
        return bool(self._towers if self._stated_prefix is None else self._stated_prefix)

    def forget(self) -> None:
        """Forget sizes that were seen: the input has another size now. What was measured stays."""
        self._known: dict[Shape, Dims] = {}
        self._maps: set[int] = set()
        self._tokens: set[int] = set()

    def learn(self, first: Trace, more: Trace, rows: tuple[int, int], changed: Sequence[tuple[Change, Trace]]) -> None:
        """Learn from passes with two batch sizes, and with inputs of other sizes at the first of them.

        Parameters
        ----------
        first, more : Trace
            Passes with `rows[0]` and `rows[1]` samples.
        rows : (int, int)
            Different.
        changed : sequence of (Change, Trace)
            Passes with `rows[0]` samples of another size; a pass may have ended early.
        """
        for name, shape in first.shapes.items():
            other = more.shapes.get(name)
            if other is not None and len(other) == len(shape):
                after = [(change, trace.shapes.get(name, ())) for change, trace in changed]
                steps = tuple((change, sizes) for change, sizes in after if len(sizes) == len(shape))
                growth = _Growth(shape, _per_row(shape, other, rows), steps)
                spec = self._specs[name] = growth.reason or self._infer(name, first, growth)
                if isinstance(spec, _Spec):
                    self._remember(spec.dims, _first(shape, spec.sample), 0)
        self.forget()
        specs = {name: spec for name, spec in self._specs.items() if isinstance(spec, _Spec)}
        self._measured_prefixes = {spec.prefix for spec in specs.values() if spec.prefix}
        for name, spec in specs.items():
            sizes = _first(first.shapes[name], spec.sample)
            prefix = self._prefix(name, spec, sizes)
            self._remember(spec.dims, sizes, prefix)
            if "token" in spec.dims:
                self._specs[name] = replace(spec, decided=(sizes[spec.dims.index("token")], prefix))
        self.forget()

    def layout(
        self, name: str, module: nn.Module | None, shape: Sequence[int], rows: int | None, types: Iterable[str] = ()
    ) -> Layout:
        """The axes of one output.

        Parameters
        ----------
        name : str
            The layer.
        module : torch.nn.Module or None
            None for an operation.
        shape : sequence of int
            Of the whole output.
        rows : int or None
            Samples of the batch; None where that is not known.
        types : iterable of str
            Names of the module's class and base classes, for patterns.

        Raises
        ------
        UnfitError
            If no axis holds the samples, or others share it.
        UsageError
            If the axes that are stated do not fit.
        """
        shape = tuple(shape)
        stated = self.rules.of(name, types)
        return self.see(name, module, shape, rows) if stated is None else self._as_stated(name, stated, shape, rows)

    def see(self, name: str, module: nn.Module | None, shape: Shape, rows: int | None) -> Layout:
        """The axes of one output by what was measured, else by its module, else a guess; raises as `layout` does."""
        spec = self._specs.get(name)
        if spec is None or (isinstance(spec, _Spec) and len(spec.dims) != len(shape)):
            spec = self._unmeasured(name, module, shape, rows)
        if isinstance(spec, str):
            raise UnfitError(f"its output has shape {shape} for {rows} samples: {spec}")
        if rows is not None and shape[spec.sample] != rows:
            raise UnfitError(
                f"its output has shape {shape} for {rows} samples, and axis {spec.sample}, which grew with the batch where it "
                f"was measured, has not that size"
            )
        sizes = _first(shape, spec.sample)
        prefix = self._prefix(name, spec, sizes)
        self._remember(spec.dims, sizes, prefix)
        length = spec.length or (spec.kind == "" and spec.origin == "weight")
        return Layout(spec.dims, prefix, spec.sample, origin=spec.origin, length=length and _one_place(spec.dims))

    def _as_stated(self, name: str, stated: Layout, shape: Shape, rows: int | None) -> Layout:
        """What the user states, if it can be."""
        letters = letters_of(stated.source_dims)
        count = len(stated.source_dims)
        if len(shape) != count:
            raise UsageError(
                f"Axes {letters!r} name {count} axes, but the output of {name!r} has {len(shape)}: its shape is {shape}."
            )
        size = shape[stated.sample]
        if rows is not None and (size % rows if stated.fold else size != rows):
            what = f"{size}, which is no multiple of {rows}" if stated.fold else f"{size}"
            raise UsageError(
                f"Axes {letters!r} put the samples on axis {stated.sample} of {name!r}, whose size is {what} for {rows} "
                f"samples; its shape is {shape}."
            )
        measured = self._specs.get(name)
        if isinstance(measured, _Spec) and measured.origin == "measured" and (stated.fold or measured.sample != stated.sample):
            warnings.warn(
                f"Axes {letters!r} of {name!r} contradict what was measured: axis {measured.sample} of shape {shape} grows "
                f"with the batch, one row a sample. What is stated is taken.",
                stacklevel=2,
            )
        sizes = _arranged(shape, stated, rows)
        spec = _Spec(stated.sample, stated.dims, "given")
        prefix = self._prefix(name, spec, sizes)
        self._remember(stated.dims, sizes, prefix)
        return Layout(stated.dims, prefix, stated.sample, stated.fold, "given", _one_place(stated.dims))

    def _unmeasured(self, name: str, module: nn.Module | None, shape: Shape, rows: int | None) -> _Spec | str:
        """The axes of an output that no measuring pass has met: from passes of other batch sizes, else from the module."""
        before = self._seen.get(name)
        if rows is not None:
            self._seen[name] = (rows, shape)
        if before is not None and rows is not None and before[0] != rows and len(before[1]) == len(shape):
            growth = _Growth(before[1], _per_row(before[1], shape, (before[0], rows)))
            trace = Trace({name: before[1]}, {name: module})
            self._specs[name] = growth.reason or self._infer(name, trace, growth)
            return self._specs[name]
        fitting = [axis for axis, size in enumerate(shape) if rows is None or size == rows]
        sample = samples_of(module, name, shape)
        if sample is None:
            sample = 0 if rows is None or 0 in fitting else fitting[0] if len(fitting) == 1 else None
        if sample is None or sample not in fitting:
            size = "no axis has that size" if not fitting else "more than one axis has that size"
            return f"{size}, so that rows are not samples as far as one pass can tell"
        sizes = tuple(size for axis, size in enumerate(shape) if axis != sample)
        dims, origin = self._names(Output(name, module, sizes))
        return _Spec(
            sample, ("sample", *dims), origin if sample == 0 or samples_of(module, name, shape) == sample else "guessed"
        )

    def _infer(self, name: str, trace: Trace, growth: _Growth) -> _Spec:
        """The axes of one output, given how its sizes grow."""
        sample = next(axis for axis, count in enumerate(growth.per_row) if count)
        rest = [axis for axis in range(len(growth.shape)) if axis != sample]
        sizes = tuple(growth.shape[axis] for axis in rest)
        moves = growth.moves
        moved = None if moves is None or moves[sample] else tuple(moves[axis] for axis in rest)
        steps = [(change, tuple(after[axis] for axis in rest)) for change, after in growth.steps]
        inherited = self._inherited(name, trace, growth, sample)
        takers = tuple(trace.takers.get(name, ()))
        dims, origin = self._names(Output(name, trace.modules.get(name), sizes, moved, steps, inherited, takers))
        moving = [(change, after) for change, after in steps if after != sizes]
        kind = moving[0][0].kind if moving else ""
        spec = _Spec(sample, ("sample", *dims), origin, kind=kind)
        if ("token" not in dims and "width" not in dims) or not moving:
            return spec
        axis = dims.index("token") if "token" in dims else dims.index("width")
        change, after = moving[0]
        prefix = measured_prefix(change, sizes[axis], after[axis]) if "token" in dims else None
        length = change.kind != "image" and sizes[axis] == change.before[0] and after[axis] == change.after[0]
        return _Spec(sample, ("sample", *dims), origin, prefix, kind, length)

    def _names(self, output: Output) -> tuple[Dims, AxesOrigin]:
        """Names of the axes other than the samples'."""
        output = replace(output, heads=self._heads(output.name), widths=self._widths(output.name))
        return named(output, self._known, self._tokens)

    def _inherited(self, name: str, trace: Trace, growth: _Growth, sample: int) -> tuple[Dims, AxesOrigin] | None:
        """The axes of what a call took as input, if it gave out the same shape."""
        source = trace.sources.get(name, "")
        spec = self._specs.get(source)
        if not isinstance(spec, _Spec) or trace.shapes.get(source) != growth.shape or spec.sample != sample:
            return None
        return spec.dims[1:], spec.origin

    def _remember(self, dims: Dims, sizes: Shape, prefix: int) -> None:
        """Keep sizes for outputs to come: maps' places, tokens, and the axes of this shape."""
        self._known[sizes[1:]] = dims[1:]
        if "token" in dims:
            self._tokens.add(sizes[dims.index("token")])
        if "height" in dims and "width" in dims:
            height, width = sizes[dims.index("height")], sizes[dims.index("width")]
            if (height == 1) == (width == 1):  # a strip is no map, but tokens of a single head
                self._maps.add(height * width)
        elif prefix:
            self._maps.add(sizes[dims.index("token")] - prefix)

    def _prefix(self, name: str, spec: _Spec, sizes: Shape) -> int:
        """How many tokens at the front of an output are no places."""
        if "token" not in spec.dims:
            return 0
        tokens = sizes[spec.dims.index("token")]
        if spec.decided is not None and spec.decided[0] == tokens:
            return spec.decided[1]
        own = sum(count for tower, count in self._towers.items() if not tower or name == tower or name.startswith(f"{tower}."))
        count = own if self._stated_prefix is None else self._stated_prefix
        if tokens == 1:  # of a class token alone, as class attention has it
            return min(count, 1)
        if spec.prefix is not None and spec.kind == "image":
            count = 0 if spec.prefix == 0 else count or spec.prefix if self._stated_prefix is None else count
        elif spec.kind == "sequence" and (self._stated_prefix is None or self._stated_prefix in self._measured_prefixes):
            count = count if spec.prefix == count else 0
        elif not self._has_prefix(tokens, count):
            count = 0
        return count if count < tokens else 0

    def _has_prefix(self, tokens: int, count: int) -> bool:
        places = tokens - count
        if places < 1 or places in self._maps or tokens in self._maps:
            return places in self._maps
        if self._stated_prefix is not None:
            return True
        return isqrt(tokens) ** 2 != tokens or isqrt(places) ** 2 == places

    def _heads(self, name: str) -> frozenset[int]:
        """Numbers of attention heads that the enclosing modules name, the nearest first that names any."""
        path = name
        while True:
            module = self._modules.get(path)
            holders = () if module is None else (module, getattr(module, "config", None))
            counts = [getattr(holder, attribute, None) for holder in holders for attribute in _HEAD_COUNTS]
            if numbers := frozenset(count for count in counts if isinstance(count, int) and count > 0):
                return numbers
            if not path:
                return frozenset()
            path = path.rpartition(".")[0]

    def _widths(self, name: str) -> frozenset[int]:
        """Numbers of channels of the linear layers and convolutions beside a layer."""
        beside = self._modules.get(name.rpartition(".")[0])
        inner = () if beside is None else tuple(beside.modules())
        attributes = ("in_features", "out_features", "in_channels", "out_channels")
        return frozenset(getattr(module, attribute, 0) for module in inner for attribute in attributes)


def _per_row(shape: Shape, other: Shape, rows: tuple[int, int]) -> Shape:
    """Sizes per sample of the axes that grow with the batch, 0 for those that stay, -1 for what is neither."""
    return tuple(
        0 if a == b else a // rows[0] if a % rows[0] == 0 and a * rows[1] == b * rows[0] else -1
        for a, b in zip(shape, other, strict=True)
    )


def _first(shape: Shape, sample: int) -> Shape:
    """The shape with the samples' axis first."""
    return (shape[sample], *(size for axis, size in enumerate(shape) if axis != sample))


def _arranged(shape: Shape, layout: Layout, rows: int | None) -> Shape:
    """The shape with samples first."""
    rest = [size for axis, size in enumerate(shape) if axis != layout.sample]
    size = shape[layout.sample]
    return (rows or 1, size // (rows or 1), *rest) if layout.fold else (size, *rest)


def _one_place(dims: Dims) -> bool:
    return sum(dim not in KEPT for dim in dims) == 1


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")

"""Inference of the axes of an output: samples, positions, channels and attention heads.

The network runs with two batch sizes: the axis whose size is proportional to the batch holds the samples. It runs on inputs of
another height and width, or another length: the axes whose size changes are positions. The other axes are channels or attention
heads, which the module's weight distinguishes (`out_features`, `out_channels`, `normalized_shape`). If the network accepts one
size only, the axes follow from the module's weight and the axes of its input. Otherwise they are guessed, and
`LayerInfo.axes_from` is "guessed".

    size(rows, h, w) = k rows   samples; k > 1: windows, frames or tokens are folded into the batch
    size(h', w') != size(h, w)  positions: height moves with h, width with w, tokens with h w
    tokens(h, w) = h w / s^2 + p   p prefix tokens (CLS, registers); two sizes give s and p

`--axes 'blocks.*=TBC'` overrides the inference: one letter for each axis, in the order of the module's output.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt

from torch import nn

from probes.capturing.axes import UNPOOLED, AxesOption, AxesOrigin, AxisRules, Dims, Layout, Shape, UnfitError, letters_of
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
    """Number of prefix tokens of each tower of a network, by the tower's name.

    They are counted by parameters with the usual names (`cls_token`, `class_embedding`, `register_tokens`, ...). A tower is the
    smallest module that contains both the parameter and a stack of blocks (`nn.ModuleList`, `nn.Sequential`).

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
        last = re.sub(r"_?\d+$", "", last)  # `cls_token_0`, `cls_token_1`, ... of stages count once: each stage has one
        if last in _PREFIX:
            while owner and not any(
                isinstance(part, nn.ModuleList | nn.Sequential) for part in model.get_submodule(owner).modules()
            ):
                owner = owner.rpartition(".")[0]
            counts.setdefault(owner, {}).setdefault(last, parameter.shape[-2] if parameter.ndim > 1 else 1)
    return {owner.replace("_orig_mod.", ""): sum(tokens.values()) for owner, tokens in counts.items()}


@dataclass
class Trace:
    """One forward pass: shape and module of every output by name, and which output each call took as input.

    Attributes
    ----------
    shapes : dict of str to tuple of int
        In order of execution.
    modules : dict of str to torch.nn.Module or None
        None for an operation.
    sources : dict of str to str
        The output that the call returned unmodified, or else the one that it took as its first input.
    consumers : dict of str to list of torch.nn.Module
        Modules that took an output, unchanged, as their first input.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    modules: dict[str, nn.Module | None] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    consumers: dict[str, list[nn.Module]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Growth:
    """How one output's sizes depend on the batch size and the input's size.

    `varies` is for each axis whether it changes with the input's size; None if no pass with another size computed the output.
    `steps` are the changes of the input, each with the output's shape after it.
    """

    shape: Shape
    per_row: Shape  # size / rows of axes proportional to the batch, 0 for constant axes, -1 for others
    steps: tuple[tuple[Change, Shape], ...] = ()

    @property
    def varies(self) -> tuple[bool, ...] | None:
        if not self.steps:
            return None
        return tuple(any(after[axis] != size for _, after in self.steps) for axis, size in enumerate(self.shape))

    @property
    def reason(self) -> str:
        """Why there is not one row per sample; empty if there is."""
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
class _InferredAxes:
    """The inferred axes of one output, samples first, and how its tokens and length depend on the input."""

    sample: int
    dims: Dims
    origin: AxesOrigin
    measured_prefix: int | None = None
    kind: str = ""  # of the input whose size changes the number of positions
    length: bool = False  # whether there are as many positions as in the input
    first_tokens: tuple[int, int] | None = None  # numbers of tokens and of prefix tokens in the measuring pass


class AxisInference:
    """Infers the axes of a network's outputs.

    Parameters
    ----------
    model : torch.nn.Module, optional
        The network, for the prefix tokens of its towers and the heads of its attention.
    axes : str, mapping or sequence of str, optional
        As for `AxisRules`.
    prefix : int, optional
        Number of prefix tokens, stated by the user; by default counted for each tower.

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
        self._modules = {} if model is None else {_uncompiled_name(name): module for name, module in model.named_modules()}
        self._specs: dict[str, _InferredAxes | str] = {}
        self._latest_shapes: dict[str, tuple[int, Shape]] = {}
        self._measured_prefixes: set[int] = set()
        self.forget()

    @property
    def has_prefix(self) -> bool:
        """Whether any output may have prefix tokens, by the user's statement or else the parameters."""
        return bool(self._towers if self._stated_prefix is None else self._stated_prefix)

    def forget(self) -> None:
        """Forget the sizes of earlier outputs, since the input's size has changed. Measured axes remain."""
        self._dims_of_shape: dict[Shape, Dims] = {}
        self._map_sizes: set[int] = set()
        self._token_counts: set[int] = set()

    def learn(self, first: Trace, second: Trace, rows: tuple[int, int], changed: Sequence[tuple[Change, Trace]]) -> None:
        """Infer the axes from passes with two batch sizes, and with inputs of other sizes at the first batch size.

        Parameters
        ----------
        first, second : Trace
            Passes with `rows[0]` and `rows[1]` samples.
        rows : (int, int)
            Two different batch sizes.
        changed : sequence of (Change, Trace)
            Passes with `rows[0]` samples of another size; a pass may have ended early with an error.
        """
        for name, shape in first.shapes.items():
            second_shape = second.shapes.get(name)
            if second_shape is not None and len(second_shape) == len(shape):
                after = [(change, trace.shapes.get(name, ())) for change, trace in changed]
                steps = tuple((change, sizes) for change, sizes in after if len(sizes) == len(shape))
                growth = _Growth(shape, _per_row(shape, second_shape, rows), steps)
                spec = self._specs[name] = growth.reason or self._infer(name, first, growth)
                if isinstance(spec, _InferredAxes):
                    self._remember(spec.dims, _samples_first(shape, spec.sample), 0)
        self.forget()
        specs = {name: spec for name, spec in self._specs.items() if isinstance(spec, _InferredAxes)}
        self._measured_prefixes = {spec.measured_prefix for spec in specs.values() if spec.measured_prefix}
        for name, spec in specs.items():
            sizes = _samples_first(first.shapes[name], spec.sample)
            prefix = self._prefix(name, spec, sizes)
            self._remember(spec.dims, sizes, prefix)
            if "token" in spec.dims:
                self._specs[name] = replace(spec, first_tokens=(sizes[spec.dims.index("token")], prefix))
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
            Shape of the whole output.
        rows : int or None
            Number of samples in the batch; None if it is unknown.
        types : iterable of str
            Names of the module's class and base classes, for patterns.

        Raises
        ------
        UnfitError
            If no axis holds the samples, or the samples share an axis with windows, frames or tokens.
        UsageError
            If the stated axes do not fit the shape.
        """
        shape = tuple(shape)
        stated = self.rules.of(name, types)
        return self.see(name, module, shape, rows) if stated is None else self._as_stated(name, stated, shape, rows)

    def see(self, name: str, module: nn.Module | None, shape: Shape, rows: int | None) -> Layout:
        """The axes of one output as measured, else from its module, else guessed; raises as `layout` does."""
        spec = self._specs.get(name)
        if spec is None or (isinstance(spec, _InferredAxes) and len(spec.dims) != len(shape)):
            spec = self._unmeasured(name, module, shape, rows)
        if isinstance(spec, str):
            raise UnfitError(f"its output has shape {shape} for {rows} samples: {spec}")
        if rows is not None and shape[spec.sample] != rows:
            raise UnfitError(
                f"its output has shape {shape} for {rows} samples, and axis {spec.sample}, which grew with the batch when "
                f"the axes were measured, does not have size {rows}"
            )
        sizes = _samples_first(shape, spec.sample)
        prefix = self._prefix(name, spec, sizes)
        self._remember(spec.dims, sizes, prefix)
        length = spec.length or (spec.kind == "" and spec.origin == "weight")
        return Layout(spec.dims, prefix, spec.sample, origin=spec.origin, length=length and _has_one_position_axis(spec.dims))

    def _as_stated(self, name: str, stated: Layout, shape: Shape, rows: int | None) -> Layout:
        """The axes that the user states, checked against the shape."""
        letters = letters_of(stated.source_dims)
        count = len(stated.source_dims)
        if len(shape) != count:
            raise UsageError(
                f"Axes {letters!r} name {count} axes, but the output of {name!r} has {len(shape)}: its shape is {shape}."
            )
        size = shape[stated.sample]
        if rows is not None and (size % rows if stated.fold else size != rows):
            description = f"{size}, which is not a multiple of {rows}" if stated.fold else f"{size}"
            raise UsageError(
                f"Axes {letters!r} put the samples on axis {stated.sample} of {name!r}, whose size is {description} for {rows} "
                f"samples; its shape is {shape}."
            )
        measured = self._specs.get(name)
        if (
            isinstance(measured, _InferredAxes)
            and measured.origin == "measured"
            and (stated.fold or measured.sample != stated.sample)
        ):
            warnings.warn(
                f"Axes {letters!r} of {name!r} contradict the measurement: axis {measured.sample} of shape {shape} grows with "
                f"the batch, one row per sample. The stated axes are used.",
                stacklevel=2,
            )
        sizes = _arranged(shape, stated, rows)
        spec = _InferredAxes(stated.sample, stated.dims, "given")
        prefix = self._prefix(name, spec, sizes)
        self._remember(stated.dims, sizes, prefix)
        return Layout(stated.dims, prefix, stated.sample, stated.fold, "given", _has_one_position_axis(stated.dims))

    def _unmeasured(self, name: str, module: nn.Module | None, shape: Shape, rows: int | None) -> _InferredAxes | str:
        """The axes of an output that no measuring pass computed: from passes of other batch sizes, else from the module."""
        before = self._latest_shapes.get(name)
        if rows is not None:
            self._latest_shapes[name] = (rows, shape)
        if before is not None and rows is not None and before[0] != rows and len(before[1]) == len(shape):
            growth = _Growth(before[1], _per_row(before[1], shape, (before[0], rows)))
            trace = Trace({name: before[1]}, {name: module})
            self._specs[name] = growth.reason or self._infer(name, trace, growth)
            return self._specs[name]
        matching = [axis for axis, size in enumerate(shape) if rows is None or size == rows]
        sample = samples_of(module, name, shape)
        if sample is None:
            sample = 0 if rows is None or 0 in matching else matching[0] if len(matching) == 1 else None
        if sample is None or sample not in matching:
            size = "no axis has that size" if not matching else "more than one axis has that size"
            return f"{size}, so that one pass does not show which axis holds the samples"
        sizes = tuple(size for axis, size in enumerate(shape) if axis != sample)
        dims, origin = self._names(Output(name, module, sizes))
        return _InferredAxes(
            sample, ("sample", *dims), origin if sample == 0 or samples_of(module, name, shape) == sample else "guessed"
        )

    def _infer(self, name: str, trace: Trace, growth: _Growth) -> _InferredAxes:
        """The axes of one output, given how its sizes grow."""
        sample = next(axis for axis, count in enumerate(growth.per_row) if count)
        axes = [axis for axis in range(len(growth.shape)) if axis != sample]
        sizes = tuple(growth.shape[axis] for axis in axes)
        varies = growth.varies
        varying = None if varies is None or varies[sample] else tuple(varies[axis] for axis in axes)
        steps = [(change, tuple(after[axis] for axis in axes)) for change, after in growth.steps]
        inherited = self._inherited(name, trace, growth, sample)
        consumers = tuple(trace.consumers.get(name, ()))
        dims, origin = self._names(Output(name, trace.modules.get(name), sizes, varying, steps, inherited, consumers))
        effective = [(change, after) for change, after in steps if after != sizes]
        kind = effective[0][0].kind if effective else ""
        spec = _InferredAxes(sample, ("sample", *dims), origin, kind=kind)
        if ("token" not in dims and "width" not in dims) or not effective:
            return spec
        axis = dims.index("token") if "token" in dims else dims.index("width")
        change, after = effective[0]
        prefix = measured_prefix(change, sizes[axis], after[axis]) if "token" in dims else None
        length = change.kind != "image" and sizes[axis] == change.before[0] and after[axis] == change.after[0]
        return _InferredAxes(sample, ("sample", *dims), origin, prefix, kind, length)

    def _names(self, output: Output) -> tuple[Dims, AxesOrigin]:
        """Names of the axes other than the samples'."""
        output = replace(output, heads=self._heads(output.name), widths=self._widths(output.name))
        return named(output, self._dims_of_shape, self._token_counts)

    def _inherited(self, name: str, trace: Trace, growth: _Growth, sample: int) -> tuple[Dims, AxesOrigin] | None:
        """The axes of a call's input and their origin, if its output has the same shape; else None."""
        source = trace.sources.get(name, "")
        spec = self._specs.get(source)
        if not isinstance(spec, _InferredAxes) or trace.shapes.get(source) != growth.shape or spec.sample != sample:
            return None
        return spec.dims[1:], spec.origin

    def _remember(self, dims: Dims, sizes: Shape, prefix: int) -> None:
        """Store sizes for the inference of later outputs: positions of maps, numbers of tokens, and the axes of this shape."""
        self._dims_of_shape[sizes[1:]] = dims[1:]
        if "token" in dims:
            self._token_counts.add(sizes[dims.index("token")])
        if "height" in dims and "width" in dims:
            height, width = sizes[dims.index("height")], sizes[dims.index("width")]
            if (height == 1) == (width == 1):  # one row or column of positions is not a map, but tokens of a single head
                self._map_sizes.add(height * width)
        elif prefix:
            self._map_sizes.add(sizes[dims.index("token")] - prefix)

    def _prefix(self, name: str, spec: _InferredAxes, sizes: Shape) -> int:
        """The number of prefix tokens of an output."""
        if "token" not in spec.dims:
            return 0
        tokens = sizes[spec.dims.index("token")]
        if spec.first_tokens is not None and spec.first_tokens[0] == tokens:
            return spec.first_tokens[1]
        counted = sum(
            count for tower, count in self._towers.items() if not tower or name == tower or name.startswith(f"{tower}.")
        )
        count = counted if self._stated_prefix is None else self._stated_prefix
        if tokens == 1:  # class attention returns the class token only
            return min(count, 1)
        if spec.measured_prefix is not None and spec.kind == "image":
            count = 0 if spec.measured_prefix == 0 else count or spec.measured_prefix if self._stated_prefix is None else count
        elif spec.kind == "sequence" and (self._stated_prefix is None or self._stated_prefix in self._measured_prefixes):
            count = count if spec.measured_prefix == count else 0
        elif not self._has_prefix(tokens, count):
            count = 0
        return count if count < tokens else 0

    def _has_prefix(self, tokens: int, count: int) -> bool:
        """Whether `count` of the tokens are prefix tokens, from the positions of earlier maps, else from square numbers."""
        positions = tokens - count
        if positions < 1 or positions in self._map_sizes or tokens in self._map_sizes:
            return positions in self._map_sizes
        if self._stated_prefix is not None:
            return True
        return isqrt(tokens) ** 2 != tokens or isqrt(positions) ** 2 == positions

    def _heads(self, name: str) -> frozenset[int]:
        """Numbers of attention heads stated by the innermost enclosing module that states any."""
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
        """Numbers of channels of the linear layers and convolutions in a layer's parent module."""
        parent = self._modules.get(name.rpartition(".")[0])
        modules = () if parent is None else tuple(parent.modules())
        attributes = ("in_features", "out_features", "in_channels", "out_channels")
        return frozenset(getattr(module, attribute, 0) for module in modules for attribute in attributes)


def _per_row(first: Shape, second: Shape, rows: tuple[int, int]) -> Shape:
    """Sizes per sample of the axes that are proportional to the batch size, 0 for constant axes, -1 for others."""
    return tuple(
        0 if a == b else a // rows[0] if a % rows[0] == 0 and a * rows[1] == b * rows[0] else -1
        for a, b in zip(first, second, strict=True)
    )


def _samples_first(shape: Shape, sample: int) -> Shape:
    """The shape with the samples' axis first."""
    return (shape[sample], *(size for axis, size in enumerate(shape) if axis != sample))


def _arranged(shape: Shape, layout: Layout, rows: int | None) -> Shape:
    """The shape of an output after `Layout.arrange`."""
    other_sizes = [size for axis, size in enumerate(shape) if axis != layout.sample]
    size = shape[layout.sample]
    return (rows or 1, size // (rows or 1), *other_sizes) if layout.fold else (size, *other_sizes)


def _has_one_position_axis(dims: Dims) -> bool:
    return sum(dim not in UNPOOLED for dim in dims) == 1


def _uncompiled_name(name: str) -> str:
    return name.replace("_orig_mod.", "")

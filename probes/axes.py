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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isqrt, log, prod
from typing import Literal

from torch import Tensor, nn

from probes.errors import UsageError
from probes.patterns import closest, matches

__all__ = ["AxisInference", "AxisRules", "Change", "Layout", "Trace", "UnfitError", "letters_of", "tower_tokens"]

Dims = tuple[str, ...]
Shape = tuple[int, ...]
AxesOption = str | Mapping[str, str] | Sequence[str] | None
Steps = Sequence[tuple["Change", Shape]]  # changes of the input's size, and the sizes of one output's axes after each
Found = Literal["measured", "weight", "given", "guessed"]

LETTERS = {
    "B": "sample", "N": "sample", "C": "channel", "T": "token", "H": "height", "W": "width", "D": "time", "A": "head",
    "K": "key", "L": "layer", "P": "window",
}  # fmt: skip
KEPT = ("sample", "channel", "head", "layer")  # pools reduce every other axis
_LETTER = {name: letter for letter, name in LETTERS.items() if letter != "N"}
_SPATIAL = {0: (), 1: ("width",), 2: ("height", "width"), 3: ("time", "height", "width")}
_CHANNEL_FIRST = re.compile(r"(Conv|Norm|Pool|Upsample|Dropout|PReLU).*[123]d|GroupNorm|PixelShuffle|Upsample")
_PREFIX = (
    "cls_token", "class_token", "class_embedding", "dist_token", "distillation_token", "reg_token", "register_tokens",
    "storage_tokens",
)  # fmt: skip
_STACKS = (nn.ModuleList, nn.Sequential)
_HEAD_COUNTS = (
    "num_heads", "n_heads", "n_head", "nhead", "heads", "num_attention_heads", "num_key_value_heads", "num_kv_heads",
    "n_kv_heads", "encoder_attention_heads", "decoder_attention_heads",
)  # fmt: skip


class UnfitError(Exception):
    """An activation can't be recorded or pooled; the message, which follows the layer's name, says why."""


@dataclass(frozen=True)
class Layout:
    """What the axes of an activation mean, and how it becomes one row per sample.

    Attributes
    ----------
    dims : tuple of str
        Names of the axes once the samples are first.
    prefix : int
        Tokens at the front that are no place in the image.
    sample : int
        The samples' axis in the module's output.
    fold : {"", "major", "minor"}
        Whether that axis holds something else too, `dims[1]`: all of one sample in a row ("major"), or one of each sample in
        turn ("minor").
    found : {"measured", "weight", "given", "guessed"}
        How the axes were found.
    length : bool
        Whether the one axis of positions is as long as the input: a padding mask of the input applies to it.
    mask : (n, positions) tensor of bool, optional
        Positions that are no padding, of one batch.
    """

    dims: Dims
    prefix: int = 0
    sample: int = 0
    fold: Literal["", "major", "minor"] = ""
    found: Found = "guessed"
    length: bool = False
    mask: Tensor | None = field(default=None, compare=False, repr=False)

    def arrange(self, x: Tensor, rows: int | None) -> Tensor:
        """The activation with one row per sample, samples first."""
        if not self.fold:
            return x.movedim(self.sample, 0) if self.sample else x
        count = x.shape[self.sample] // (rows or 1)
        sizes = (rows or 1, count) if self.fold == "major" else (count, rows or 1)
        x = x.reshape(*x.shape[: self.sample], *sizes, *x.shape[self.sample + 1 :])
        pair = (self.sample, self.sample + 1) if self.fold == "major" else (self.sample + 1, self.sample)
        return x.movedim(pair, (0, 1))

    @property
    def source_dims(self) -> Dims:
        """Names of the axes in the module's order; `sample*window` where they share one."""
        if self.fold:
            first = f"sample*{self.dims[1]}" if self.fold == "major" else f"{self.dims[1]}*sample"
            rest = list(self.dims[2:])
        else:
            first, rest = "sample", list(self.dims[1:])
        rest.insert(self.sample, first)
        return tuple(rest)

    @property
    def places(self) -> list[int]:
        """Axes of positions, which pools reduce, once the samples are first."""
        return [axis for axis, dim in enumerate(self.dims) if dim not in KEPT]

    def fits(self, shape: Sequence[int], rows: int | None) -> bool:
        """Whether the samples' axis of an output of this shape has the size that so many samples give."""
        size = shape[self.sample]
        return rows is None or (size == rows if not self.fold else rows > 0 and size % rows == 0)


def letters_of(dims: Iterable[str]) -> str:
    """Names of axes in the letters of the option `axes`; `?` for a name without a letter.

    Examples
    --------
    >>> letters_of(("token", "sample", "channel")), letters_of(("sample*window", "token", "channel"))
    ('TBC', '(BP)TC')
    """
    parts = ["".join(_LETTER.get(name, "?") for name in dim.split("*")) for dim in dims]
    return "".join(part if len(part) == 1 else f"({part})" for part in parts)


class AxisRules:
    """Axes that the user states, by layer pattern; the first pattern that matches decides.

    Parameters
    ----------
    axes : str, mapping or sequence of str, optional
        `"blocks.*=TBC"`; without a pattern it holds for every layer. B or N samples, C channels, T tokens, H height, W width,
        D time or depth, A attention heads, K the tokens that are attended to, L layers of a recurrent network, P windows.
        `(BP)TC`: the first axis holds all windows of sample 0, then those of sample 1; `(PB)TC`: window 0 of every sample, then
        window 1. Pools reduce T, K, H, W, D and P.

    Raises
    ------
    UsageError
        If a letter is unknown or stands twice, or the samples are missing.

    Examples
    --------
    >>> rules = AxisRules("blocks.*=TBC")
    >>> rules.of("blocks.0.norm1", []).dims, str(rules)
    (('sample', 'token', 'channel'), 'blocks.*=TBC')
    """

    def __init__(self, axes: AxesOption = None) -> None:
        if isinstance(axes, Mapping):
            pairs = list(axes.items())
        else:
            texts = [] if axes is None else [axes] if isinstance(axes, str) else list(axes)
            pairs = [(text.rpartition("=")[0] or "*", text.rpartition("=")[2]) for text in texts]
        self._rules = [(pattern, text, _stated(pattern, text)) for pattern, text in pairs]
        self.met = {pattern: False for pattern, _, _ in self._rules}

    def of(self, name: str, types: Iterable[str]) -> Layout | None:
        """The axes that are stated for a layer, or None."""
        for pattern, _, layout in self._rules:
            if matches(pattern, name, types):
                self.met[pattern] = True
                return layout
        return None

    def check(self, title: str, names: Iterable[str]) -> None:
        """Raise `UsageError` where a pattern has matched nothing that was recorded."""
        for pattern in (pattern for pattern, met in self.met.items() if not met):
            raise UsageError(
                f"No recorded layer of {title!r} matches {pattern!r}, the pattern of axes.{closest(pattern, names)} "
                f"`repanalysis layers` lists all."
            )

    def __bool__(self) -> bool:
        return bool(self._rules)

    def __str__(self) -> str:
        return "; ".join(f"{pattern}={text}" for pattern, text, _ in self._rules)


def _stated(pattern: str, text: str) -> Layout:
    """`"(BP)TC"` as a layout."""
    what = f"Axes {pattern}={text}"
    match = re.fullmatch(r"([A-Z]*)(?:\(([A-Z]{2})\))?([A-Z]*)", text)
    letters = [*match[1], *(match[2] or ""), *match[3]] if match else []
    known = ", ".join(f"{letter} {name}" for letter, name in LETTERS.items() if letter != "N")
    if not match or not set(letters) <= LETTERS.keys():
        raise UsageError(
            f"{what}: write one letter an axis, such as TBC, or (BP)TC for windows in the batch. Known are {known}."
        )
    names = [LETTERS[letter] for letter in letters]
    if len(set(names)) < len(names) or "sample" not in names:
        raise UsageError(f"{what}: B, the samples, must be there, and no axis twice.")
    if match[2] is None:
        axis = names.index("sample")
        names.remove("sample")
        return Layout(("sample", *names), sample=axis, found="given")
    pair = [LETTERS[letter] for letter in match[2]]
    if "sample" not in pair:
        raise UsageError(f"{what}: brackets stand for one axis that holds the samples, B, and one thing more.")
    other = next(name for name in pair if name != "sample")
    rest = [name for name in names if name not in pair]
    fold: Literal["major", "minor"] = "major" if pair[0] == "sample" else "minor"
    return Layout(("sample", other, *rest), sample=len(match[1]), fold=fold, found="given")


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


@dataclass(frozen=True)
class Change:
    """How the sizes of the input's positions differ in a pass from those of the reference pass.

    Attributes
    ----------
    kind : {"image", "sequence", "vector"}
        Height and width, or length. A "vector" is a table of numbers (n, d) whose length was changed: a signal, or features.
    before, after : tuple of int
        Sizes; (height, width) or (length,), (frames, height, width) of clips.
    """

    kind: Literal["image", "sequence", "vector"]
    before: Shape
    after: Shape


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
        The output that the call took as its first input, unchanged.
    """

    shapes: dict[str, Shape] = field(default_factory=dict)
    modules: dict[str, nn.Module | None] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)


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
            letters = "".join("(BP)" if axis == growing[0] else "TCDHWAKL"[axis - 1] for axis in range(len(self.shape)))
            return (
                f"axis {growing[0]} holds {count} rows for each sample (windows, frames or tokens folded into the batch): rows "
                f"are not samples; axes such as {letters!r} unfold them"
            )
        return ""


@dataclass(frozen=True)
class _Spec:
    """The axes of one output as found: samples first, and how its tokens and length follow the input."""

    sample: int
    dims: Dims
    found: Found
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
        length = spec.length or (spec.kind == "" and spec.found == "weight")
        return Layout(spec.dims, prefix, spec.sample, found=spec.found, length=length and _one_place(spec.dims))

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
        sample = _sample_axis(module, name, shape)
        if sample is None:
            sample = 0 if rows is None or 0 in fitting else fitting[0] if len(fitting) == 1 else None
        if sample is None or sample not in fitting:
            size = "no axis has that size" if not fitting else "more than one axis has that size"
            return f"{size}, so that rows are not samples as far as one pass can tell"
        sizes = tuple(size for axis, size in enumerate(shape) if axis != sample)
        dims, found = self._named(name, module, sizes, None, None)
        return _Spec(
            sample, ("sample", *dims), found if sample == 0 or _sample_axis(module, name, shape) == sample else "guessed"
        )

    def _infer(self, name: str, trace: Trace, growth: _Growth) -> _Spec:
        """The axes of one output, given how its sizes grow."""
        sample = next(axis for axis, count in enumerate(growth.per_row) if count)
        rest = [axis for axis in range(len(growth.shape)) if axis != sample]
        sizes = tuple(growth.shape[axis] for axis in rest)
        moves = growth.moves
        moved = None if moves is None else tuple(moves[axis] for axis in rest)
        inherited = self._inherited(name, trace, growth, sample)
        steps = [(change, tuple(after[axis] for axis in rest)) for change, after in growth.steps]
        dims, found = self._named(name, trace.modules.get(name), sizes, moved, inherited, steps)
        moving = [(change, after) for change, after in steps if after != sizes]
        kind = moving[0][0].kind if moving else ""
        spec = _Spec(sample, ("sample", *dims), found, kind=kind)
        if ("token" not in dims and "width" not in dims) or not moving:
            return spec
        axis = dims.index("token") if "token" in dims else dims.index("width")
        change, after = moving[0]
        prefix = _measured_prefix(change, sizes[axis], after[axis]) if "token" in dims else None
        length = change.kind != "image" and sizes[axis] == change.before[0] and after[axis] == change.after[0]
        return _Spec(sample, ("sample", *dims), found, prefix, kind, length)

    def _inherited(self, name: str, trace: Trace, growth: _Growth, sample: int) -> tuple[Dims, Found] | None:
        """The axes of what a call took as input, if it gave out the same shape."""
        source = trace.sources.get(name, "")
        spec = self._specs.get(source)
        if not isinstance(spec, _Spec) or trace.shapes.get(source) != growth.shape or spec.sample != sample:
            return None
        return spec.dims[1:], spec.found

    def _named(
        self,
        name: str,
        module: nn.Module | None,
        sizes: Shape,
        moved: tuple[bool, ...] | None,
        inherited: tuple[Dims, Found] | None,
        steps: Steps = (),
    ) -> tuple[Dims, Found]:
        """Names of the axes other than the samples'."""
        image = any(change.kind == "image" for change, after in steps if after != sizes)
        if len(sizes) < 2:
            ids = moved == (True,) and steps[0][0].kind == "sequence" and sizes[0] == steps[0][0].before[0]
            return (("token",) if ids else ("channel",))[: len(sizes)], "measured" if moved else "weight"
        fixed = _contract(module, name, sizes)
        if fixed is not None and (moved is None or fixed.channel is None or not moved[fixed.channel]):
            found: Found = "measured" if moved is not None and any(moved) else "weight"
            if fixed.dims:
                return fixed.dims, found
            heads = self._heads(name)
            return self._with_channel(sizes, fixed.channel or 0, moved, heads, steps), found
        if inherited is not None and (moved is None or _agrees(inherited[0], moved)):
            return inherited
        if moved is not None and any(moved):
            return self._by_moves(name, sizes, moved, steps, image=image)
        return self._guessed(name, sizes)

    def _by_moves(self, name: str, sizes: Shape, moved: tuple[bool, ...], steps: Steps, *, image: bool) -> tuple[Dims, Found]:
        """Names where sizes alone say what is a position."""
        still = [axis for axis, moves in enumerate(moved) if not moves]
        going = [axis for axis, moves in enumerate(moved) if moves]
        heads = self._heads(name)
        if len(sizes) == 3 and still == [0] and _alike(sizes, going, steps, image=image):
            return ("head", "token", "key"), "measured"
        if not still:
            return _positions(sizes, going, steps), "measured"
        wide = [axis for axis in still if sizes[axis] > 1]
        if len(still) == 1 or len(wide) == 1:  # axes of size 1 do not matter
            return self._with_channel(sizes, (wide or still)[0], moved, set(), steps), "measured"
        named = [axis for axis in still[:-1] if sizes[axis] in heads]
        text = not image and len(still) == 2
        found: Found = "measured" if len(still) == 2 and (named or text) else "guessed"
        return self._with_channel(sizes, still[-1], moved, heads, steps), found

    def _with_channel(self, sizes: Shape, channel: int, moved: tuple[bool, ...] | None, heads: set[int], steps: Steps) -> Dims:
        """Names of the other axes, once the channels are known."""
        others = [axis for axis in range(len(sizes)) if axis != channel]
        head = None
        if moved is not None and any(moved):
            unmoved = [axis for axis in others if not moved[axis]]
            text = all(change.kind != "image" for change, after in steps if after != sizes)
            likely = [axis for axis in unmoved if sizes[axis] in heads]
            head = (
                likely[0]
                if likely and len(others) > 1
                else unmoved[0]
                if text and len(unmoved) == 1 and len(others) == 2
                else None
            )
        elif len(others) == 2:
            likely = [a for a, b in (others, others[::-1]) if sizes[a] in heads and sizes[b] in self._tokens]
            head = likely[0] if likely and (len(likely) == 1 or sizes[others[0]] == sizes[others[1]]) else None
        places = [axis for axis in others if axis != head]
        names = dict(zip(places, _positions(sizes, places, steps, first=channel == 0, heads=head is not None), strict=True))
        return tuple("channel" if axis == channel else "head" if axis == head else names[axis] for axis in range(len(sizes)))

    def _guessed(self, name: str, sizes: Shape) -> tuple[Dims, Found]:
        """Names from sizes that were seen before, else from the number of axes."""
        wide = [axis for axis, size in enumerate(sizes) if size > 1]
        if len(wide) == 1 and len(sizes) < 5:  # axes of size 1 do not matter
            return self._with_channel(sizes, wide[0], None, set(), ()), "measured"
        if sizes in self._known:
            return self._known[sizes], "guessed"
        heads = self._heads(name)
        if len(sizes) == 3 and sizes[1] == sizes[2] and (sizes[0] in heads or sizes[1] in self._tokens):
            return ("head", "token", "key"), "guessed"
        if len(sizes) == 3 and sizes[1] in self._tokens and (not heads or sizes[0] in heads):
            return ("head", "token", "channel"), "guessed"
        if len(sizes) == 2:
            return ("token", "channel"), "guessed"
        if len(sizes) == 3 and sizes[0] == sizes[1] != sizes[2]:  # a square map, channels last
            return ("height", "width", "channel"), "guessed"
        if len(sizes) - 1 in _SPATIAL:
            return ("channel", *_SPATIAL[len(sizes) - 1]), "guessed"
        return ("channel", *(f"axis{axis}" for axis in range(2, len(sizes) + 1))), "guessed"

    def _remember(self, dims: Dims, sizes: Shape, prefix: int) -> None:
        """Keep sizes for outputs to come: maps' places, tokens, and the axes of this shape."""
        self._known[sizes[1:]] = dims[1:]
        if "token" in dims:
            self._tokens.add(sizes[dims.index("token")])
        if "height" in dims and "width" in dims:
            self._maps.add(sizes[dims.index("height")] * sizes[dims.index("width")])
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

    def _heads(self, name: str) -> set[int]:
        """Numbers of attention heads that the enclosing modules name, the nearest first that names any."""
        path = name
        while True:
            module = self._modules.get(path)
            holders = () if module is None else (module, getattr(module, "config", None))
            counts = {getattr(holder, attribute, None) for holder in holders for attribute in _HEAD_COUNTS}
            if numbers := {count for count in counts if isinstance(count, int) and count > 1}:
                return numbers
            if not path:
                return set()
            path = path.rpartition(".")[0]


@dataclass(frozen=True)
class _Fixed:
    """What a module's kind says: all axes, or which one is the channels."""

    channel: int | None
    dims: Dims = ()


def _contract(module: nn.Module | None, name: str, sizes: Shape) -> _Fixed | None:
    """What a module's kind and weight say of the axes other than the samples'; None where they say nothing, or do not fit."""
    if module is None:
        return None
    kind, count = type(module).__name__, len(sizes)
    if isinstance(module, nn.RNNBase):
        return _Fixed(1, ("layer", "channel") if _is_state(name) else ("token", "channel")) if count == 2 else None
    if isinstance(module, nn.MultiheadAttention) and name.endswith(".1"):
        return _Fixed(None, ("token", "key") if count == 2 else ("head", "token", "key"))
    width = _width(module)
    if _CHANNEL_FIRST.search(kind) and count - 1 in _SPATIAL:
        return None if width not in (None, sizes[0]) else _Fixed(0, ("channel", *_SPATIAL[count - 1]))
    if getattr(module, "dims", None) == [0, 2, 3, 1] and count == 3:
        return _Fixed(2)  # torchvision's Permute
    if isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm | nn.Embedding | nn.MultiheadAttention):
        return _Fixed(count - 1) if width in (None, sizes[-1]) else None
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim not in (1, 2, count + 1):
        return None
    if weight.ndim == count + 1 and weight.ndim > 3:
        return _Fixed(0, ("channel", *_SPATIAL[count - 1])) if weight.shape[0] == sizes[0] and count - 1 in _SPATIAL else None
    if weight.ndim == 1:
        fitting = [axis for axis, size in enumerate(sizes) if size == len(weight)]
        return _Fixed(fitting[-1]) if fitting else None
    return _Fixed(count - 1) if sizes[-1] in weight.shape else None


def _width(module: nn.Module) -> int | None:
    """The number of channels that a module's own attributes state."""
    for attribute in ("out_channels", "out_features", "num_features", "num_channels", "embedding_dim", "embed_dim"):
        if isinstance(count := getattr(module, attribute, None), int):
            return count
    shape = getattr(module, "normalized_shape", None)
    return int(shape[-1]) if isinstance(shape, tuple | list) and len(shape) == 1 else None


def _is_state(name: str) -> bool:
    """Whether a part of a recurrent layer's output is its last state, (layers, samples, features)."""
    return re.search(r"\.1(\.[01])?$", name) is not None


def _sample_axis(module: nn.Module | None, name: str, shape: Shape) -> int | None:
    """Where a module of torch's puts the samples by its own account; None where it does not say."""
    if isinstance(module, nn.RNNBase) and len(shape) == 3:
        return 1 if _is_state(name) or not module.batch_first else 0
    if isinstance(module, nn.MultiheadAttention) and len(shape) == 3:
        return 0 if module.batch_first or name.endswith(".1") else 1
    return 0 if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm | nn.GroupNorm) else None


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


def _agrees(dims: Dims, moved: tuple[bool, ...]) -> bool:
    """Whether inherited names fit what moves: channels and heads stay."""
    return not any(moves and dim in ("channel", "head", "layer") for dim, moves in zip(dims, moved, strict=True))


def _one_place(dims: Dims) -> bool:
    return sum(dim not in KEPT for dim in dims) == 1


def _positions(sizes: Shape, places: list[int], steps: Steps, *, first: bool = False, heads: bool = False) -> Dims:
    """Names of the axes of positions, in order."""
    if len(places) == 1:
        image = any(change.kind == "image" for change, after in steps if after != sizes)
        return ("width" if first and not heads and not image else "token",)
    if len(places) == 2:
        return ("width", "height") if _turned(sizes, places, steps) else ("height", "width")
    if len(places) == 3:
        return ("time", "height", "width")
    return tuple(f"axis{axis + 1}" for axis in places)


def _ratios(change: Change) -> tuple[float, float]:
    """Logarithms of what height and width were multiplied with."""
    return log(change.after[-2] / change.before[-2]), log(change.after[-1] / change.before[-1])


def _turned(sizes: Shape, places: list[int], steps: Steps) -> bool:
    """Whether the first of two axes moves with the width, and the second with the height."""
    error = {True: 0.0, False: 0.0}
    for change, after in steps:
        if change.kind == "image" and 0 not in after:
            height, width = _ratios(change)
            moves = [log(after[axis] / sizes[axis]) for axis in places]
            error[False] += abs(moves[0] - height) + abs(moves[1] - width)
            error[True] += abs(moves[0] - width) + abs(moves[1] - height)
    return error[True] < error[False] - 1e-9


def _alike(sizes: Shape, places: list[int], steps: Steps, *, image: bool) -> bool:
    """Whether two axes are the tokens twice: equal before and after and, of an image, moving with its area."""
    a, b = places
    if sizes[a] != sizes[b] or any(after[a] != after[b] for _, after in steps):
        return False
    if not image:
        return True
    for change, after in steps:
        if change.kind == "image" and after[a] != sizes[a] and after[a]:
            height, width = _ratios(change)
            move = log(after[a] / sizes[a])
            return abs(move - height - width) < min(abs(move - ratio) for ratio in (height, width) if ratio)
    return False


def _measured_prefix(change: Change, tokens: int, after: int) -> int | None:
    """P of tokens = places / s^2 + p, from two sizes; None where they are no integers."""
    places, moved = prod(change.before), prod(change.before) - prod(change.after)
    gone = tokens - after
    if not gone or moved % gone or (moved // gone) < 1 or places % (moved // gone):
        return None
    prefix = tokens - places // (moved // gone)
    return prefix if 0 <= prefix < tokens else None


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")

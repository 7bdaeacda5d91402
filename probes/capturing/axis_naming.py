"""Names of an output's axes other than the samples', from the module's type and weight, and from the sizes that change.

The rules apply in this order:

1. The axis whose size is that of the module's weight (`out_features`, `out_channels`, `normalized_shape`) holds the channels.
   Those of a convolution or a pool are followed by the positions.
2. An output of the same shape as the module's input has the axes of the input.
3. Axes whose size changes with that of the input are positions; constant axes are channels or heads. If several axes are
   constant, the weight of the module that uses the output as its input determines which of them holds the channels.
4. Otherwise the axes are guessed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, prod
from typing import Literal

from torch import Tensor, nn

from probes.capturing.axes import AxesOrigin, Dims, Shape

__all__ = ["Change", "Output", "measured_prefix", "named", "samples_of"]

_SPATIAL = {0: (), 1: ("width",), 2: ("height", "width"), 3: ("time", "height", "width")}
_CHANNEL_FIRST = re.compile(r"(Conv|Norm|Pool|Upsample|Dropout|PReLU).*[123]d|GroupNorm|PixelShuffle|Upsample")


@dataclass(frozen=True)
class Change:
    """The change of the input's height and width, or length, in a pass compared with the reference pass.

    Attributes
    ----------
    kind : {"image", "sequence", "vector"}
        Whether the height and width changed, or the length. A "vector" is an input (n, d) whose d changed: a signal or
        features.
    before, after : tuple of int
        (height, width), (length,), or (frames, height, width) of clips.
    """

    kind: Literal["image", "sequence", "vector"]
    before: Shape
    after: Shape


Steps = Sequence[tuple[Change, Shape]]  # changes of the input's size, and the sizes of one output's axes after each


@dataclass(frozen=True)
class Output:
    """The properties of one output from which its axes are inferred.

    Attributes
    ----------
    name : str
        The layer.
    module : torch.nn.Module or None
        None for an operation.
    sizes : tuple of int
        Sizes of the axes other than the samples'.
    varying : tuple of bool or None
        For each of these axes, whether its size changed with that of the input; None if the input had one size only.
    steps : sequence of (Change, tuple of int)
        Sizes of these axes after each change.
    inherited : (tuple of str, str) or None
        Axes of the input if it has the same shape, and their origin.
    consumers : tuple of torch.nn.Module
        Modules that used the output as their input.
    heads : set of int
        Numbers of attention heads that enclosing modules state.
    widths : set of int
        Numbers of channels of the linear layers and convolutions in the parent module.
    """

    name: str
    module: nn.Module | None
    sizes: Shape
    varying: tuple[bool, ...] | None = None
    steps: Steps = ()
    inherited: tuple[Dims, AxesOrigin] | None = None
    consumers: tuple[nn.Module, ...] = ()
    heads: frozenset[int] = frozenset()
    widths: frozenset[int] = frozenset()

    @property
    def changes(self) -> list[tuple[Change, Shape]]:
        """The steps in which the size of at least one axis changed."""
        return [(change, after) for change, after in self.steps if after != self.sizes]

    @property
    def image(self) -> bool:
        """Whether a change of the input's height and width changed the size of an axis."""
        return any(change.kind == "image" for change, _ in self.changes)


def named(output: Output, named_shapes: Mapping[Shape, Dims], tokens: set[int]) -> tuple[Dims, AxesOrigin]:
    """Names of the axes other than the samples', and their origin.

    Parameters
    ----------
    output : Output
        The output.
    named_shapes : mapping of tuple of int to tuple of str
        Axes of earlier outputs by shape, for guesses.
    tokens : set of int
        Numbers of tokens of earlier outputs, for guesses.
    """
    sizes, varying = output.sizes, output.varying
    if len(sizes) < 2:
        ids = bool(output.changes) and output.changes[0][0].kind == "sequence" and sizes[0] == output.changes[0][0].before[0]
        return (("token",) if ids else ("channel",))[: len(sizes)], "measured" if varying else "weight"
    known_axes = _output_axes(output.module, output.name, sizes)
    if known_axes is not None and (varying is None or known_axes.channel is None or not varying[known_axes.channel]):
        dims = known_axes.dims or _given_channels(output, known_axes.channel or 0, tokens, weighted=True)
        return dims, "measured" if varying is not None and any(varying) else "weight"
    inherited = (
        output.inherited
        if varying is None or output.inherited is None or _is_consistent(output.inherited[0], varying)
        else None
    )
    if inherited is not None and inherited[1] != "guessed":
        return inherited
    if varying is None or not any(varying) or varying.count(False) > 1:
        for module in output.consumers:
            expected = _input_axes(module, sizes)
            if expected is not None and not (varying and varying[expected.channel or 0]):
                return expected.dims or _given_channels(output, expected.channel or 0, tokens, weighted=True), "weight"
    if inherited is not None:
        return inherited
    return (
        _from_varying_sizes(output, varying, tokens)
        if varying is not None and any(varying)
        else _guessed(output, named_shapes, tokens)
    )


def _from_varying_sizes(output: Output, varying: tuple[bool, ...], tokens: set[int]) -> tuple[Dims, AxesOrigin]:
    """Names if only the sizes distinguish positions from other axes."""
    sizes = output.sizes
    constant = [axis for axis, varies in enumerate(varying) if not varies]
    variable = [axis for axis, varies in enumerate(varying) if varies]
    if len(sizes) == 3 and constant == [0] and _are_token_pairs(output, variable):
        return ("head", "token", "key"), "measured"
    if not constant:
        return _position_names(output, variable), "measured"
    wide = [axis for axis in constant if sizes[axis] > 1]
    if len(constant) == 1 or len(wide) == 1:  # axes of size 1 do not matter
        return _given_channels(output, (wide or constant)[0], tokens, weighted=True), "measured"
    if len(sizes) == 3 and variable == [2] and sizes[0] in output.heads and sizes[0] * sizes[1] not in output.widths:
        return ("head", "token", "key"), "guessed"
    if len(constant) == 3:  # heads, and a weight for each pair of positions in a window
        names = dict(zip(constant, ("head", "feature", "channel"), strict=True))
        positions = dict(zip(variable, _position_names(output, variable), strict=True))
        return tuple((names | positions)[axis] for axis in range(len(sizes))), "guessed"
    certain = len(constant) == 2 and (not output.image or sizes[constant[0]] in output.heads)
    weighted = sizes[constant[-1]] in output.widths and len(wide) > 1
    return _given_channels(output, constant[-1], tokens, weighted=weighted), "measured" if certain else "guessed"


def _given_channels(output: Output, channel: int, tokens: set[int], *, weighted: bool) -> Dims:
    """Names of all axes, given that of the channels.

    `weighted` is whether the channels follow from the module's weight, or because no other axis can hold them. Of two other
    axes, of which one is constant, the constant one holds attention heads if enclosing modules state that number of heads, or
    if the channels do not follow from the weight, or the input is not an image. Otherwise it holds positions: windows or
    queries.
    """
    sizes, heads = output.sizes, output.heads
    others = [axis for axis in range(len(sizes)) if axis != channel]
    head = None
    if output.varying is not None and any(output.varying):
        constant = [axis for axis in others if not output.varying[axis]]
        likely = [axis for axis in constant if sizes[axis] in heads and len(others) > 1]
        single = len(constant) == 1 and len(others) == 2 and (not weighted or not output.image)
        head = likely[0] if likely else constant[0] if single else None
    elif len(others) == 2:
        likely = [a for a, b in (others, others[::-1]) if sizes[a] in heads and sizes[b] in tokens]
        head = likely[0] if likely and (len(likely) == 1 or sizes[others[0]] == sizes[others[1]]) else None
    positions = [axis for axis in others if axis != head]
    names = dict(zip(positions, _position_names(output, positions, first=channel == 0 and head is None), strict=True))
    return tuple("channel" if axis == channel else "head" if axis == head else names[axis] for axis in range(len(sizes)))


def _guessed(output: Output, named_shapes: Mapping[Shape, Dims], tokens: set[int]) -> tuple[Dims, AxesOrigin]:
    """Names from the sizes of earlier outputs, else from the number of axes."""
    sizes = output.sizes
    wide = [axis for axis, size in enumerate(sizes) if size > 1]
    one_channel = 1 in output.widths and sizes[wide[0]] not in output.widths if wide else False  # at many positions
    if len(wide) == 1 and len(sizes) < 5 and not one_channel:  # axes of size 1 do not matter
        return _given_channels(output, wide[0], tokens, weighted=True), "measured"
    if sizes not in named_shapes and len(sizes) == 3 and (dims := _attention_names(output, tokens)):
        return dims, "guessed"
    square = len(sizes) == 3 and sizes[0] == sizes[1]
    if sizes not in named_shapes and output.varying is not None and len(sizes) > 2 and len(wide) in (2, 3) and not square:
        names = dict(zip(wide, ("head", "feature", "channel")[-len(wide) :], strict=True))  # none of them is a position
        narrow = [axis for axis in range(len(sizes)) if axis not in wide]
        positions = dict(zip(narrow, _position_names(output, narrow), strict=True))
        return tuple((names | positions)[axis] for axis in range(len(sizes))), "guessed"
    return named_shapes.get(sizes) or _default_names(output), "guessed"


def _attention_names(output: Output, tokens: set[int]) -> Dims:
    """Names of three axes if their sizes are consistent with attention heads, else ()."""
    heads, a, b = output.sizes
    if a == b and (heads in output.heads or a in tokens):
        return ("head", "channel", "feature") if heads * a in output.widths else ("head", "token", "key")
    if heads in output.heads and a in {1, *tokens} and b in tokens:  # a equals 1 if only the class token is a query
        return ("head", "token", "key")
    return ("head", "token", "channel") if a in tokens and (not output.heads or heads in output.heads) else ()


def _default_names(output: Output) -> Dims:
    """Names from the number of axes: tokens, maps, clips."""
    sizes = output.sizes
    if len(sizes) == 2:
        first = sizes[0] in output.widths and sizes[1] not in output.widths
        return ("channel", "token") if first else ("token", "channel")
    wide = [axis for axis, size in enumerate(sizes) if size in output.widths]
    if len(sizes) == 3 and (wide == [2] or sizes[0] == sizes[1] != sizes[2]):  # a map, channels last
        return ("height", "width", "channel")
    return ("channel", *_SPATIAL.get(len(sizes) - 1, tuple(f"axis{axis}" for axis in range(2, len(sizes) + 1))))


@dataclass(frozen=True)
class _ModuleAxes:
    """The names of all axes (`dims`), or the index of the channels' axis, as determined by a module."""

    channel: int | None
    dims: Dims = ()


def _output_axes(  # noqa: PLR0911  # one type of module after the other
    module: nn.Module | None, name: str, sizes: Shape
) -> _ModuleAxes | None:
    """The axes of a module's output by its type and weight; None if these do not determine them or do not fit the sizes."""
    if module is None:
        return None
    kind, count = type(module).__name__, len(sizes)
    if isinstance(module, nn.RNNBase):
        return _ModuleAxes(1, ("layer", "channel") if _is_state(name) else ("token", "channel")) if count == 2 else None
    if isinstance(module, nn.MultiheadAttention) and name.endswith(".1"):
        return _ModuleAxes(None, ("token", "key") if count == 2 else ("head", "token", "key"))
    width = _width(module)
    if isinstance(module, nn.Unfold):
        return _ModuleAxes(None, ("channel", "token"))
    if _CHANNEL_FIRST.search(kind) and count - 1 in _SPATIAL:
        return None if width not in (None, sizes[0]) else _ModuleAxes(0, ("channel", *_SPATIAL[count - 1]))
    if getattr(module, "dims", None) == [0, 2, 3, 1] and count == 3:
        return _ModuleAxes(2)  # torchvision's Permute
    if isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm | nn.Embedding | nn.MultiheadAttention):
        return _ModuleAxes(count - 1) if width in (None, sizes[-1]) else None
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.ndim not in (1, 2, count + 1):
        return None
    if weight.ndim == count + 1 and weight.ndim > 3:
        return (
            _ModuleAxes(0, ("channel", *_SPATIAL[count - 1])) if weight.shape[0] == sizes[0] and count - 1 in _SPATIAL else None
        )
    if weight.ndim == 1:
        matching = [axis for axis, size in enumerate(sizes) if size == len(weight)]
        return _ModuleAxes(matching[-1]) if matching else None
    return _ModuleAxes(count - 1) if sizes[-1] in weight.shape else None


def _input_axes(module: nn.Module, sizes: Shape) -> _ModuleAxes | None:
    """The axes of a module's input by its weight; None if it does not determine them or does not fit the sizes."""
    last, channels_first = len(sizes) - 1, _ModuleAxes(0, ("channel", *_SPATIAL.get(len(sizes) - 1, ())))
    if isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm):
        width = module.in_features if isinstance(module, nn.Linear) else _width(module)
        return _ModuleAxes(last) if width == sizes[last] else None
    if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm):
        width = module.in_channels if isinstance(module, nn.modules.conv._ConvNd) else module.num_features
        return channels_first if width == sizes[0] and type(module).__name__.endswith(f"{last}d") else None
    return None


def _width(module: nn.Module) -> int | None:
    """The number of channels that a module's attributes state."""
    for attribute in ("out_channels", "out_features", "num_features", "num_channels", "embedding_dim", "embed_dim"):
        if isinstance(count := getattr(module, attribute, None), int):
            return count
    shape = getattr(module, "normalized_shape", None)
    return int(shape[-1]) if isinstance(shape, tuple | list) and len(shape) == 1 else None


def _is_state(name: str) -> bool:
    """Whether a part of a recurrent layer's output is its final state, (layers, samples, features)."""
    return re.search(r"\.1(\.[01])?$", name) is not None


def samples_of(module: nn.Module | None, name: str, shape: Shape) -> int | None:
    """The axis of the samples in the output of a module of torch's; None if the module's type does not determine it."""
    if isinstance(module, nn.RNNBase) and len(shape) == 3:
        return 1 if _is_state(name) or not module.batch_first else 0
    if isinstance(module, nn.MultiheadAttention) and len(shape) == 3:
        return 0 if module.batch_first or name.endswith(".1") else 1
    return 0 if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm | nn.GroupNorm) else None


def _is_consistent(dims: Dims, varying: tuple[bool, ...]) -> bool:
    """Whether none of the axes whose size varies is named channels, heads or layers."""
    return not any(varies and dim in ("channel", "head", "layer") for dim, varies in zip(dims, varying, strict=True))


def _position_names(output: Output, positions: list[int], *, first: bool = False) -> Dims:
    """Names of the axes of positions, in order; `first` is whether the channels come before a single one."""
    if len(positions) == 1:
        return ("width" if first and not output.image else "token",)
    if len(positions) == 2:
        return ("width", "height") if _is_width_first(output, positions) else ("height", "width")
    return ("time", "height", "width") if len(positions) == 3 else tuple(f"axis{axis + 1}" for axis in positions)


def _ratios(change: Change) -> tuple[float, float]:
    """Logarithms of the factors by which height and width changed."""
    return log(change.after[-2] / change.before[-2]), log(change.after[-1] / change.before[-1])


def _is_width_first(output: Output, positions: list[int]) -> bool:
    """Whether the first of two axes changes with the width, and the second with the height."""
    error = {True: 0.0, False: 0.0}
    for change, after in output.steps:
        if change.kind == "image" and 0 not in after:
            height, width = _ratios(change)
            changes = [log(after[axis] / output.sizes[axis]) for axis in positions]
            error[False] += abs(changes[0] - height) + abs(changes[1] - width)
            error[True] += abs(changes[0] - width) + abs(changes[1] - height)
    return error[True] < error[False] - 1e-9


def _are_token_pairs(output: Output, axes: list[int]) -> bool:
    """Whether two axes both hold the tokens: their sizes are always equal, and for an image proportional to its area."""
    a, b = axes
    size = output.sizes[a]
    if size != output.sizes[b] or any(after[a] != after[b] for _, after in output.steps):
        return False
    if not output.image:
        return True
    for change, after in output.steps:
        if change.kind == "image" and after[a] != size and after[a]:
            height, width = _ratios(change)
            ratio_of_sizes = log(after[a] / size)
            return abs(ratio_of_sizes - height - width) < min(abs(ratio_of_sizes - ratio) for ratio in (height, width) if ratio)
    return False


def measured_prefix(change: Change, tokens: int, after: int) -> int | None:
    """The number p of prefix tokens in tokens = positions / s^2 + p, from two sizes; None if s^2 or p is not an integer.

    Parameters
    ----------
    change : Change
        Sizes of the input, whose product is the number of positions.
    tokens, after : int
        Numbers of tokens before and after the change.
    """
    positions, difference = prod(change.before), prod(change.before) - prod(change.after)
    fewer = tokens - after
    if not fewer or difference % fewer or (difference // fewer) < 1 or positions % (difference // fewer):
        return None
    prefix = tokens - positions // (difference // fewer)
    return prefix if 0 <= prefix < tokens else None

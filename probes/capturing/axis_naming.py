"""Names of an output's axes other than the samples', from the module's kind and weight, and from which sizes change.

In this order: the axis that is as wide as the module's own weight (`out_features`, `out_channels`, `normalized_shape`) is the
channels, and a convolution or a pool has its positions behind them; an output of the same shape as the module's input has its
input's axes; axes that change with the input's size are positions, and what does not is channels or heads; of several
that do not, the weight of the module that takes the output says which it takes for channels. The rest is a guess.
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


Steps = Sequence[tuple[Change, Shape]]  # changes of the input's size, and the sizes of one output's axes after each


@dataclass(frozen=True)
class Output:
    """What is known of one output.

    Attributes
    ----------
    name : str
        The layer.
    module : torch.nn.Module or None
        None for an operation.
    sizes : tuple of int
        Of the axes other than the samples'.
    moved : tuple of bool or None
        Which of them changed with the input's size; None where the output was not seen with another.
    steps : sequence of (Change, tuple of int)
        Their sizes after each change.
    inherited : (tuple of str, str) or None
        Axes of the input that had the same shape, and how they were found.
    takers : tuple of torch.nn.Module
        Modules that took it as their input.
    heads : set of int
        Numbers of attention heads that enclosing modules name.
    widths : set of int
        Numbers of channels that linear layers and convolutions beside it have.
    """

    name: str
    module: nn.Module | None
    sizes: Shape
    moved: tuple[bool, ...] | None = None
    steps: Steps = ()
    inherited: tuple[Dims, AxesOrigin] | None = None
    takers: tuple[nn.Module, ...] = ()
    heads: frozenset[int] = frozenset()
    widths: frozenset[int] = frozenset()

    @property
    def changes(self) -> list[tuple[Change, Shape]]:
        """The steps in which some size changed."""
        return [(change, after) for change, after in self.steps if after != self.sizes]

    @property
    def image(self) -> bool:
        """Whether another height and width changed it."""
        return any(change.kind == "image" for change, _ in self.changes)


def named(output: Output, named_shapes: Mapping[Shape, Dims], tokens: set[int]) -> tuple[Dims, AxesOrigin]:
    """Names of the axes other than the samples', and how they were found.

    Parameters
    ----------
    output : Output
        What is known of the output.
    named_shapes : mapping of tuple of int to tuple of str
        Axes of shapes that came before, for guesses.
    tokens : set of int
        Numbers of tokens that came before, for guesses.
    """
    sizes, moved = output.sizes, output.moved
    if len(sizes) < 2:
        ids = bool(output.changes) and output.changes[0][0].kind == "sequence" and sizes[0] == output.changes[0][0].before[0]
        return (("token",) if ids else ("channel",))[: len(sizes)], "measured" if moved else "weight"
    fixed = _contract(output.module, output.name, sizes)
    if fixed is not None and (moved is None or fixed.channel is None or not moved[fixed.channel]):
        dims = fixed.dims or _beside(output, fixed.channel or 0, tokens, weighted=True)
        return dims, "measured" if moved is not None and any(moved) else "weight"
    inherited = output.inherited if moved is None or output.inherited is None or _agrees(output.inherited[0], moved) else None
    if inherited is not None and inherited[1] != "guessed":
        return inherited
    if moved is None or not any(moved) or moved.count(False) > 1:
        for module in output.takers:
            expected = _expected(module, sizes)
            if expected is not None and not (moved and moved[expected.channel or 0]):
                return expected.dims or _beside(output, expected.channel or 0, tokens, weighted=True), "weight"
    if inherited is not None:
        return inherited
    return _by_moves(output, moved, tokens) if moved is not None and any(moved) else _guessed(output, named_shapes, tokens)


def _by_moves(output: Output, moved: tuple[bool, ...], tokens: set[int]) -> tuple[Dims, AxesOrigin]:
    """Names where sizes alone say what is a position."""
    sizes = output.sizes
    still = [axis for axis, moves in enumerate(moved) if not moves]
    going = [axis for axis, moves in enumerate(moved) if moves]
    if len(sizes) == 3 and still == [0] and _alike(output, going):
        return ("head", "token", "key"), "measured"
    if not still:
        return _positions(output, going), "measured"
    wide = [axis for axis in still if sizes[axis] > 1]
    if len(still) == 1 or len(wide) == 1:  # axes of size 1 do not matter
        return _beside(output, (wide or still)[0], tokens, weighted=True), "measured"
    if len(sizes) == 3 and going == [2] and sizes[0] in output.heads and sizes[0] * sizes[1] not in output.widths:
        return ("head", "token", "key"), "guessed"
    if len(still) == 3:  # heads, and a weight for each pair of places in a window
        names = dict(zip(still, ("head", "feature", "channel"), strict=True))
        places = dict(zip(going, _positions(output, going), strict=True))
        return tuple((names | places)[axis] for axis in range(len(sizes))), "guessed"
    certain = len(still) == 2 and (not output.image or sizes[still[0]] in output.heads)
    weighted = sizes[still[-1]] in output.widths and len(wide) > 1
    return _beside(output, still[-1], tokens, weighted=weighted), "measured" if certain else "guessed"


def _beside(output: Output, channel: int, tokens: set[int], *, weighted: bool) -> Dims:
    """Names of all axes, once the channels are known; `weighted` where the module's weight or the only axis left said so.

    Of two axes beside the channels and the positions that move, one that does not is attention heads if enclosing modules name
    that number, or if the input is text; else it is windows or queries where the module's weight has made the channels.
    """
    sizes, heads = output.sizes, output.heads
    others = [axis for axis in range(len(sizes)) if axis != channel]
    head = None
    if output.moved is not None and any(output.moved):
        unmoved = [axis for axis in others if not output.moved[axis]]
        likely = [axis for axis in unmoved if sizes[axis] in heads and len(others) > 1]
        alone = len(unmoved) == 1 and len(others) == 2 and (not weighted or not output.image)
        head = likely[0] if likely else unmoved[0] if alone else None
    elif len(others) == 2:
        likely = [a for a, b in (others, others[::-1]) if sizes[a] in heads and sizes[b] in tokens]
        head = likely[0] if likely and (len(likely) == 1 or sizes[others[0]] == sizes[others[1]]) else None
    places = [axis for axis in others if axis != head]
    names = dict(zip(places, _positions(output, places, first=channel == 0 and head is None), strict=True))
    return tuple("channel" if axis == channel else "head" if axis == head else names[axis] for axis in range(len(sizes)))


def _guessed(output: Output, named_shapes: Mapping[Shape, Dims], tokens: set[int]) -> tuple[Dims, AxesOrigin]:
    """Names from sizes that were seen before, else from the number of axes."""
    sizes = output.sizes
    wide = [axis for axis, size in enumerate(sizes) if size > 1]
    single = 1 in output.widths and sizes[wide[0]] not in output.widths if wide else False  # one channel at many places
    if len(wide) == 1 and len(sizes) < 5 and not single:  # axes of size 1 do not matter
        return _beside(output, wide[0], tokens, weighted=True), "measured"
    if sizes not in named_shapes and len(sizes) == 3 and (dims := _attention(output, tokens)):
        return dims, "guessed"
    square = len(sizes) == 3 and sizes[0] == sizes[1]
    if sizes not in named_shapes and output.moved is not None and len(sizes) > 2 and len(wide) in (2, 3) and not square:
        names = dict(zip(wide, ("head", "feature", "channel")[-len(wide) :], strict=True))  # no position among them
        ones = [axis for axis in range(len(sizes)) if axis not in wide]
        places = dict(zip(ones, _positions(output, ones), strict=True))
        return tuple((names | places)[axis] for axis in range(len(sizes))), "guessed"
    return named_shapes.get(sizes) or _usual(output), "guessed"


def _attention(output: Output, tokens: set[int]) -> Dims:
    """Names of three axes, if they look like heads of attention."""
    heads, a, b = output.sizes
    if a == b and (heads in output.heads or a in tokens):
        return ("head", "channel", "feature") if heads * a in output.widths else ("head", "token", "key")
    if heads in output.heads and a in {1, *tokens} and b in tokens:  # of a class token alone
        return ("head", "token", "key")
    return ("head", "token", "channel") if a in tokens and (not output.heads or heads in output.heads) else ()


def _usual(output: Output) -> Dims:
    """Names by the number of axes: tokens, maps, clips."""
    sizes = output.sizes
    if len(sizes) == 2:
        first = sizes[0] in output.widths and sizes[1] not in output.widths
        return ("channel", "token") if first else ("token", "channel")
    wide = [axis for axis, size in enumerate(sizes) if size in output.widths]
    if len(sizes) == 3 and (wide == [2] or sizes[0] == sizes[1] != sizes[2]):  # a map, channels last
        return ("height", "width", "channel")
    return ("channel", *_SPATIAL.get(len(sizes) - 1, tuple(f"axis{axis}" for axis in range(2, len(sizes) + 1))))


@dataclass(frozen=True)
class _Fixed:
    """What a module's kind says: all axes, or which one is the channels."""

    channel: int | None
    dims: Dims = ()


def _contract(  # noqa: PLR0911  # one kind of module after the other
    module: nn.Module | None, name: str, sizes: Shape
) -> _Fixed | None:
    """What a module's kind and weight say of the axes other than the samples'; None where they say nothing, or do not fit."""
    if module is None:
        return None
    kind, count = type(module).__name__, len(sizes)
    if isinstance(module, nn.RNNBase):
        return _Fixed(1, ("layer", "channel") if _is_state(name) else ("token", "channel")) if count == 2 else None
    if isinstance(module, nn.MultiheadAttention) and name.endswith(".1"):
        return _Fixed(None, ("token", "key") if count == 2 else ("head", "token", "key"))
    width = _width(module)
    if isinstance(module, nn.Unfold):
        return _Fixed(None, ("channel", "token"))
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


def _expected(module: nn.Module, sizes: Shape) -> _Fixed | None:
    """What a module's weight says of the axes of its input; None where it says nothing, or does not fit."""
    last, first = len(sizes) - 1, _Fixed(0, ("channel", *_SPATIAL.get(len(sizes) - 1, ())))
    if isinstance(module, nn.Linear | nn.LayerNorm | nn.RMSNorm):
        width = module.in_features if isinstance(module, nn.Linear) else _width(module)
        return _Fixed(last) if width == sizes[last] else None
    if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm):
        width = module.in_channels if isinstance(module, nn.modules.conv._ConvNd) else module.num_features
        return first if width == sizes[0] and type(module).__name__.endswith(f"{last}d") else None
    return None


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


def samples_of(module: nn.Module | None, name: str, shape: Shape) -> int | None:
    """Where a module of torch's puts the samples by its own account; None where it does not say."""
    if isinstance(module, nn.RNNBase) and len(shape) == 3:
        return 1 if _is_state(name) or not module.batch_first else 0
    if isinstance(module, nn.MultiheadAttention) and len(shape) == 3:
        return 0 if module.batch_first or name.endswith(".1") else 1
    return 0 if isinstance(module, nn.modules.conv._ConvNd | nn.modules.batchnorm._BatchNorm | nn.GroupNorm) else None


def _agrees(dims: Dims, moved: tuple[bool, ...]) -> bool:
    """Whether inherited names fit what moves: channels and heads stay."""
    return not any(moves and dim in ("channel", "head", "layer") for dim, moves in zip(dims, moved, strict=True))


def _positions(output: Output, places: list[int], *, first: bool = False) -> Dims:
    """Names of the axes of positions, in order; `first` where the channels stand before a single one."""
    if len(places) == 1:
        return ("width" if first and not output.image else "token",)
    if len(places) == 2:
        return ("width", "height") if _turned(output, places) else ("height", "width")
    return ("time", "height", "width") if len(places) == 3 else tuple(f"axis{axis + 1}" for axis in places)


def _ratios(change: Change) -> tuple[float, float]:
    """Logarithms of what height and width were multiplied with."""
    return log(change.after[-2] / change.before[-2]), log(change.after[-1] / change.before[-1])


def _turned(output: Output, places: list[int]) -> bool:
    """Whether the first of two axes moves with the width, and the second with the height."""
    error = {True: 0.0, False: 0.0}
    for change, after in output.steps:
        if change.kind == "image" and 0 not in after:
            height, width = _ratios(change)
            moves = [log(after[axis] / output.sizes[axis]) for axis in places]
            error[False] += abs(moves[0] - height) + abs(moves[1] - width)
            error[True] += abs(moves[0] - width) + abs(moves[1] - height)
    return error[True] < error[False] - 1e-9


def _alike(output: Output, places: list[int]) -> bool:
    """Whether two axes are the tokens twice: equal before and after and, of an image, moving with its area."""
    a, b = places
    size = output.sizes[a]
    if size != output.sizes[b] or any(after[a] != after[b] for _, after in output.steps):
        return False
    if not output.image:
        return True
    for change, after in output.steps:
        if change.kind == "image" and after[a] != size and after[a]:
            height, width = _ratios(change)
            move = log(after[a] / size)
            return abs(move - height - width) < min(abs(move - ratio) for ratio in (height, width) if ratio)
    return False


def measured_prefix(change: Change, tokens: int, after: int) -> int | None:
    """P of tokens = places / s^2 + p, from two sizes; None where they are no integers."""
    places, moved = prod(change.before), prod(change.before) - prod(change.after)
    gone = tokens - after
    if not gone or moved % gone or (moved // gone) < 1 or places % (moved // gone):
        return None
    prefix = tokens - places // (moved // gone)
    return prefix if 0 <= prefix < tokens else None

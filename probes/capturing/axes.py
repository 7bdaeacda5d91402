"""Names of the axes of an activation, and the user's rules for them: `--axes 'blocks.*=TBC'`.

One letter stands for one axis, in the order of the module's output. `axis_inference.py` infers axes without a rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from probes.errors import UsageError
from probes.patterns import closest, matches

__all__ = [
    "LETTERS",
    "UNPOOLED",
    "AxesOption",
    "AxesOrigin",
    "AxisRules",
    "Dims",
    "Layout",
    "Shape",
    "UnfitError",
    "letters_of",
]

Dims = tuple[str, ...]
Shape = tuple[int, ...]
AxesOption = str | Mapping[str, str] | Sequence[str] | None
AxesOrigin = Literal["measured", "weight", "given", "guessed"]

LETTERS = {
    "B": "sample", "N": "sample", "C": "channel", "T": "token", "H": "height", "W": "width", "D": "time", "A": "head",
    "K": "key", "L": "layer", "P": "window", "F": "feature",
}  # fmt: skip
UNPOOLED = ("sample", "channel", "head", "layer", "feature")  # pools reduce every other axis
_LETTER = {name: letter for letter, name in LETTERS.items() if letter != "N"}


class UnfitError(Exception):
    """An activation can't be recorded or pooled; the message is the reason and is shown after the layer's name."""


@dataclass(frozen=True)
class Layout:
    """Names of the axes of an activation, and how to arrange it as one row per sample.

    Attributes
    ----------
    dims : tuple of str
        Names of the axes after moving the samples first.
    prefix : int
        Number of leading tokens without a position in the image, such as a class token.
    sample : int
        The samples' axis in the module's output.
    fold : {"", "major", "minor"}
        Whether the samples' axis also contains the axis `dims[1]`: with the samples as its outer ("major") or inner ("minor")
        index.
    origin : {"measured", "weight", "given", "guessed"}
        How the axes were determined.
    length : bool
        Whether the single axis of positions is as long as the input, so that a padding mask of the input applies to it.
    mask : (n, positions) tensor of bool, optional
        Mask of one batch, False at padding.
    """

    dims: Dims
    prefix: int = 0
    sample: int = 0
    fold: Literal["", "major", "minor"] = ""
    origin: AxesOrigin = "guessed"
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
        """Names of the axes in the module's order; `sample*window` for a shared axis."""
        if self.fold:
            first = f"sample*{self.dims[1]}" if self.fold == "major" else f"{self.dims[1]}*sample"
            others = self.dims[2:]
        else:
            first, others = "sample", self.dims[1:]
        return (*others[: self.sample], first, *others[self.sample :])

    @property
    def positions(self) -> list[int]:
        """Axes of positions, which pools reduce, after moving the samples first."""
        return [axis for axis, dim in enumerate(self.dims) if dim not in UNPOOLED]

    def fits(self, shape: Sequence[int], rows: int | None) -> bool:
        """Whether the size of the samples' axis in `shape` is consistent with `rows` samples."""
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
    """The user's axes per layer pattern; the first matching pattern applies.

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
        If a letter is unknown or repeated, or the samples are missing.

    Examples
    --------
    >>> rules = AxisRules("blocks.*=TBC")
    >>> rules.of("blocks.0.norm1", []).dims, rules.texts
    (('sample', 'token', 'channel'), ('blocks.*=TBC',))
    """

    def __init__(self, axes: AxesOption = None) -> None:
        if isinstance(axes, Mapping):
            pairs = list(axes.items())
        else:
            texts = [] if axes is None else [axes] if isinstance(axes, str) else list(axes)
            pairs = [(text.rpartition("=")[0] or "*", text.rpartition("=")[2]) for text in texts]
        self._rules = [(pattern, text, _parse(pattern, text)) for pattern, text in pairs]
        self.matched = {pattern: False for pattern, _, _ in self._rules}

    def of(self, name: str, types: Iterable[str]) -> Layout | None:
        """The axes of the first rule that matches a layer, or None."""
        for pattern, _, layout in self._rules:
            if matches(pattern, name, types):
                self.matched[pattern] = True
                return layout
        return None

    def check(self, title: str, names: Iterable[str]) -> None:
        """Raise `UsageError` if a pattern has matched no recorded layer."""
        for pattern in (pattern for pattern, matched in self.matched.items() if not matched):
            raise UsageError(
                f"No recorded layer of {title!r} matches {pattern!r}, the pattern of axes.{closest(pattern, names)} "
                f"`repanalysis layers` lists all."
            )

    def __bool__(self) -> bool:
        return bool(self._rules)

    @property
    def texts(self) -> tuple[str, ...]:
        """The rules as a user writes them."""
        return tuple(f"{pattern}={text}" for pattern, text, _ in self._rules)


def _parse(pattern: str, text: str) -> Layout:
    """`"(BP)TC"` as a layout."""
    rule = f"Axes {pattern}={text}"
    match = re.fullmatch(r"([A-Z]*)(?:\(([A-Z]{2})\))?([A-Z]*)", text)
    letters = [*match[1], *(match[2] or ""), *match[3]] if match else []
    choices = ", ".join(f"{letter} {name}" for letter, name in LETTERS.items() if letter != "N")
    if not match or not set(letters) <= LETTERS.keys():
        raise UsageError(
            f"{rule}: write one letter per axis, such as TBC, or (BP)TC for windows in the batch. Letters: {choices}."
        )
    names = [LETTERS[letter] for letter in letters]
    if len(set(names)) < len(names) or "sample" not in names:
        raise UsageError(f"{rule}: B, the samples, is required, and no axis may occur twice.")
    if match[2] is None:
        axis = names.index("sample")
        names.remove("sample")
        return Layout(("sample", *names), sample=axis, origin="given")
    pair = [LETTERS[letter] for letter in match[2]]
    if "sample" not in pair:
        raise UsageError(f"{rule}: brackets stand for one axis that contains the samples, B, and one other axis.")
    other = next(name for name in pair if name != "sample")
    unfolded = [name for name in names if name not in pair]
    fold: Literal["major", "minor"] = "major" if pair[0] == "sample" else "minor"
    return Layout(("sample", other, *unfolded), sample=len(match[1]), fold=fold, origin="given")

"""`CaptureOptions`: every option of `capture` and `record` that decides what a file holds, and how a file names it.

A new option is declared here, as a field and as a keyword, and read where it acts. The rest follows: `capture`, `record`,
`attach` and `plan` take it, files hold it, `resume` and `verify` compare it, the command line has it with its help.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Self, TypedDict, TypeVar, get_args, get_origin, get_type_hints

from annotated_doc import Doc
from annotated_types import Ge

from probes.errors import FormatError, UsageError, did_you_mean

if TYPE_CHECKING:
    from probes.capturing.axes import AxesOption
    from probes.capturing.pooling import Pools
    from probes.patterns import Patterns

__all__ = [
    "CaptureKeywords", "CaptureOptions", "CompressionOption", "OverwriteOption", "PassKeywords", "ResumeOption",
    "keywords_of", "shows_options",
]  # fmt: skip

Function = TypeVar("Function", bound=Callable[..., Any])

DTYPES = ("auto", "float32", "float16")
PRECISIONS = ("float32", "bfloat16", "float16")

_LEAVES = "leaf calls"
_JOINED = ("pool", "axes")  # written as one text, "layer4*=none; mean"


CompressionOption = Annotated[str, Doc("none, lzf, gzip; lz4 or zstd with the extra 'compression'.")]
OverwriteOption = Annotated[bool, Doc("Replace a file that exists.")]
ResumeOption = Annotated[bool, Doc("Continue a file whose writing was interrupted.")]


class PassKeywords(TypedDict, total=False):
    """Which layers are looked at, and how the network is run."""

    layers: Patterns
    ops: bool
    precision: str
    channels_last: bool
    batch_size: int
    max_batches: int | None


class CaptureKeywords(PassKeywords, total=False):
    """All options as people write them; `capturing.keywords.options_of` makes `CaptureOptions` of them."""

    pool: Pools
    prefix_tokens: int | None
    dtype: str
    seed: int
    split: str | None
    axes: AxesOption


@dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """What of a network is kept, and how it is run; each field is an attribute of the file.

    Attributes
    ----------
    layers : tuple of str or None
        Patterns: globs over names (`layer*.conv?`), `re:REGEX`, `type:Conv2d`; `!PATTERN` leaves out. None: every leaf call.
    pool : tuple of str
        What is kept of each output: `mean`, `max`, `mean_std`, `cls`, `tokens`, `flatten`, `none`, `grid:G`, `project:K`; or
        pools by layer pattern, the first that matches: `layer4*=none`.
    ops : bool
        Whether to record operations that are not modules as well: `layer1.0.add`, `layer1.0.relu_1`.
    prefix_tokens : int or None
        Tokens at the front that are no place in the image (CLS, registers), which no pool mixes with the others. None: those
        that the network has parameters for.
    dtype : {"auto", "float32", "float16"}
        Type that is kept; "auto" keeps what the network computes with.
    seed : int
        Seed of random projections.
    split : str
        Name of the split that all samples belong to; empty where there is none.
    precision : {"float32", "bfloat16", "float16"}
        What the network computes in: "float32" leaves everything as it is, the others are automatic mixed precision.
    channels_last : bool
        Give images to the network in channels-last memory, which is faster on many devices; results may differ by rounding.
    axes : tuple of str
        What the axes of layers' outputs are, by layer pattern, one letter an axis in the order of the output: `blocks.*=TBC`. B
        or N samples, C channels, T tokens, H height, W width, D time, A attention heads, K the tokens attended to, L layers, P
        windows; `(BP)TC` for windows folded into the batch, sample by sample. It overrules what is measured.
    forward : str
        What ran in place of the model, see `probes.capturing.network.description_of`; empty where the model itself ran.
    batch_size : int
        Samples of a forward pass, which change results by rounding; 0 where the loader does not say it.
    max_batches : int or None
        How many batches are run, the first that the loader gives; None: all.

    Examples
    --------
    >>> options = CaptureOptions(layers=("relu?",), prefix_tokens=1)
    >>> options.to_attrs()["layers"], options.to_attrs()["prefix_tokens"]
    ('["relu?"]', 1)
    >>> CaptureOptions.from_attrs(options.to_attrs()) == options
    True
    """

    layers: Annotated[tuple[str, ...] | None, Doc("Glob, re:REGEX or type:CLASS; '!PATTERN' leaves out. Repeat it.")] = None
    pool: Annotated[
        tuple[str, ...],
        Doc(
            "What to keep: mean, max, mean_std, cls, tokens, flatten, none, grid:G or project:K; for some layers: "
            "'layer4*=none'. Repeat it; the first pattern that matches decides."
        ),
    ] = ("mean",)
    ops: Annotated[bool, Doc("Record operations too that are not modules (+, torch.cat, F.relu).")] = False
    prefix_tokens: Annotated[int | None, Ge(0), Doc("CLS and register tokens; default: the model's own.")] = None
    dtype: Annotated[str, Doc("Type to keep: auto, float32 or float16.")] = "auto"
    seed: int = 0
    split: str = ""
    precision: Annotated[str, Doc("float32; bfloat16 or float16 for automatic mixed precision.")] = "float32"
    channels_last: Annotated[bool, Doc("Give images in channels-last memory.")] = False
    axes: Annotated[
        tuple[str, ...],
        Doc(
            "Axes of some layers, if not what is measured: 'blocks.*=TBC'. B samples, C channels, T tokens, H height, "
            "W width, D time, A heads, K keys, L layers, P windows, F features; (BP)TC for windows in the batch. Repeat it."
        ),
    ] = ()
    forward: str = ""
    batch_size: Annotated[int, Ge(1), Doc("Samples per forward pass.")] = 64
    max_batches: Annotated[int | None, Ge(1), Doc("Run so many batches at most, the first ones; default all.")] = None

    def __post_init__(self) -> None:
        if self.max_batches is not None and self.max_batches < 0:
            raise UsageError(f"max_batches is {self.max_batches}; it must be at least 0.")
        for name, choices in (("dtype", DTYPES), ("precision", PRECISIONS)):
            if (value := getattr(self, name)) not in choices:
                raise UsageError(
                    f"Unknown {name} {value!r}.{did_you_mean(str(value), choices)} Known are {', '.join(choices)}."
                )

    def n_of(self, n: int | None) -> int | None:
        """How many of a loader's n samples a run takes; None where that is not known."""
        if n is None or self.max_batches is None:
            return n
        return min(n, self.max_batches * self.batch_size) if self.batch_size else None

    def to_attrs(self) -> dict[str, str | int]:
        """The options as attributes of a file."""
        attrs = {field.name: getattr(self, field.name) for field in fields(self)}
        attrs |= {name: int(value) for name, value in attrs.items() if isinstance(value, bool)}
        attrs |= {name: "; ".join(attrs[name]) for name in _JOINED}
        attrs["layers"] = _LEAVES if self.layers is None else json.dumps(self.layers, ensure_ascii=False)
        attrs |= {name: "auto" for name, value in attrs.items() if value is None}
        return attrs

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Self:
        """The options that a file names; what older files do not name was not an option then.

        Raises
        ------
        FormatError
            If an attribute is not of the type that it must have.
        """
        hints = get_type_hints(cls)
        named = {field.name: attrs[field.name] for field in fields(cls) if field.name in attrs}
        values: dict[str, Any] = {name: _from_attr(name, value, hints[name]) for name, value in named.items()}
        try:
            return cls(**({"batch_size": 0} | values))
        except UsageError as error:
            raise FormatError(f"The file's attributes say how it was made in no way that is known: {error}") from error

    def keywords(self) -> CaptureKeywords:
        """The options as keywords of `capture` and `record`, without `forward`, which a file names and does not hold."""
        values: Any = {name: getattr(self, name) for name in CaptureKeywords.__annotations__}
        keywords: CaptureKeywords = values | {"split": self.split or None, "batch_size": self.batch_size or 64}
        return keywords


def keywords_of(kind: type) -> list[str]:
    """Names of the keywords of a TypedDict, in the order of the fields of `CaptureOptions`."""
    return [field.name for field in fields(CaptureOptions) if field.name in kind.__annotations__]


def shows_options(kind: type) -> Callable[[Function], Function]:
    """Show the options of `**options: Unpack[kind]` in a function's signature, for `help` and notebooks."""

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
        keyword = inspect.Parameter.KEYWORD_ONLY
        defaults = {field.name: field.default for field in fields(CaptureOptions)}
        options = [
            inspect.Parameter(name, keyword, default=defaults[name], annotation=kind.__annotations__[name])
            for name in keywords_of(kind)
        ]
        function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        return function

    return decorate


def _from_attr(name: str, value: Any, hint: Any) -> Any:
    """A field's value from the attribute that names it."""
    kinds = {get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,))}
    if name == "layers":
        return None if value == _LEAVES else _patterns(value)
    if name in _JOINED and isinstance(value, str):
        return tuple(filter(None, value.split("; ")))
    if value == "auto" and type(None) in kinds:
        return None
    if kinds == {bool} and value in (0, 1):
        return bool(value)
    if type(value) not in kinds:
        raise FormatError(f"The file's attribute {name} is {value!r}, which is none of its values.")
    return value


def _patterns(text: Any) -> tuple[str, ...]:
    """Patterns as older files name them, too: JSON, or one as it is."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        value = text
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise FormatError(f"The file's attribute layers is {text!r}, which names no layers.")
    return tuple(patterns)

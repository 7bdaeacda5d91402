"""Options of a specification as keyword arguments of a function, checked against its signature.

The signature is the declaration. Its annotations give the type of an option: `bool`, `int`, `float`, `str`,
`Literal[...]`, or one of these or None. A parameter without an annotation has the type of its default.
"""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from probes.errors import UsageError
from probes.specs import parse_options
from repanalysis._checks import one_of

__all__ = ["Names", "Read", "bind", "convert", "options"]


@dataclass(frozen=True)
class Read:
    """In an annotation: a function that converts the words of the command line, and their type."""

    function: Callable[[Any], Any]
    kind: Any = str


class Names:
    """In an annotation: names of the command line's option, if they differ from that of the parameter."""

    def __init__(self, *names: str) -> None:
        self.names = names


_WORDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number"}
_ACCEPTED: dict[Any, type] = {bool: bool, int: Integral, float: Real}


def options(
    text: str,
    function: Callable[..., Any],
    what: str,
    *,
    more: Mapping[str, Any] | None = None,
    symbols: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Keyword arguments of a text `key=value,key=value`; see `bind`.

    Examples
    --------
    >>> options("J=4,tight=true", lambda scales=3, tight=False: None, "scattering", symbols={"J": "scales"})
    {'scales': 4, 'tight': True}
    """
    return bind(parse_options(text, what), function, what, more=more, symbols=symbols)


def bind(
    values: Mapping[str, Any],
    function: Callable[..., Any],
    what: str,
    *,
    more: Mapping[str, Any] | None = None,
    symbols: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Keyword arguments of a function from options, as texts or as values, each of the type that the function declares.

    Parameters
    ----------
    values : mapping of str to str or value
        Options by name.
    function : callable
        Function whose parameters with a default are options.
    what : str
        Name of the function in messages.
    more : mapping of str to value, optional
        Further parameters, with their defaults.
    symbols : mapping of str to str, optional
        Symbols of the field for parameters, such as `{"J": "scales"}`.

    Raises
    ------
    UsageError
        If a parameter is unknown, given twice, its value is of another type or not finite, or a seed is negative.

    Examples
    --------
    >>> def ridge(x: list, alpha: float = 1.0, solver: Literal["svd", "sag"] = "svd") -> None: ...
    >>> bind({"alpha": 2, "solver": "sag"}, ridge, "ridge")
    {'alpha': 2.0, 'solver': 'sag'}
    """
    parameters = inspect.signature(function).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}
    defaults |= more or {}
    hints = _hints(function)
    names = {short: name for short, name in (symbols or {}).items() if name in defaults} | {name: name for name in defaults}
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        name = names[one_of(f"parameter of {what}", key, list(names))]
        if name in arguments:
            raise UsageError(f"{key} of {what} is given twice.")
        default = defaults[name]
        hint = hints.get(name, int | None if default is None else type(default))
        arguments[name] = convert(value, hint, f"{key} of {what}")
        if name == "seed" and not 0 <= arguments[name] < 2**32:
            raise UsageError(f"seed of {what} is {arguments[name]}; it must be between 0 and {2**32 - 1}.")
    return arguments


def convert(value: Any, hint: Any, what: str) -> Any:
    """A value converted to the type of an annotation; a text is parsed.

    Raises
    ------
    UsageError
        If it has another type.

    Examples
    --------
    >>> convert("0.5", float, "theta"), convert("true", bool, "tight"), convert("none", int | None, "limit")
    (0.5, True, None)
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if NoneType in kinds and (value is None or (isinstance(value, str) and value.lower() == "none")):
        return None
    for kind in kinds:
        if get_origin(kind) is Literal:
            return one_of(what, value, get_args(kind))
    plain = [kind for kind in kinds if kind in _WORDS]
    if not plain:
        return value
    number = _literal(value) if isinstance(value, str) else value
    for kind in plain:
        if isinstance(number, _ACCEPTED[kind]) and isinstance(number, bool) == (kind is bool):
            return kind(number)
    if str in kinds:
        return value
    raise UsageError(f"{what} is {value!r}; it must be {' or '.join(_WORDS[kind] for kind in plain)}.")


def _literal(text: str) -> Any:
    """The finite number or boolean of a text; else the text."""
    try:
        number = ast.literal_eval(text.capitalize() if text.lower() in ("true", "false") else text)
    except (ValueError, SyntaxError):
        return text
    return text if isinstance(number, float) and not math.isfinite(number) else number


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Annotations of a function or of a class's initialiser; none if they can't be evaluated."""
    try:
        return get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError):
        return {}

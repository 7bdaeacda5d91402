"""Parameters in a specification string: `J=3,L=8,phases=4` -> keyword arguments of a function."""

from __future__ import annotations

import ast
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from probes.errors import UsageError
from repanalysis._checks import one_of

__all__ = ["options"]


def options(
    text: str,
    function: Callable[..., Any],
    what: str,
    *,
    more: Mapping[str, Any] | None = None,
    symbols: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Keyword arguments that a text chooses, checked against a function's parameters and the types of their defaults.

    Parameters
    ----------
    text : str
        `key=value,key=value`, or nothing.
    function : callable
        Whose parameters may be chosen; all that have a default.
    what : str
        What messages call it.
    more : mapping of str to value, optional
        Further parameters, with their defaults.
    symbols : mapping of str to str, optional
        Short names that the field uses, such as `{"J": "scales"}`.

    Raises
    ------
    UsageError
        If a parameter is unknown, given twice, its value is of another type than the default or no finite number, or a seed is
        negative.

    Examples
    --------
    >>> options("J=4,tight=true", lambda scales=3, tight=False: None, "scattering", symbols={"J": "scales"})
    {'scales': 4, 'tight': True}
    """
    parameters = inspect.signature(function).parameters.values()
    defaults = {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}
    defaults |= more or {}
    shown = {
        **{short: name for short, name in (symbols or {}).items() if name in defaults},
        **{name: name for name in defaults},
    }
    found: dict[str, Any] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        key, equals, value = (side.strip() for side in part.partition("="))
        if not equals or not value:
            raise UsageError(f"{part!r} in {what} is no parameter; write key=value,key=value.")
        name = shown[one_of(f"parameter of {what}", key, list(shown))]
        if name in found:
            raise UsageError(f"{key} of {what} is given twice.")
        found[name] = _typed(value, defaults[name], f"{key} of {what}")
        if name == "seed" and not 0 <= found[name] < 2**32:
            raise UsageError(f"seed of {what} is {found[name]}; it must be between 0 and {2**32 - 1}.")
    return found


_KINDS = {bool: "true or false", int: "a whole number", float: "a number"}


def _typed(value: str, default: Any, what: str) -> Any:
    """A value of the default's type; None stands for any number."""
    if isinstance(default, str):
        return value
    try:
        found = ast.literal_eval(value.capitalize() if value.lower() in ("true", "false", "none") else value)
    except (ValueError, SyntaxError):
        found = value
    wanted: type = type(default) if default is not None else int
    if wanted is float and type(found) is int:
        found = float(found)
    if type(found) is not wanted or (isinstance(found, float) and not math.isfinite(found)):
        raise UsageError(f"{what} is {value!r}; it must be {_KINDS[wanted]}.")
    return found

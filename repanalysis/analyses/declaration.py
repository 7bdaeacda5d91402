"""An analysis is a function that answers one question with a table; its signature declares its options.

`@analysis` adds provenance to the returned table: the name of the analysis, the value of every parameter, the versions of the
software, the time, and the command if there was one. Parameters annotated with a `Doc` are options of the command line, with
that text as their help.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime
from functools import wraps
from os import PathLike
from typing import Annotated, Any, Generic, NamedTuple, ParamSpec, TypeVar, cast

from annotated_doc import Doc
from annotated_types import Ge, Le

from probes.options import CaptureOptions
from probes.patterns import Patterns
from probes.provenance import command_line, versions
from repanalysis.metrics import Metric
from repanalysis.specs import Read
from repanalysis.table import Table

__all__ = [
    "GroupsOption", "LayersOption", "MetricLike", "MetricsOption", "Result", "StateBudgetOption", "StrictOption",
    "analysis", "stamp",
]  # fmt: skip


def gib(number: float) -> int:
    """Bytes of so many GiB."""
    return int(number * 2**30)


P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A")

StrictOption = Annotated[
    bool, Doc("Stop at a layer that cannot be analyzed. Otherwise its values are NaN, with the reason; exit code 3.")
]
StateBudgetOption = Annotated[
    int, Doc("GiB that the statistics may take; default 2."), Read(gib, Annotated[float, Ge(0), Le(2**20)])
]
LayersOption = Annotated[Patterns, Doc("Glob, re:REGEX or type:CLASS; '!PATTERN' excludes. Repeat it."), Read(list, list[str])]
MetricLike = str | Metric | Callable[..., Any]  # a name, a metric with parameters, or a function that `@metric` registered
MetricsOption = Annotated[
    MetricLike | Iterable[MetricLike] | None, Doc("Such as fisher_ratio,rate_reduction:eps_sq=0.1"), Read(str)
]
GroupsOption = Annotated[int, Ge(0), Doc("Groups of the jackknife; 0 for no standard errors.")]

_MOST_ITEMS = 100  # longer sequences are recorded by length and type
_NAMES = ("spec", "label", "name", "__name__")  # attributes that name data and metrics, perturbations, sources, functions
_NOT_OF_THE_RESULT = ("progress", "executor", "workers")  # parameters that change no number


class Result(NamedTuple, Generic[A]):
    """The table of an analysis, and its artifacts: heads, networks, matrices.

    Attributes
    ----------
    table : Table
        All numbers.
    artifacts : mapping
        By layer, threshold or name; see the analysis.
    """

    table: Table
    artifacts: Mapping[Any, A]


def analysis(function: Callable[P, R]) -> Callable[P, R]:
    """Add provenance to what the function returns: a `Table`, a `Result`, or a dataclass with `provenance`."""
    signature = inspect.signature(function)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        result = function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return cast("R", _with_provenance(result, stamp(function.__name__, bound.arguments)))

    return run


def stamp(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance of a result, in JSON's types.

    Parameters
    ----------
    name : str
        Name of the analysis.
    parameters : mapping
        Value of every parameter.

    Returns
    -------
    dict
        `analysis`, `parameters`, `versions`, `time` (UTC), and `command` if the command line was used.
    """
    plain = {key: as_plain(value) for key, value in parameters.items() if key not in _NOT_OF_THE_RESULT}
    provenance = {
        "analysis": name,
        "parameters": plain,
        "versions": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return provenance | ({"command": line} if (line := command_line()) else {})


def as_plain(value: Any) -> Any:  # noqa: PLR0911  # one case per type
    """A parameter's value in JSON's types: sources and data by name, networks by type, arrays by type and shape."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Table():
            return {"runs": list(value.provenance)}
        case PathLike():
            return str(value)
        case _ if isinstance(getattr(value, "shape", None), tuple):
            return f"{type(value).__name__} of shape {tuple(value.shape)}"
        case Mapping():
            return {str(key): as_plain(item) for key, item in value.items()}
        case tuple() | list() | set() | frozenset():
            return _listed(list(value))
    for attribute in _NAMES:
        if isinstance(name := getattr(value, attribute, None), str):
            return name
    if isinstance(value, CaptureOptions) or (type(value).__module__.startswith("repanalysis") and is_dataclass(value)):
        return {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
    return type(value).__name__


def _listed(values: list[Any]) -> Any:
    """The items of a list; its length and types if it is long, or if its items have no names."""
    items = [as_plain(value) for value in values[:_MOST_ITEMS]]
    types = [type(value).__name__ for value in values]
    if len(values) <= _MOST_ITEMS and not any(item == name for item, name in zip(items, types, strict=True)):
        return items
    return f"{len(values)} of type {', '.join(sorted(set(types)))}"


def _with_provenance(result: Any, provenance: Mapping[str, Any]) -> Any:
    if isinstance(result, Result):
        return result._replace(table=_with_provenance(result.table, provenance))
    if isinstance(result, Table):
        runs = {run: {**own, **provenance} for run, own in result.provenance.items()}
        return replace(result, provenance=runs)
    return replace(result, provenance={**result.provenance, **provenance})

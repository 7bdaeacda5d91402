"""Options of a command from what the library declares: the documented parameters of a function, the fields of a dataclass.

A command writes `Annotated[Any, Options(function)]` for a parameter; it is replaced by an option for every parameter of
that function that has a `Doc`, with its type, bounds, default and help. The command receives their values as a dictionary
of keyword arguments, or as the dataclass. A function's or dataclass's `seed` and `progress` come from the common options.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
from annotated_doc import Doc
from annotated_types import Ge, Le

from repanalysis.specs import Names, Read

__all__ = ["Options", "option_of", "parameters_of", "regrouped"]

_SHORT = {"layers": "-l", "metrics": "-m", "perturb": "-p"}
_COMMON = ("seed", "progress")


@dataclass(frozen=True)
class Options:
    """In an annotation: the documented parameters of a function, or the fields of a dataclass, in place of one parameter.

    Parameters
    ----------
    declared : callable, dataclass or instance of one
        Declares the parameters; an instance also their defaults.
    only, without : iterable of str, optional
        Names of the parameters to include, or to exclude.
    """

    declared: Any
    only: Iterable[str] | None = None
    without: Iterable[str] = ()

    def members(self) -> dict[str, tuple[Any, Any]]:
        """Annotation and default of every documented parameter, by name."""
        documented = {}
        for name, (annotation, default) in _declared(self.declared).items():
            is_documented = any(isinstance(part, Doc) for part in get_args(annotation)[1:])
            if is_documented and name not in self.without and (self.only is None or name in self.only):
                documented[name] = annotation, default
        return documented

    def value(self, values: Mapping[str, Any], common: Mapping[str, Any]) -> Any:
        """Keyword arguments, or the dataclass, of the command line's values and the common options."""
        arguments = {}
        for name, (annotation, default) in self.members().items():
            read = next((part for part in get_args(annotation) if isinstance(part, Read)), None)
            word = values[name]
            if word is None or (isinstance(word, list) and not word):
                arguments[name] = default
            elif read is not None:
                arguments[name] = read.function(word)
            else:
                arguments[name] = tuple(word) if isinstance(word, list) else word
        names = _declared(self.declared)
        if self.only is None or is_dataclass(self.declared):
            arguments |= {name: common[name] for name in _COMMON if name in names}
        if not is_dataclass(self.declared):
            return arguments
        return self.declared(**arguments) if isinstance(self.declared, type) else replace(self.declared, **arguments)


def parameters_of(signature: inspect.Signature) -> list[inspect.Parameter]:
    """A command's parameters for typer, with `Options` replaced by its options."""
    parameters = []
    for parameter in signature.parameters.values():
        options = _options_in(parameter.annotation)
        if options is None:
            parameters.append(parameter)
            continue
        for name, (annotation, default) in options.members().items():
            if name not in signature.parameters and name not in {earlier.name for earlier in parameters}:
                parameters.append(option_of(name, annotation, default))
    return parameters


def regrouped(signature: inspect.Signature, values: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """A command's arguments from the values of the command line, with the options of each `Options` combined."""
    grouped = {name: _options_in(parameter.annotation) for name, parameter in signature.parameters.items()}
    return {
        name: values[name] if options is None else options.value(values, common)
        for name, options in grouped.items()
        if options is not None or name in values
    }


def option_of(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    """An option of the command line for a documented parameter."""
    kind, *parts = get_args(annotation)
    read = next((part for part in parts if isinstance(part, Read)), None)
    if read is not None:
        kind, *bounds = get_args(read.kind) if get_origin(read.kind) is Annotated else (read.kind,)
        parts += bounds
        default = None  # the default of the function
    words, several = _words_of(kind)
    flags = next((part.names for part in parts if isinstance(part, Names)), (f"--{name.replace('_', '-')}",))
    if words is bool and default is not False:
        flags = ()  # typer's pair, --name and --no-name
    info = typer.Option(
        *flags,
        *([_SHORT[name]] if name in _SHORT else []),
        help=next(part.documentation for part in parts if isinstance(part, Doc)),
        min=next((part.ge for part in parts if isinstance(part, Ge)), None),  # type: ignore[arg-type]
        max=next((part.le for part in parts if isinstance(part, Le)), None),  # type: ignore[arg-type]
    )
    words = list[words] if several else words  # type: ignore[valid-type]
    default = list(default) if several and default else default if not several else None
    annotation = Annotated[words if default is not None else words | None, info]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _words_of(kind: Any) -> tuple[Any, bool]:
    """The type of an option's value, and whether it is repeatable."""
    if get_origin(kind) in (Union, UnionType):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    if get_origin(kind) is Literal:
        return type(get_args(kind)[0]), False
    if get_origin(kind) in (list, tuple) or (get_origin(kind) is not None and issubclass(get_origin(kind), Iterable)):
        return get_args(kind)[0], True
    return kind if kind in (bool, int, float, str, Path) else str, False


def _options_in(annotation: Any) -> Options | None:
    if get_origin(annotation) is not Annotated:
        return None
    return next((part for part in get_args(annotation) if isinstance(part, Options)), None)


def _declared(declared: Any) -> dict[str, tuple[Any, Any]]:
    """Annotation and default of every field or parameter."""
    if is_dataclass(declared):
        kind = declared if isinstance(declared, type) else type(declared)
        hints = get_type_hints(kind, include_extras=True)
        defaults = {field.name: None if field.default is MISSING else field.default for field in fields(kind)}
        if kind is not declared:
            defaults = {name: getattr(declared, name) for name in defaults}
        return {name: (hints[name], default) for name, default in defaults.items()}
    function = inspect.unwrap(declared)
    hints = get_type_hints(function, include_extras=True)
    parameters = inspect.signature(function).parameters.values()
    empty = inspect.Parameter.empty
    return {p.name: (hints.get(p.name), None if p.default is empty else p.default) for p in parameters}

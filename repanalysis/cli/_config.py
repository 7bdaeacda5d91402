"""TOML files of options, checked against the types that the command declares."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer

from probes.errors import FormatError, UsageError
from repanalysis._checks import one_of
from repanalysis.inputs.toml_files import read_toml

__all__ = ["configured", "kind_of"]


def configured(ctx: typer.Context, path: Path | None) -> Path | None:
    """Read a command's defaults from a TOML file: top-level keys, or a table with the command's name."""
    if path is None:
        return None
    try:
        ctx.default_map = _defaults(ctx, path, read_toml(path))
    except (UsageError, FormatError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    return path


def _defaults(ctx: typer.Context, path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Values by parameter: top-level, of the command's group, of the command."""
    assert ctx.command.callback is not None
    parameters = inspect.signature(ctx.command.callback).parameters
    own = {name: parameter.annotation for name, parameter in parameters.items() if name != "config"}
    group: Any = ctx.find_root().command
    settings: dict[str, Any] = {}
    for name in ["", *ctx.command_path.split()[1:]]:
        content = content.get(name, {}) if name else content
        group = group.commands[name] if name else group
        verbs = getattr(group, "commands", {})
        for key, value in content.items():
            option = key.replace("-", "_")
            if isinstance(value, dict) and key in verbs:
                continue  # a table of another command, or of the next in this group
            if isinstance(value, dict) and option not in own:
                one_of(f"table in {path}", key, [*verbs] or [*own])
            one_of(f"key of {ctx.info_name} in {path}", option, [*own])
            settings[option] = _fitting(f"{key} in {path}", value, own[option])
    return settings


def _fitting(what: str, value: Any, annotation: Any) -> Any:
    """A value converted to an option's type: a boolean for a switch, a number for a number, a text or a number for a text."""
    kind, several = kind_of(annotation)
    if several:
        items = value if isinstance(value, list) else [value]
        return [_fitting(what, item, kind) for item in items]
    allowed, words = _ALLOWED[kind]
    if type(value) not in allowed or value == "":
        raise UsageError(f"{what} is {_shown(value)}; {words} is needed.")
    return value if kind in (bool, int) else float(value) if kind is float else str(value)


_ALLOWED: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    str: ((str, int, float), "a text"),
    Path: ((str,), "a path"),
}


def kind_of(annotation: Any) -> tuple[type, bool]:
    """The type of an option's values, and whether it is repeatable.

    Examples
    --------
    >>> kind_of(Annotated[list[str] | None, "help"]), kind_of(int)
    ((<class 'str'>, True), (<class 'int'>, False))
    """
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is list:
        return get_args(annotation)[0], True
    return annotation, False


def _shown(value: Any) -> str:
    """A value of a TOML file, for a message."""
    kinds = {list: "a list", dict: "a table", bool: str(value).lower()}
    return kinds.get(type(value)) or (repr(value) if isinstance(value, str) else str(value))

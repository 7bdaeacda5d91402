"""Commands by name, each imported when it is used; their one-line help is read from the source, without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
import typer.core
import typer.main

__all__ = ["COMMANDS", "LazyCommands", "summary_of"]

# Modules of this folder with commands, which are in the order of the help.
COMMANDS = {
    "demo": "demo:demo",
    "layers": "extraction:layers",
    "plan": "extraction:plan",
    "extract": "extraction:extract",
    "analyze": "analysis:analyze",
    "train": "training:train",
    "redunet": "redunet:redunet",
    "stability": "stability:stability",
    "filters": "filters:filters",
    "filter-energy": "stability:filter_energy",
    "study": "training:study",
    "plot": "analysis:plot",
    "compare": "analysis:compare",
    "merge": "files:merge",
    "info": "files:info",
    "verify": "files:verify",
    "doctor": "files:doctor",
}


class LazyCommands(MutableMapping[str, Any]):
    """Commands by name; a command is imported when it is looked up.

    Parameters
    ----------
    cls : type
        Class of the commands.
    """

    def __init__(self, cls: type[typer.core.TyperCommand]) -> None:
        self._cls = cls
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module, _, attribute = COMMANDS[name].partition(":")
            value = getattr(import_module(f"repanalysis.cli.{module}"), attribute)
            if isinstance(value, typer.Typer):
                self._made[name] = typer.main.get_command(value)
            else:
                single = typer.Typer(add_completion=False)
                single.command(name, cls=self._cls)(value)
                self._made[name] = typer.main.get_command(single)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]


def summary_of(name: str) -> str:
    """First line of a command's documentation.

    Examples
    --------
    >>> summary_of("merge")
    'Write the shards of one run to one file.'
    """
    module, _, attribute = COMMANDS[name].partition(":")
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == attribute:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return (ast.get_docstring(tree) or "").partition("\n")[0].partition(": ")[2].capitalize()

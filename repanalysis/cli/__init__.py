"""The command line: a thin layer over the library; options come from the library's signatures (`_declared`).

Every command takes --seed, --threads, --quiet, --json and --config, and ends with one of `EXIT_CODES`. A failure is one
sentence on stderr; with REPANALYSIS_TRACEBACK set, the traceback as well. A command's module is imported when the command is
used: the help of all commands loads none of them.
"""

from __future__ import annotations

from typing import Annotated

import typer

from probes.errors import EXIT_CODES
from repanalysis.cli._commands import Group

__all__ = ["app", "main"]

app = typer.Typer(
    name="repanalysis",
    cls=Group,
    help="What a network does to its data, layer by layer.",
    epilog="Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + ".",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(show: bool) -> None:
    if show:
        from importlib.metadata import version

        typer.echo(f"repanalysis {version('repanalysis')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """What a network does to its data, layer by layer."""


def main() -> None:
    """Run the command line."""
    app()

"""The command line: a thin layer over the library, and the only place where capture, store and engine meet.

Every verb takes --seed, --threads, --quiet, --json and --config, and ends with 0 (ok), 1 (failure), 2 (usage) or 3
(incomplete: a file that was not written to its end, or layers that could not be analyzed). A failure is one sentence on
stderr; with REPANALYSIS_TRACEBACK set, the traceback as well.
"""

from __future__ import annotations

from typing import Annotated

import typer

from repanalysis.cli.analysis import analyze, compare, plot
from repanalysis.cli.demo import demo
from repanalysis.cli.extraction import extract, layers, plan
from repanalysis.cli.files import doctor, info, merge, verify
from repanalysis.cli.filters import filters
from repanalysis.cli.stability import filter_energy, stability
from repanalysis.cli.training import study, train

__all__ = ["app", "main"]

app = typer.Typer(
    name="repanalysis",
    help="What a network does to its data, layer by layer.",
    no_args_is_help=True,
    epilog="Exit codes: 0 ok, 1 failure, 2 usage, 3 incomplete (a file cut off, or layers that could not be analyzed).",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"repanalysis {version('repanalysis')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """What a network does to its data, layer by layer."""


for _one in (demo, layers, plan, extract, analyze, train, stability):
    app.command()(_one)
app.add_typer(filters, name="filters")
for _one in (filter_energy, study, plot, compare, merge, info, verify, doctor):
    app.command()(_one)


def main() -> None:
    """Run the command line."""
    app()

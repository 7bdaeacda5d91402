"""What every command has: common options, one sentence per failure, an exit code, text or JSON."""

from __future__ import annotations

import inspect
import math
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from probes.errors import IncompleteError, LeftOutWarning, NonFiniteWarning
from probes.printable import as_json, printable
from repanalysis._checks import MOST_PROCESSES
from repanalysis.cli._config import configured
from repanalysis.cli._declared import parameters_of, regrouped
from repanalysis.cli._failures import complain, exit_code_of, notes_of, say, sentence_of
from repanalysis.cli._signals import stoppable
from repanalysis.plugins import load_plugin


@dataclass(frozen=True)
class Settings:
    """The common options."""

    seed: int
    threads: int | None
    quiet: bool
    json: bool

    @property
    def progress(self) -> bool | None:
        """Whether to show progress bars; None: on a terminal only."""
        return False if self.quiet or self.json else None


@dataclass(frozen=True)
class CommandResult:
    """A command's result: text, data for --json, and a sentence on missing layers (exit code 3)."""

    text: str
    data: Any
    incomplete: str = ""


_COMMON: dict[str, Any] = {
    "seed": Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything that is drawn at random.")],
    "threads": Annotated[
        int | None, typer.Option(min=1, max=MOST_PROCESSES, help="Threads to compute with; default all cores.")
    ],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")],
    "as_json": Annotated[bool, typer.Option("--json", help="Print the result as JSON.")],
    "plugin": Annotated[
        list[Path] | None, typer.Option(help="Python file with metrics or perturbations of your own; repeat it.")
    ],
    "config": Annotated[
        Path | None, typer.Option(callback=configured, is_eager=True, help="TOML file with options of this command.")
    ],
}


_DEFAULTS = {"seed": 0, "threads": None, "quiet": False, "as_json": False, "plugin": None, "config": None}


def command(function: Callable[..., CommandResult]) -> Callable[..., None]:
    """Convert a function to a command with declared and common options; failures become a sentence and an exit code."""
    whole = inspect.signature(function, eval_str=True)
    signature = whole.replace(parameters=[p for p in whole.parameters.values() if p.name != "settings"])
    keyword = inspect.Parameter.KEYWORD_ONLY
    common = [
        inspect.Parameter(name, keyword, default=_DEFAULTS[name], annotation=annotation) for name, annotation in _COMMON.items()
    ]

    @wraps(function)
    def run(**values: Any) -> None:
        settings = Settings(*(values.pop(name) for name in ("seed", "threads", "quiet", "as_json")))
        plugins = values.pop("plugin")
        values.pop("config")
        with stoppable() as stop:
            try:
                with _threads(settings.threads), warnings.catch_warnings():
                    warnings.showwarning = _print_warning
                    for category in (LeftOutWarning, NonFiniteWarning):  # commands report these warnings
                        warnings.simplefilter("ignore", category)
                    for path in plugins or ():
                        load_plugin(path)
                    arguments = regrouped(signature, values, {"seed": settings.seed, "progress": settings.progress})
                    result = function(settings=settings, **arguments)
            except (Exception, KeyboardInterrupt) as error:
                if os.environ.get("REPANALYSIS_TRACEBACK"):
                    traceback.print_exc()
                if stop.signal is not None or isinstance(error, KeyboardInterrupt):
                    stop.report(notes_of(error))
                    raise typer.Exit(stop.exit_code) from None
                complain(sentence_of(error, output=values.get("output")))
                raise typer.Exit(exit_code_of(error)) from None
        if settings.json or not settings.quiet:
            say(as_json(as_plain_json(result.data)) if settings.json else printable(result.text, lines=True))
        if result.incomplete:
            complain(result.incomplete)
            raise typer.Exit(IncompleteError.exit_code)

    parameters = [parameter.replace(kind=keyword) for parameter in parameters_of(signature)] + common
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by typer
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _print_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as a sentence, without the line of code."""
    typer.echo(f"Warning: {printable(str(message).partition(chr(10))[0])}", err=True)


def _threads(threads: int | None) -> ExitStack:
    """Limit the threads of BLAS, OpenMP and torch."""
    stack = ExitStack()
    if threads is not None:
        from threadpoolctl import threadpool_limits

        stack.enter_context(threadpool_limits(threads))
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    return stack


def as_plain_json(value: Any) -> Any:
    """Values of JSON: NaN becomes null, infinities become strings."""
    if isinstance(value, dict):
        return {str(key): as_plain_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)

"""What every verb of the command line has: common options, one sentence per failure, an exit code, text or JSON."""

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
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probes.errors import IncompleteError, LeftOutWarning, NonFiniteWarning
from probes.printable import as_json, printable
from repanalysis.cli._choices import MOST_PROCESSES
from repanalysis.cli._config import configured
from repanalysis.cli._failures import complain, exit_code_of, notes_of, say, sentence_of
from repanalysis.cli._signals import stoppable

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Settings:
    """What every verb is told."""

    seed: int
    threads: int | None
    quiet: bool
    json: bool

    @property
    def progress(self) -> bool | None:
        """None: on a terminal only."""
        return False if self.quiet or self.json else None


@dataclass(frozen=True)
class Said:
    """What a verb has to say: lines for people, data for programs; and, in a sentence, what is missing (exit code 3)."""

    text: str
    data: Any
    incomplete: str = ""


_COMMON: dict[str, Any] = {
    "seed": Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything that is drawn at random.")],
    "threads": Annotated[
        int | None, typer.Option(min=1, max=MOST_PROCESSES, help="Threads to compute with; default all cores.")
    ],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")],
    "as_json": Annotated[bool, typer.Option("--json", help="Print the result as JSON.")],
    "config": Annotated[
        Path | None, typer.Option(callback=configured, is_eager=True, help="TOML file with options of this verb.")
    ],
}


_DEFAULTS = {"seed": 0, "threads": None, "quiet": False, "as_json": False, "config": None}


def verb(function: Callable[..., Said]) -> Callable[..., None]:
    """Make a verb of a function: add the common options, and turn every failure into a sentence and an exit code."""
    signature = inspect.signature(function, eval_str=True)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "settings"]
    keyword = inspect.Parameter.KEYWORD_ONLY
    common = [
        inspect.Parameter(name, keyword, default=_DEFAULTS[name], annotation=annotation) for name, annotation in _COMMON.items()
    ]

    @wraps(function)
    def run(**values: Any) -> None:
        given = {name: values.pop(name) for name in _COMMON}
        settings = Settings(given["seed"], given["threads"], given["quiet"], given["as_json"])
        with stoppable() as stop:
            try:
                with _threads(settings.threads), warnings.catch_warnings():
                    warnings.showwarning = _warned
                    for told in (LeftOutWarning, NonFiniteWarning):  # the verbs tell this themselves
                        warnings.simplefilter("ignore", told)
                    said = function(settings=settings, **values)
            except (Exception, KeyboardInterrupt) as error:
                if os.environ.get("REPANALYSIS_TRACEBACK"):
                    traceback.print_exc()
                if stop.signal is not None or isinstance(error, KeyboardInterrupt):
                    stop.report(notes_of(error))
                    raise typer.Exit(stop.exit_code) from None
                complain(sentence_of(error, output=values.get("output")))
                raise typer.Exit(exit_code_of(error)) from None
        if settings.json or not settings.quiet:
            say(as_json(plain(said.data)) if settings.json else printable(said.text, lines=True))
        if said.incomplete:
            complain(said.incomplete)
            raise typer.Exit(IncompleteError.exit_code)

    parameters = [parameter.replace(kind=keyword) for parameter in own] + common
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a sentence, without the line of code that it came from."""
    typer.echo(f"Warning: {printable(str(message).partition(chr(10))[0])}", err=True)


def _threads(threads: int | None) -> ExitStack:
    """Limit BLAS, OpenMP and torch to so many threads."""
    stack = ExitStack()
    if threads is not None:
        from threadpoolctl import threadpool_limits

        stack.enter_context(threadpool_limits(threads))
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
    return stack


def plain(value: Any) -> Any:
    """What JSON can hold: NaN and infinities become null and strings."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)

"""What every verb of the command line has: common options, one sentence per failure, an exit code, text or JSON."""

from __future__ import annotations

import inspect
import json
import math
import os
import sys
import tomllib
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probes.errors import IncompleteError, LeftOutWarning, NonFiniteWarning, ReportedError, UsageError
from repanalysis._checks import one_of

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


def _configured(ctx: typer.Context, path: Path | None) -> Path | None:
    """Take a verb's defaults from a TOML file: keys at its top, or in a table with the verb's name."""
    if path is None:
        return None
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise typer.BadParameter(f"There is no file {path}.") from None
    except tomllib.TOMLDecodeError as error:
        raise typer.BadParameter(f"{path} is no TOML file: {error}.") from None
    settings: dict[str, Any] = {}
    for name in ["", *ctx.command_path.split()[1:]]:  # of all verbs, of the verb, of its own verb
        content = content.get(name, {}) if name else content
        settings |= {key.replace("-", "_"): value for key, value in content.items() if not isinstance(value, dict)}
    known = [parameter.name or "" for parameter in ctx.command.params]
    try:
        for key in settings:
            one_of(f"key of {ctx.info_name} in {path}", key, known)
    except UsageError as error:
        raise typer.BadParameter(str(error)) from None
    ctx.default_map = settings
    return path


_COMMON: dict[str, Any] = {
    "seed": Annotated[int, typer.Option(help="Seed of everything that is drawn at random.")],
    "threads": Annotated[int | None, typer.Option(min=1, help="Threads to compute with; default all cores.")],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")],
    "as_json": Annotated[bool, typer.Option("--json", help="Print the result as JSON.")],
    "config": Annotated[
        Path | None, typer.Option(callback=_configured, is_eager=True, help="TOML file with options of this verb.")
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
        try:
            with _threads(settings.threads), warnings.catch_warnings():
                warnings.showwarning = _warned
                for told in (LeftOutWarning, NonFiniteWarning):  # the verbs tell this themselves
                    warnings.simplefilter("ignore", told)
                said = function(settings=settings, **values)
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get("REPANALYSIS_TRACEBACK"):
                traceback.print_exc()
            typer.echo(f"Error: {_sentence(error)}", err=True)
            code = 2 if isinstance(error, FileNotFoundError) else getattr(error, "exit_code", 1)
            raise typer.Exit(code) from None
        if settings.json:
            typer.echo(json.dumps(plain(said.data), ensure_ascii=False, indent=1))
        elif not settings.quiet:
            typer.echo(said.text)
        if said.incomplete:
            typer.echo(f"Error: {said.incomplete}", err=True)
            raise typer.Exit(IncompleteError.exit_code)

    parameters = [parameter.replace(kind=keyword) for parameter in own] + common
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _warned(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a sentence, without the line of code that it came from."""
    typer.echo(f"Warning: {str(message).partition(chr(10))[0]}", err=True)


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


def _sentence(error: BaseException) -> str:
    """One line: the message, the kind of error where the message was not written for users, and the notes."""
    first = str(error).strip().partition("\n")[0]
    plain = isinstance(error, ReportedError | FileNotFoundError)
    stopped = isinstance(error, KeyboardInterrupt)
    text = "Stopped." if stopped else first if plain else f"{type(error).__name__}: {first}"
    return " ".join([text, *(f"({note})" for note in getattr(error, "__notes__", ()))])


def plain(value: Any) -> Any:
    """What JSON can hold: NaN and infinities become null and strings."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)

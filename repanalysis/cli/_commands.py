"""Parsing of the command line: invalid values are refused for all options, and every error is one sentence.

A repeated option, a number that is not finite or beyond 32 bits, an empty text, a path of a pipe or a device are refused here
for all options. Types and bounds are those that each option declares.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer
import typer.core

from probes.printable import printable
from repanalysis.cli._failures import complain, exit_code_of, flush, lost_output, sentence_of
from repanalysis.cli._lazy import LazyCommands, summary_of
from repanalysis.cli._signals import stoppable

__all__ = ["Command", "Group"]

_LARGEST = 2**32 - 1
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]  # click's, which is part of typer since 0.26


class Command(typer.core.TyperCommand):
    """A command with checked options."""

    def make_parser(self, ctx: Any) -> Any:
        """The parser, which refuses repeated options."""
        parser: Any = super().make_parser(ctx)
        parse = parser.parse_args

        def parse_args(args: list[str]) -> Any:
            values, rest, order = parse(args)
            for parameter in order:
                single = not (parameter.multiple or getattr(parameter, "is_flag", False) or parameter.nargs == -1)
                if single and sum(other is parameter for other in order) > 1:
                    raise typer.BadParameter("it is given twice; give it once.", ctx=ctx, param=parameter)
            return values, rest, order

        parser.parse_args = parse_args
        return parser

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments after the options."""
        rest = super().parse_args(ctx, args)
        parameter: Any
        for parameter in self.params:
            for value in _each(ctx.params.get(parameter.name)):
                if reason := _refusal(value):
                    raise typer.BadParameter(reason, ctx=ctx, param=parameter)
        return rest


class Group(typer.core.TyperGroup):
    """All commands; errors before a command runs are one sentence, too."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = LazyCommands(Command)
        self._lists = False

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Names of all commands."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command; for the list of commands, one with only its summary."""
        if self._lists:
            return Command(cmd_name, help=summary_of(cmd_name))
        return super().get_command(ctx, cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help without importing commands."""
        self._lists = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._lists = False

    def main(
        self, args: Sequence[str] | None = None, *words: Any, standalone_mode: bool = True, **options: Any
    ) -> Any:  # names of click's arguments
        """Run the command line."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError):  # characters that the encoding lacks are escaped
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        with stoppable() as stop:
            try:
                code = super().main(args, *words, **options | {"standalone_mode": False})
                flush()
            except _ClickError as error:
                code = _usage(error)
            except BrokenPipeError as error:
                code = lost_output(error)
            except OSError as error:
                code = lost_output(error) if error.filename is None else exit_code_of(error)
                if error.filename is not None:
                    complain(sentence_of(error))
            except KeyboardInterrupt:
                code = stop.exit_code
            if stop.signal is not None and not stop.reported:  # before or after the command
                stop.report()
                code = stop.exit_code
        if standalone_mode:
            sys.exit(code or 0)
        return code

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments of the command."""
        if any(word == "" or (word.startswith("--") and word.endswith("=")) for word in args):
            ctx.fail("An argument is empty; leave it out, or see whether a variable of the shell is not set.")
        return super().parse_args(ctx, args)


def _usage(error: Any) -> int:
    """Print a usage error, on one line."""
    if type(error).__name__ == "NoArgsIsHelpError":
        if error.format_message():
            error.show()
        return int(error.exit_code)
    context = getattr(error, "ctx", None)
    more = f" See {context.command_path} --help." if context is not None else ""
    message = " ".join(str(error.format_message()).split())
    complain(printable(f"{message}{'' if message.endswith(('.', '?', ')')) else '.'}{more}"))
    return int(error.exit_code)


def _each(value: Any) -> Iterator[Any]:
    if isinstance(value, list | tuple):
        yield from value
    else:
        yield value


def _refusal(value: Any) -> str:
    """The reason why a value is refused for any option; else empty."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number."
    if isinstance(value, int) and abs(value) > _LARGEST:
        return f"{value} is beyond {_LARGEST}."
    if isinstance(value, str | Path) and "\0" in str(value):
        return f"{str(value)!r} holds a null character."
    if value == "":
        return "it is empty; leave it out."
    if isinstance(value, Path):
        with suppress(OSError):
            if value.exists() and not (value.is_file() or value.is_dir()):
                return f"{value} is a pipe or a device; a file or a folder is needed."
    return ""

"""Reports of failures: one sentence without control characters, and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

import typer

from probes.errors import EXIT_CODES, ReportedError
from probes.printable import printable

__all__ = ["complain", "exit_code_of", "notes_of", "say", "sentence_of"]

_ADVICE = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "a part of the path is not a folder",
    errno.EISDIR: "it is a folder",
    errno.EMFILE: "too many open files; raise the limit with ulimit -n",
}
_MEMORY = ("not enough memory", "out of memory", "unable to allocate", "cannot allocate memory")


def sentence_of(error: BaseException, *, output: object = None) -> str:
    """One line: the message, the type of error if the message is not one of ours, and the notes.

    Parameters
    ----------
    error : BaseException
        The failure.
    output : path-like, optional
        The output file, for errors of the system that name no file.
    """
    return " ".join([printable(_message(error, output)), *notes_of(error)])


def notes_of(error: BaseException) -> list[str]:
    """The notes of an exception."""
    return [f"({printable(note)})" for note in getattr(error, "__notes__", ())]


def _message(error: BaseException, output: object) -> str:
    first = str(error).strip().partition("\n")[0]
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error, output)
    if isinstance(error, ReportedError | FileNotFoundError):
        return str(error).strip()  # a line feed can only be part of a name
    if isinstance(error, MemoryError) or any(words in first.lower() for words in _MEMORY):
        more = f" ({first})" if first else ""
        return f"The memory does not suffice{more}; try a smaller --batch-size, a coarser --pool, fewer layers or a --limit."
    return f"{type(error).__name__}: {first}" if first else f"{type(error).__name__}."


def _of_system(error: OSError, output: object) -> str:
    """A failure of the operating system: the file and the reason."""
    if isinstance(error, ReportedError):
        return str(error).strip()
    name = error.filename if error.filename is not None else output
    name = os.fsdecode(name) if isinstance(name, bytes) else name
    if error.errno == errno.ENOENT and name is not None:
        return f"There is no file {name}."
    reason = _ADVICE.get(error.errno or 0) or os.strerror(error.errno or 0)
    return f"{reason[0].upper()}{reason[1:]}." if name is None else f"{name}: {reason}."


def exit_code_of(error: BaseException) -> int:
    """The exit code of a failure, one of `EXIT_CODES`."""
    if isinstance(error, FileNotFoundError):
        return 2
    code = getattr(error, "exit_code", 1)
    return code if code in EXIT_CODES else 1


def complain(sentence: str) -> None:
    """Print a failure's sentence."""
    with suppress(OSError):  # stderr is closed: nothing to report
        typer.echo(f"Error: {sentence}", err=True)


def say(text: str) -> None:
    """Print a result, now.

    Raises
    ------
    typer.Exit
        Silently if the reader has closed the pipe, as `head` does; with a sentence if the output can't be written.
    """
    try:
        typer.echo(text)
        flush()
    except OSError as error:
        raise typer.Exit(lost_output(error)) from None


def flush() -> None:
    """Flush stdout."""
    if sys.stdout is not None:
        sys.stdout.flush()


def lost_output(error: OSError) -> int:
    """The exit code if stdout can't be written; its buffer is discarded, also when Python exits."""
    with suppress(OSError, ValueError, AttributeError), Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return 141
    complain(f"The output can't be written: {_ADVICE.get(error.errno or 0) or error.strerror}.")
    return 1

"""Errors that a user can correct, each one sentence, with the exit code of the command line.

Every class is also a subclass of a standard exception, such as `ValueError` or `OSError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "EXIT_CODES",
    "ArrivalOrderWarning",
    "DataError",
    "FormatError",
    "IgnoredWarning",
    "IncompleteError",
    "LeftOutWarning",
    "NonFiniteWarning",
    "ReportedError",
    "UsageError",
    "did_you_mean",
    "reason_of",
]

EXIT_CODES = {
    0: "ok",
    1: "failure",
    2: "usage: an option, a name or a path that does not fit",
    3: "incomplete: a file that was not written to its end, or layers that could not be analyzed",
    130: "stopped by Ctrl-C",
    141: "the reader of the output went away",
    143: "stopped by SIGTERM",
}  # all exit codes of the command line


class ReportedError(Exception):
    """An error whose message is sufficient for the user; `exit_code` is that of the command line.

    0 is success, 1 a failure, 2 invalid arguments, 3 an incomplete result: an incomplete file, or layers that could not be
    analyzed, whose values are NaN with the reason in their note.

    Examples
    --------
    >>> IncompleteError.exit_code, UsageError.exit_code, DataError.exit_code
    (3, 2, 1)
    """

    exit_code = 1


class UsageError(ReportedError, ValueError):
    """Invalid arguments: an unknown name or pattern, an invalid option, an existing path."""

    exit_code = 2


class DataError(ReportedError, ValueError):
    """The data are insufficient: missing labels, a single class, NaN or inf in a layer."""


class FormatError(ReportedError, OSError):
    """The file is not an activations file, is damaged, or has contents that are refused for safety."""


class IncompleteError(FormatError):
    """The file is incomplete; committed rows are intact."""

    exit_code = 3


class LeftOutWarning(UserWarning):
    """Some layers can't be recorded, read or analyzed; the message has their names and the reason."""


class IgnoredWarning(UserWarning):
    """A part of a loader's items is ignored; the message has the reason."""


class ArrivalOrderWarning(UserWarning):
    """Samples are identified only by their order of arrival; the message has the reason and the consequence."""


class NonFiniteWarning(UserWarning):
    """NaN or infinite values were recorded; the message names the layers."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """Part of a sentence that proposes the closest option; empty if none is close.

    Parameters
    ----------
    word : str
        The user's input.
    options : iterable of str
        Accepted values.

    Returns
    -------
    str
        `" Did you mean 'x'?"` with its leading space, or `""`.

    Examples
    --------
    >>> did_you_mean("fischer_ratio", ["fisher_ratio", "coding_rate"])
    " Did you mean 'fisher_ratio'?"
    >>> did_you_mean("zzz", ["fisher_ratio"])
    ''
    """
    close = difflib.get_close_matches(word, list(options), n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


def reason_of(error: BaseException) -> str:
    """The reason of an error, for a note: the first line of the message, with the type of error if it is not one of ours.

    Examples
    --------
    >>> reason_of(DataError("Layer 'a' holds nan.")), reason_of(KeyError("x"))
    ("Layer 'a' holds nan", "KeyError: 'x'")
    """
    message = str(error).strip().partition("\n")[0].rstrip(".")
    return message if isinstance(error, ReportedError) else f"{type(error).__name__}: {message}".removesuffix(": ")

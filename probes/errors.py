"""The failures a user can mend, each one clear sentence, and the exit code that the command line gives it.

Every class below also is a standard exception, so that library users catch `ValueError` or `OSError` as usual.
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
}  # of the command line, all that there are


class ReportedError(Exception):
    """A failure whose message alone tells the user what to do; `exit_code` is the command line's.

    0 is success, 1 a failure, 2 a mistake in what was asked for, 3 an incomplete result: a file that was not written to its
    end, or layers that could not be analyzed, whose values are NaN with the reason in their note.

    Examples
    --------
    >>> IncompleteError.exit_code, UsageError.exit_code, DataError.exit_code
    (3, 2, 1)
    """

    exit_code = 1


class UsageError(ReportedError, ValueError):
    """What was asked for does not exist or does not fit: a name, a pattern, an option, a path in the way."""

    exit_code = 2


class DataError(ReportedError, ValueError):
    """The data can't give what was asked: labels missing, one class only, NaN or inf in a layer."""


class FormatError(ReportedError, OSError):
    """The file is not an activations file, is damaged, or holds what a trustworthy file never holds."""


class IncompleteError(FormatError):
    """The file was not written to its end; what was committed is whole."""

    exit_code = 3


class LeftOutWarning(UserWarning):
    """Some layers can't be recorded, read or analyzed; the message names them and says why."""


class IgnoredWarning(UserWarning):
    """Something that a loader gives is not read; the message says what, and why."""


class ArrivalOrderWarning(UserWarning):
    """Samples are known by the order in which they came alone; the message says why, and what that means."""


class NonFiniteWarning(UserWarning):
    """NaN or infinite values were recorded; the message names the layers."""


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The half sentence that proposes the closest option, empty where nothing is close.

    Parameters
    ----------
    word : str
        What the user typed.
    options : iterable of str
        What would have been accepted.

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
    """Why something failed, for a note: the first line of the message, with the kind of error where it is none of ours.

    Examples
    --------
    >>> reason_of(DataError("Layer 'a' holds nan.")), reason_of(KeyError("x"))
    ("Layer 'a' holds nan", "KeyError: 'x'")
    """
    message = str(error).strip().partition("\n")[0].rstrip(".")
    return message if isinstance(error, ReportedError) else f"{type(error).__name__}: {message}".removesuffix(": ")

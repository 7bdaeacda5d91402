"""Checks of arguments and options, with one-sentence errors."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from probes.errors import UsageError, did_you_mean

__all__ = ["MOST_PROCESSES", "affordable", "not_negative", "one_of", "positive", "writable"]

MOST_PROCESSES = max(64, 4 * (os.cpu_count() or 1))  # also of threads; some libraries crash with many more
SYNTHETIC_BYTES = 4 << 30  # limit on the memory of synthetic data


def one_of(what: str, value: str, options: Collection[str]) -> str:
    """`value`, if it is one of `options`.

    Parameters
    ----------
    what : str
        Name of the argument, for the message.
    value : str
        Value of the argument.
    options : collection of str
        Allowed values.

    Raises
    ------
    UsageError
        If it is not; the message proposes the closest option.

    Examples
    --------
    >>> one_of("metric", "fischer_ratio", ["fisher_ratio", "coding_rate"])
    Traceback (most recent call last):
    ...
    probes.errors.UsageError: Unknown metric 'fischer_ratio'. Did you mean 'fisher_ratio'? Known are fisher_ratio, coding_rate.
    """
    if value not in options:
        raise UsageError(f"Unknown {what} {value!r}.{did_you_mean(str(value), options)} Known are {', '.join(options)}.")
    return value


def positive(what: str, value: float) -> float:
    """`value`, if it is a finite number above zero.

    Raises
    ------
    UsageError
        If it is not.

    Examples
    --------
    >>> positive("eps_sq", 0.5)
    0.5
    """
    if not (isinstance(value, int | float) and 0 < value < float("inf")):
        raise UsageError(f"{what} is {value!r}; it must be a finite number above 0.")
    return float(value)


def not_negative(what: str, value: float) -> float:
    """`value`, if it is a finite number, 0 or above.

    Raises
    ------
    UsageError
        If it is not.

    Examples
    --------
    >>> not_negative("ridge", 0)
    0.0
    """
    if not (isinstance(value, int | float) and 0 <= value < float("inf")):
        raise UsageError(f"{what} is {value!r}; it must be a finite number, 0 or above.")
    return float(value)


def writable(path: Path, *, folder: bool = False) -> Path:
    """`path`, if a file or folder can be written there now; checked before the computation.

    An unnamed file is created in the folder, or in the nearest existing one, since permissions are not enough: the file system
    may be read-only, out of inodes, or without support for files.

    Raises
    ------
    UsageError
        With the reason, or if the file's format needs a package that is not installed.

    Examples
    --------
    >>> writable(Path("/dev/null/results.csv"))
    Traceback (most recent call last):
    ...
    probes.errors.UsageError: /dev/null/results.csv can't be written: /dev/null is not a folder.
    """
    try:
        os.lstat(path)  # a name that is too long is refused even if the file does not exist
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno != errno.ENOTDIR:
            raise UsageError(f"{path} can't be written: {os.strerror(error.errno or 0)}.") from error
    place = path if folder or path.is_dir() else path.parent
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UsageError(f"{path} can't be written: {place} is not a folder.")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UsageError(f"{path} can't be written: {os.strerror(error.errno or 0)} in {place}.") from error
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise UsageError(f"{path} needs pyarrow: pip install 'repanalysis[parquet]', or write a .csv.")
    return path


def affordable(what: str, size: int) -> None:
    """Raise UsageError for synthetic data that would need more than 4 GiB of memory.

    Raises
    ------
    UsageError
        With the size.

    Examples
    --------
    >>> affordable("d=100000", 8 * 10**10)
    Traceback (most recent call last):
    ...
    probes.errors.UsageError: d=100000 would take 74.5 GiB of memory; at most 4 GiB are given to data that are made.
    """
    if size > SYNTHETIC_BYTES:
        most = SYNTHETIC_BYTES >> 30
        raise UsageError(
            f"{what} would take {min(size, 10**300) / 2**30:.3g} GiB of memory; at most {most} GiB are given to data that "
            f"are made."
        )

"""Checks of what a user typed, and their sentences."""

from __future__ import annotations

from collections.abc import Collection

from probes.errors import UsageError, did_you_mean

__all__ = ["not_negative", "one_of", "positive"]


def one_of(what: str, value: str, options: Collection[str]) -> str:
    """`value`, if it is one of `options`.

    Parameters
    ----------
    what : str
        What the value is, as the sentence begins.
    value : str
        What came.
    options : collection of str
        What is allowed.

    Raises
    ------
    UsageError
        With the closest option.

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

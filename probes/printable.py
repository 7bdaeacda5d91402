r"""Names as a terminal, a log or a figure can show them: characters that would act are written as escapes.

A layer, a class or a file may be called anything, also by whoever sent the file. `\x1b[2J` clears a terminal, a carriage
return hides what stands before it, U+202E reverses what follows, a lone surrogate (a file name that is no UTF-8) can't be
encoded at all. Such characters are those of Unicode's categories Cc, Cf, Cs, Zl and Zp. They are escaped where text leaves
the program, and nowhere else: files and tables hold names as they are.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

__all__ = ["as_json", "as_label", "printable"]

_ACTING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_SUSPECT = re.compile(r"[^\x20-\x7e]")


def printable(value: object, *, lines: bool = False) -> str:
    r"""A text in which nothing acts on whatever shows it.

    Parameters
    ----------
    value : object
        A text, or what `str` makes one of.
    lines : bool, default False
        Whether line feeds stay, as in a text of several lines.

    Returns
    -------
    str
        The text with control, format and surrogate characters as `\x1b`, `\u202e` or `\U000e0001`.

    Examples
    --------
    >>> printable("conv\x1b[31m1\n"), printable("gar\u00e7on 図")
    ('conv\\x1b[31m1\\n', 'garçon 図')
    """
    return _SUSPECT.sub(lambda match: match[0] if lines and match[0] == "\n" else _escaped(match[0]), str(value))


def as_label(value: object) -> str:
    r"""A name as matplotlib shows it: printable, and never read as mathematics or as a hint.

    matplotlib reads text between dollar signs as TeX, which fails on most names, and leaves labels that begin with an
    underscore out of legends.

    Examples
    --------
    >>> as_label(r"$\frac{$"), as_label("_private")
    ('\\$\\frac{\\$', ' _private')
    """
    text = printable(value).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def as_json(value: Any) -> str:
    r"""JSON of several lines, in which nothing acts either: `json.dumps` leaves U+009B, U+202E and surrogates as they are.

    Examples
    --------
    >>> as_json("é\x9b\udcff")
    '"é\\u009b\\udcff"'
    """

    def escaped(match: re.Match[str]) -> str:
        acts = match[0] != "\n" and unicodedata.category(match[0]) in _ACTING
        return json.dumps(match[0])[1:-1] if acts else match[0]

    return _SUSPECT.sub(escaped, json.dumps(value, ensure_ascii=False, indent=1))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _ACTING:
        return character
    return character.encode("unicode_escape").decode("ascii")

r"""Names for terminals, logs and figures: control characters are escaped.

The name of a layer, class or file may be arbitrary, and chosen by the sender of a file. `\x1b[2J` clears a terminal, a carriage
return hides the text before it, U+202E reverses the text after it, and a lone surrogate (a file name that is not UTF-8) can't
be encoded. Such characters are those of Unicode's categories Cc, Cf, Cs, Zl and Zp. They are escaped only where text leaves the
program; files and tables have names unchanged.
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
    r"""A text without characters that control a terminal.

    Parameters
    ----------
    value : object
        A text, or an object that `str` converts.
    lines : bool, default False
        Whether line feeds are kept, for a text of several lines.

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
    r"""A name for matplotlib: printable, and not interpreted as mathematics.

    matplotlib interprets text between dollar signs as TeX, which fails for most names, and omits labels that begin with an
    underscore from legends.

    Examples
    --------
    >>> as_label(r"$\frac{$"), as_label("_private")
    ('\\$\\frac{\\$', ' _private')
    """
    text = printable(value).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def as_json(value: Any) -> str:
    r"""Indented JSON without control characters: `json.dumps` does not escape U+009B, U+202E and surrogates.

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

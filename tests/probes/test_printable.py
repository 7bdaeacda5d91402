"""Names as a terminal can show them."""

from __future__ import annotations

import json
import sys
import unicodedata

import pytest

from probes.printable import as_json, printable

ACTING = ("Cc", "Cf", "Cs", "Zl", "Zp")
EVERY = [chr(code) for code in range(sys.maxunicode + 1)]
HARMFUL = [character for character in EVERY if unicodedata.category(character) in ACTING]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("conv1", "conv1"),
        ("garçon 図 $x_1$ \\", "garçon 図 $x_1$ \\"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\rb\tc", r"a\rb\tc"),
        ("\x9b31m", r"\x9b31m"),  # the same as ESC [ in a terminal of 8 bits
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("\u2028\u2029\ufeff\u200d", r"\u2028\u2029\ufeff\u200d"),
        ("\udcff.png", r"\udcff.png"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_acts_is_escaped_and_everything_else_stays(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_law_nothing_that_acts_is_left_of_all_of_unicode() -> None:
    shown = printable("".join(EVERY))
    assert not set(shown) & set(HARMFUL)
    assert set(EVERY) - set(HARMFUL) <= set(shown)
    assert printable(shown) == shown
    shown.encode()


def test_line_feeds_stay_where_a_text_has_several_lines() -> None:
    assert printable("a\nb\r", lines=True) == "a\nb\\r"
    assert printable("a\nb") == r"a\nb"


def test_json_says_the_same_and_nothing_in_it_acts() -> None:
    value = {"layers": ["a\x1b\n", "\x7f\x9b\u202e\udcff\U000e0041é"], "n": 3}
    text = as_json(value)
    assert json.loads(text) == value
    assert not set(text) & (set(HARMFUL) - {"\n"})
    assert "é" in text
    text.encode()

"""Names escaped for display in a terminal."""

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
    ("text", "expected"),
    [
        ("conv1", "conv1"),
        ("garçon 図 $x_1$ \\", "garçon 図 $x_1$ \\"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\rb\tc", r"a\rb\tc"),
        ("\x9b31m", r"\x9b31m"),  # the same as ESC [ in an 8-bit terminal
        ("gnp.\u202eexe", r"gnp.\u202eexe"),
        ("\u2028\u2029\ufeff\u200d", r"\u2028\u2029\ufeff\u200d"),
        ("\udcff.png", r"\udcff.png"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_control_characters_are_escaped_and_others_unchanged(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_no_control_character_of_unicode_remains() -> None:
    escaped = printable("".join(EVERY))
    assert not set(escaped) & set(HARMFUL)
    assert set(EVERY) - set(HARMFUL) <= set(escaped)
    assert printable(escaped) == escaped
    escaped.encode()


def test_line_feeds_are_kept_in_texts_of_several_lines() -> None:
    assert printable("a\nb\r", lines=True) == "a\nb\\r"
    assert printable("a\nb") == r"a\nb"


def test_json_is_equivalent_and_has_no_control_characters() -> None:
    value = {"layers": ["a\x1b\n", "\x7f\x9b\u202e\udcff\U000e0041é"], "n": 3}
    text = as_json(value)
    assert json.loads(text) == value
    assert not set(text) & (set(HARMFUL) - {"\n"})
    assert "é" in text
    text.encode()

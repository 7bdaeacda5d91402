"""TOML files, and one-sentence errors for invalid files."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.errors import FormatError
from repanalysis.inputs.toml_files import read_toml


def test_files_are_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        (tmp_path / "a.toml").write_bytes(mark + 'a = "ä"\n[b]\nc = [1]\n'.encode())
        assert read_toml(tmp_path / "a.toml") == {"a": "ä", "b": {"c": [1]}}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"a = ", "is no TOML file"), (b"a = '\xff'", "byte 5 is no UTF-8"), (b"a = " + b"[" * 100_000, "is no TOML file")],
)
def test_invalid_toml_has_a_one_sentence_error(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(FormatError, match=sentence):
        read_toml(tmp_path / "a.toml")


def test_a_missing_file_has_a_one_sentence_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no file .*a\.toml\."):
        read_toml(tmp_path / "a.toml")
    with pytest.raises(FormatError, match="not a plain file"):
        read_toml(tmp_path)

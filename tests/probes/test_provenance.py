"""The command is stated only where there was one, and versions are those that are installed."""

from __future__ import annotations

import sys
from importlib.metadata import version

import pytest

from probes.provenance import command_line, versions


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["/usr/bin/repanalysis", "analyze", "x.h5"], "repanalysis analyze x.h5"),
        (["/site/repanalysis/cli/__main__.py", "info"], "repanalysis info"),
        (["/usr/bin/pytest", "tests"], ""),
        (["-c"], ""),
        ([""], ""),
        (["/home/repanalysis/train.py"], ""),
    ],
)
def test_a_command_is_one_of_ours(monkeypatch: pytest.MonkeyPatch, argv: list[str], line: str) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line() == line


def test_versions_of_what_computes() -> None:
    assert versions()["numpy"] == version("numpy")
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))

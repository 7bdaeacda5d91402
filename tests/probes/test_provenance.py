"""Provenance: the command, if there was one, and the installed versions."""

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
def test_only_commands_of_repanalysis_are_recorded(monkeypatch: pytest.MonkeyPatch, argv: list[str], line: str) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line() == line


def test_versions_of_computing_packages_are_recorded() -> None:
    assert versions()["numpy"] == version("numpy")
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))

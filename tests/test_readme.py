"""The Python code of the README runs, and its commands and options exist."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from typer.main import get_command

from repanalysis.cli import app

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_the_python_examples_run_in_sequence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    plt.close("all")
    assert (tmp_path / "results.csv").exists()
    assert len(blocks("python")) == 3


def test_every_command_and_option_in_the_readme_exists() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]  # typer's own type is a group
    for line in "\n".join(blocks("bash")).splitlines():
        for verb, arguments in re.findall(r"repanalysis (\w+)([^#&]*)", line):
            options = {option for parameter in commands[verb].params for option in parameter.opts}
            assert set(re.findall(r"(?<= )--?[a-z-]+", arguments)) <= options


def test_every_file_in_the_readme_exists() -> None:
    root = Path(__file__).parent.parent
    for name in re.findall(r"\]\(([\w/.]+)\)", README):
        assert (root / name).exists(), name

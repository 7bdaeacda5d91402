"""The demo on the command line."""

from __future__ import annotations

from pathlib import Path

from tests.cli.running import refused


def test_an_existing_demo_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "results.csv").touch()
    assert "nothing was written" in refused("demo", "-o", tmp_path, code=2)

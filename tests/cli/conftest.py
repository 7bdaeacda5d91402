"""A file of activations."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import write_acts


@pytest.fixture
def acts(tmp_path: Path) -> Path:
    return write_acts(tmp_path / "acts.h5")

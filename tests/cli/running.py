"""Commands, run as a user types them, and an activations file to run them on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from typer.testing import CliRunner, Result

from probes import Batch
from probes.storage.writer import create
from repanalysis.cli import app

DIGITS = "py:repanalysis.networks.digits_cnn:digits_cnn"


def write_acts(
    path: Path, layers: dict[str, np.ndarray] | None = None, y: np.ndarray | str | None = "three", *, complete: bool = True
) -> Path:
    """A small activations file; by default 60 samples of three classes in two layers."""
    rng = np.random.default_rng(0)
    layers = layers or {"conv": rng.normal(size=(60, 4)), "relu": rng.normal(size=(60, 5))}
    n = len(next(iter(layers.values())))
    labels = np.arange(n) % 3 if isinstance(y, str) else y
    writer = create(path, attrs={"model": "m"})
    writer.append(Batch(ids=np.arange(n), layers=layers, labels=labels))
    writer.close(complete=complete)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words: object, code: int) -> str:
    """The single sentence on stderr of a command that exits with `code`."""
    result = run(*words)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0].removeprefix("Error: ")

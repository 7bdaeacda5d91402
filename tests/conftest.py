"""Fixtures shared by all tests: synthetic data, the folder of real data, and settings of figures and output."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:
    # Two processes with two threads each block one another on two cores; child processes inherit this.
    os.environ["OMP_NUM_THREADS"] = "1"

import matplotlib
import numpy as np
import pytest

from probes import Batch

matplotlib.use("agg")


@pytest.fixture(autouse=True)
def _whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output to a pipe is not wrapped; tests of tables set the width of a terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261121)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data and weights that REPANALYSIS_DATA names."""
    folder = os.environ.get("REPANALYSIS_DATA")
    if not folder:
        pytest.skip("REPANALYSIS_DATA is not set: no folder of real data and weights")
    return Path(folder).resolve()


@pytest.fixture
def classes() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Gaussian classes of unequal size, each with its own mean and covariance: `classes(n, d, k, seed=0)`."""

    def make(n: int, d: int, k: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        y = np.sort(np.concatenate([np.arange(k).repeat(3), rng.choice(k, n - 3 * k, p=_unequal(k))]))
        maps = rng.normal(size=(k, d, d)) / np.sqrt(d) + np.eye(d)
        x = rng.normal(size=(n, d))
        for label in range(k):  # maps[y] would allocate n matrices
            x[y == label] = x[y == label] @ maps[label]
        x += rng.normal(size=(k, d))[y]
        order = rng.permutation(n)
        return x[order], y[order]

    return make


def _unequal(k: int) -> np.ndarray:
    weights = np.arange(1.0, k + 1)
    return weights / weights.sum()


@pytest.fixture
def batches() -> Callable[..., list[Batch]]:
    """Arrays cut into batches: `batches({layer: x}, y, size)`."""

    def cut(layers: dict[str, np.ndarray], y: np.ndarray | None, size: int, split: str | None = None) -> list[Batch]:
        n = len(next(iter(layers.values())))
        return [
            Batch(
                ids=np.arange(n)[start : start + size],
                layers={name: x[start : start + size] for name, x in layers.items()},
                labels=None if y is None else y[start : start + size],
                split=None if split is None else np.full(len(np.arange(n)[start : start + size]), split),
            )
            for start in range(0, n, size)
        ]

    return cut

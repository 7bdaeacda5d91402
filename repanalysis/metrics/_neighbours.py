"""Exact nearest neighbours of every sample, from a matrix product in blocks."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy.linalg import blas

__all__ = ["neighbours"]

_BLOCK_BYTES = 64 << 20


def neighbours(x: Float64[np.ndarray, "n d"], k: int) -> tuple[Float64[np.ndarray, "n k"], Int64[np.ndarray, "n k"]]:
    """Distances and positions of the k nearest other rows of every row, nearest first; ties are ordered by position.

    Parameters
    ----------
    x : (n, d) array
        Rows. They are centred first, so that an offset costs no digits.
    k : int
        Neighbours, below n.

    Notes
    -----
    ||a - b||^2 = ||a||^2 - 2 a.b + ||b||^2 selects the candidates. Their distances are recomputed from
    differences, so that small distances keep their digits. Time n^2 d, memory n d and 64 MB.
    """
    n = len(x)
    x = np.asarray(x, np.float64)
    x = x - x.mean(axis=0)
    squares = np.einsum("nd,nd->n", x, x)
    extra = min(n - 1, k + 2)  # rounding may swap near candidates
    distances, indices = np.empty((n, k)), np.empty((n, k), np.int64)
    rows = max(16, _BLOCK_BYTES // (8 * n))
    for start in range(0, n, rows):
        block = x[start : start + rows]
        table = blas.dgemm(-2.0, x.T, block.T, trans_a=1).T  # (rows, n), row-major
        table += squares
        table[np.arange(len(block)), np.arange(start, start + len(block))] = np.inf  # a sample is not its own neighbour
        candidates = (
            np.sort(np.argpartition(table, extra - 1, axis=1)[:, :extra], axis=1)
            if extra < n - 1
            else _others(start, len(block), n)
        )
        exact = _exact(x, block, candidates)
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        indices[start : start + rows] = np.take_along_axis(candidates, order, axis=1)
        distances[start : start + rows] = np.sqrt(np.take_along_axis(exact, order, axis=1))
    return distances, indices


def _others(start: int, rows: int, n: int) -> NDArray[np.int64]:
    """For each row of a block the positions of all other rows."""
    all_positions = np.tile(np.arange(n), (rows, 1))
    indices: NDArray[np.int64] = all_positions[all_positions != np.arange(start, start + rows)[:, None]].reshape(rows, n - 1)
    return indices


def _exact(x: NDArray[np.float64], block: NDArray[np.float64], candidates: NDArray[np.int64]) -> NDArray[np.float64]:
    """Squared distances from differences, one column at a time to save memory."""
    distances = np.empty(candidates.shape)
    for column in range(candidates.shape[1]):
        difference = block - x[candidates[:, column]]
        distances[:, column] = np.einsum("nd,nd->n", difference, difference)
    return distances

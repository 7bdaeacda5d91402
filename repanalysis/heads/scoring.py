"""Accuracy of a linear head, its standard error, and whether it is above chance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from repanalysis.statistics.shares import share_error

__all__ = ["above_chance", "accuracy_of"]


def accuracy_of(weights: NDArray[np.float64], x: NDArray[Any], y: NDArray[np.int64]) -> tuple[float, float]:
    """Share of rows whose highest score is their own class, and its standard error for a fixed head, which is never 0.

    Examples
    --------
    >>> x = np.array([[2.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0]])
    >>> accuracy, se = accuracy_of(np.eye(2), x, np.array([0, 1, 1, 1]))
    >>> accuracy, round(se, 3)
    (0.75, 0.242)
    """
    predicted = np.argmax(blas.dgemm(1.0, np.asarray(x, np.float64).T, weights.T, trans_a=1), axis=1)
    accuracy = float((predicted == y).mean())
    return accuracy, share_error(accuracy, len(y))


def above_chance(accuracy: float, se: float, classes: int) -> bool:
    """Whether an accuracy is more than two standard errors above 1 / classes.

    Examples
    --------
    >>> above_chance(0.16, 0.02, 10), above_chance(0.13, 0.02, 10)
    (True, False)
    """
    return accuracy > 1 / classes + 2 * se

"""k nearest neighbours by cosine: majority of the k training samples with the largest cosine, never the sample itself."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probes.errors import DataError, UsageError

__all__ = ["nearest_neighbours"]


def nearest_neighbours(x: ArrayLike, y: ArrayLike, new: ArrayLike | None = None, *, k: int = 5) -> NDArray[np.generic]:
    """Predicted classes of new samples, or of the training samples themselves, each without itself.

    Parameters
    ----------
    x, y : (n, d) and (n,) arrays
        Training samples and their classes.
    new : (m, d) array, optional
        Samples to classify; None: the training samples, each of which is left out of its own neighbours.
    k : int, default 5
        Number of neighbours, as in the publications on the rate reduction.

    Returns
    -------
    (m,) array
        Classes. Of classes with equally many neighbours, the one whose neighbours have the larger sum of cosines wins; of equal
        ones the first label.

    Raises
    ------
    UsageError
        If `k` is below 1, or there are not that many neighbours.
    DataError
        If shapes don't match.

    Examples
    --------
    >>> nearest_neighbours([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], [0, 0, 1, 1], k=1).tolist()
    [0, 0, 1, 1]
    """
    rows, labels = np.asarray(x, dtype=np.float64), np.asarray(y)
    if rows.ndim != 2 or labels.shape != (len(rows),):
        raise DataError(f"Samples have shape {rows.shape} and labels {labels.shape}; (n, d) and (n,) are needed.")
    others = len(rows) - (new is None)
    if not 1 <= k <= others:
        raise UsageError(f"k is {k}, and there are {others} neighbours; give a number from 1 to that.")
    units = _units(rows)
    queries = units if new is None else _units(np.asarray(new, dtype=np.float64))
    if queries.ndim != 2 or queries.shape[1] != rows.shape[1]:
        raise DataError(f"New samples have shape {queries.shape}; (m, {rows.shape[1]}) is needed.")
    classes, indices = np.unique(labels, return_inverse=True)
    predicted = np.empty(len(queries), dtype=np.int64)
    block = max(1, (1 << 22) // max(1, len(rows)))
    for first in range(0, len(queries), block):
        cosines = queries[first : first + block] @ units.T
        places = np.arange(len(cosines))
        if new is None:
            cosines[places, first + places] = -np.inf
        nearest = np.argpartition(cosines, -k, axis=1)[:, -k:]
        votes = np.zeros((len(cosines), len(classes)))
        for column in nearest.T:  # a vote weighs more than all cosines together
            votes[places, indices[column]] += 1 + (1 + cosines[places, column]) / (4 * k)
        predicted[first : first + block] = votes.argmax(axis=1)
    return np.asarray(classes[predicted])


def _units(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0))

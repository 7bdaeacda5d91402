r"""|cos| between the features of all pairs of samples, sorted by class: block-diagonal if classes are orthogonal lines.

|cos(z_i, z_j)| = |z_i . z_j| / (||z_i|| ||z_j||),   in [0, 1]; features are not centred.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike, NDArray

from probes.errors import DataError

__all__ = ["Cosines", "class_cosines"]

_MOST = 5000  # samples, of which the matrix takes 200 MB


class Cosines(NamedTuple):
    """Absolute cosines of samples that are sorted by class.

    Attributes
    ----------
    values : (n, n) float64
        |cos|; NaN for samples that are 0.
    labels : (n,) array
        Classes, sorted.
    """

    values: Float64[np.ndarray, "n n"]
    labels: NDArray[np.generic]

    def by_class(self) -> Float64[np.ndarray, "K K"]:
        """Mean |cos| of pairs of different samples, for each pair of classes; NaN where there is no pair."""
        classes, indices = np.unique(self.labels, return_inverse=True)
        members = np.eye(len(classes))[indices]
        usable = ~np.isnan(self.values) & ~np.eye(len(self.labels), dtype=bool)
        sums = members.T @ np.where(usable, self.values, 0.0) @ members
        counts = members.T @ usable @ members
        return np.asarray(np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0))


def class_cosines(features: ArrayLike, labels: ArrayLike) -> Cosines:
    """Absolute cosines of all pairs of samples, sorted by class and, within a class, in the order given.

    Parameters
    ----------
    features : (n, ...) array
        Features; more axes are flattened.
    labels : (n,) array
        Classes.

    Raises
    ------
    DataError
        If shapes don't match, features are not finite, or there are more than 5,000 samples.

    Examples
    --------
    >>> cosines = class_cosines([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]], [0, 1, 0])
    >>> cosines.values.tolist(), cosines.labels.tolist()
    ([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0, 0, 1])
    """
    rows, classes = np.asarray(features, dtype=np.float64), np.asarray(labels)
    if rows.ndim < 2 or classes.shape != rows.shape[:1]:
        raise DataError(f"Features have shape {rows.shape} and labels {classes.shape}; (n, ...) and (n,) are needed.")
    if len(rows) > _MOST:
        raise DataError(f"{len(rows):,} samples have too many pairs; give {_MOST:,} at most.")
    if not np.isfinite(rows).all():
        raise DataError("Features hold NaN or infinite values; remove these samples.")
    order = np.argsort(classes, kind="stable")
    flat = rows.reshape(len(rows), -1)[order]
    norms = np.linalg.norm(flat, axis=1, keepdims=True)
    units = np.divide(flat, norms, out=np.full_like(flat, np.nan), where=norms > 0)
    return Cosines(np.minimum(np.abs(units @ units.T), 1.0), classes[order])

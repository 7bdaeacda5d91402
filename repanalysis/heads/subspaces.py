r"""Nearest-subspace classifier: the class whose leading directions explain a sample best.

    y(z) = argmin_k || (I - U_k U_k^T) z ||,   U_k: the q leading right singular vectors of the features of class k,

not centred, as in the publications on the rate reduction; `centred=True` subtracts the class mean first (principal components).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from probes.errors import DataError, UsageError

__all__ = ["Subspaces", "fit_subspaces"]


class Subspaces(NamedTuple):
    """One subspace per class.

    Attributes
    ----------
    classes : (K,) array
        Labels, sorted.
    bases : tuple of (d, q_k) arrays
        Orthonormal columns; q_k is at most the rank of class k.
    means : (K, d) array
        What is subtracted before the projection: 0, or the class means.
    """

    classes: NDArray[np.generic]
    bases: tuple[NDArray[np.float64], ...]
    means: NDArray[np.float64]

    def residuals(self, x: ArrayLike) -> NDArray[np.float64]:
        """Distance (n, K) of samples (n, d) to each subspace."""
        rows = np.asarray(x, dtype=np.float64)
        columns = []
        for basis, mean in zip(self.bases, self.means, strict=True):
            centred = rows - mean
            columns.append(np.linalg.norm(centred - (centred @ basis) @ basis.T, axis=1))
        return np.stack(columns, axis=1)

    def predict(self, x: ArrayLike) -> NDArray[np.generic]:
        """The class (n,) of the nearest subspace; the first of equally near ones."""
        return np.asarray(self.classes[self.residuals(x).argmin(axis=1)])


def fit_subspaces(x: ArrayLike, y: ArrayLike, dimensions: int = 10, *, centred: bool = False) -> Subspaces:
    """Subspaces of labelled samples.

    Parameters
    ----------
    x : (n, d) array
        Features.
    y : (n,) array
        Labels.
    dimensions : int, default 10
        q; less where a class has a smaller rank, and d - 1 at most, since the whole space is at distance 0 of everything.
    centred : bool, default False
        Subtract the class means.

    Raises
    ------
    UsageError
        If `dimensions` is below 1.
    DataError
        If shapes don't match, values are not finite, or samples have one feature.

    References
    ----------
    Y. Yu et al., NeurIPS 2020; K. H. R. Chan et al., JMLR 23, 2022.

    Examples
    --------
    >>> subspaces = fit_subspaces(np.eye(4), [0, 0, 1, 1], dimensions=2)
    >>> subspaces.predict([[1.0, 2.0, 0.1, 0.0], [0.0, 0.1, 0.0, 3.0]]).tolist()
    [0, 1]
    """
    rows, labels = np.asarray(x, dtype=np.float64), np.asarray(y)
    if dimensions < 1:
        raise UsageError(f"{dimensions} dimensions; a subspace has at least one.")
    if rows.ndim != 2 or labels.shape != (len(rows),) or not len(rows):
        raise DataError(f"Features have shape {rows.shape} and labels {labels.shape}; (n, d) and (n,) are needed.")
    if rows.shape[1] < 2:
        raise DataError("Samples have one feature: every subspace is the whole line. Use features of two or more dimensions.")
    if not np.isfinite(rows).all():
        raise DataError("Features hold NaN or infinite values; remove these samples.")
    classes = np.unique(labels)
    means = np.zeros((len(classes), rows.shape[1]))
    bases = []
    for k, label in enumerate(classes):
        members = rows[labels == label]
        if centred:
            means[k] = members.mean(axis=0)
        _, values, vectors = np.linalg.svd(members - means[k], full_matrices=False)
        tolerance = max(members.shape) * np.finfo(np.float64).eps * (values[0] if len(values) else 0.0)
        rank = int((values > tolerance).sum())
        bases.append(np.ascontiguousarray(vectors[: min(dimensions, rank, rows.shape[1] - 1)].T))
    return Subspaces(classes, tuple(bases), means)

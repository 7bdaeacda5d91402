"""Distances between class means, and variants per class and per pair."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist, squareform

from repanalysis.metrics._registry import Value
from repanalysis.statistics.geometry import ClassGeometry

__all__ = ["named_classes", "named_pairs", "present", "squared_distances"]


def present(moments: ClassGeometry) -> NDArray[np.int64]:
    """Positions of the classes that have samples."""
    indices: NDArray[np.int64] = np.flatnonzero(moments.counts)
    return indices


def squared_distances(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """||a - b||^2 of all pairs of rows, (K, K), from differences, which is accurate for close points."""
    return squareform(pdist(points, "sqeuclidean"))


def named_classes(moments: ClassGeometry, values: Any, outside: Any = None) -> Mapping[str, Value]:
    """A variant per class, `class=3`; `outside` marks means outside the range of the within-class covariance."""
    labels, reason = moments.classes[present(moments)], "the mean differs outside the range of the within-class covariance"
    mask = np.zeros(len(labels), bool) if outside is None else outside
    return {
        f"class={label}": Value(value, reason if far else "") for label, value, far in zip(labels, values, mask, strict=True)
    }


def named_pairs(moments: ClassGeometry, values: NDArray[np.float64], notes: Any = "") -> Mapping[str, Value]:
    """A variant per pair of classes, `pair=3/5`, from a symmetric matrix."""
    labels = moments.classes[present(moments)]
    rows, columns = np.triu_indices(len(labels), 1)
    return {
        f"pair={labels[a]}/{labels[b]}": Value(values[a, b], notes if isinstance(notes, str) else notes[a, b])
        for a, b in zip(rows, columns, strict=True)
    }

"""Eigenvalues of the covariance of all samples, which four metrics share: the latest are remembered."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh

from repanalysis.statistics import ClassGeometry

__all__ = ["eigenvalues", "second_eigenvalues"]


class _Latest(threading.local):
    """What a thread has computed last, by kind of matrix."""

    def __init__(self) -> None:
        self.found: dict[str, tuple[weakref.ref[Any], tuple[object, ...], NDArray[np.float64]]] = {}


_latest = _Latest()


def eigenvalues(moments: ClassGeometry) -> NDArray[np.float64]:
    """Eigenvalues of the covariance about the common mean, descending, 0 or more; rounding counts as 0."""
    return _remembered("total", moments)


def second_eigenvalues(moments: ClassGeometry) -> NDArray[np.float64]:
    """Eigenvalues of the uncentred second moment, descending, 0 or more; rounding counts as 0."""
    return _remembered("second", moments)


def _remembered(kind: str, moments: ClassGeometry) -> NDArray[np.float64]:
    key = (moments.counts.tobytes(), moments.spread.tobytes())
    known = _latest.found.get(kind)
    if known and known[0]() is moments.mean and known[1] == key:
        return known[2]
    share = np.full(len(moments.counts), 1.0 / max(moments.n, 1))
    matrix = moments.total() if kind == "total" else moments.second(share)
    found = eigvalsh(matrix, lower=True, overwrite_a=True, check_finite=False)
    values = np.asarray(found[::-1], np.float64)
    # What rounding of the samples, and of the eigenvalues, makes of a 0; n samples span at most n directions.
    magnitude = np.sqrt(np.square(moments.mean).sum(axis=1).max() + max(values[0], 0.0))
    noise = max(len(values) * np.finfo(np.float64).eps * max(values[0], 0.0), np.square(float(moments.resolution) * magnitude))
    values = np.asarray(np.where(values > noise, values, 0.0), np.float64)
    values[max(0, moments.n - (kind == "total")) :] = 0.0
    _latest.found[kind] = (weakref.ref(moments.mean), key, values)
    return values

"""Eigenvalues of the covariance of all samples. The latest are cached, since four metrics share them."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh

from repanalysis.statistics import ClassGeometry
from repanalysis.statistics.geometry import About
from repanalysis.statistics.rounding import largest_eigenvalue

__all__ = ["eigenvalues", "second_eigenvalues"]


class _Latest(threading.local):
    """The latest eigenvalues of a thread, by centre."""

    def __init__(self) -> None:
        self.cached: dict[str, tuple[weakref.ref[Any], tuple[object, ...], NDArray[np.float64]]] = {}


_latest = _Latest()


def eigenvalues(moments: ClassGeometry) -> NDArray[np.float64]:
    """Eigenvalues of the covariance about the common mean, descending, 0 or more; eigenvalues that rounding explains are 0."""
    return _cached("mean", moments)


def second_eigenvalues(moments: ClassGeometry) -> NDArray[np.float64]:
    """Eigenvalues of the uncentred second moment, descending, 0 or more; eigenvalues that rounding explains are 0."""
    return _cached("origin", moments)


def _cached(about: About, moments: ClassGeometry) -> NDArray[np.float64]:
    key = (moments.counts.tobytes(), moments.scatter_trace.tobytes(), moments.resolution.tobytes())
    latest = _latest.cached.get(about)
    if latest and latest[0]() is moments.mean and latest[1] == key:
        return latest[2]
    values = _eigenvalues(about, moments)
    _latest.cached[about] = (weakref.ref(moments.mean), key, values)
    return values


def _eigenvalues(about: About, moments: ClassGeometry) -> NDArray[np.float64]:
    ascending = eigvalsh(moments.isometric().matrix(about), lower=True, overwrite_a=True, check_finite=False)
    values = np.array(ascending[::-1], np.float64)
    values[values <= len(values) * np.finfo(np.float64).eps * max(values[0], 0.0)] = 0.0
    values[max(0, moments.n - (about == "mean")) :] = 0.0  # n samples span at most n directions
    rounding = moments.rounding() * largest_eigenvalue(moments.n, moments.d)
    if not ((values > 0) & (values <= rounding.max())).any():
        return values
    # Rounding may explain some eigenvalues; how much it adds depends on the direction.
    exact, vectors = moments.spectrum(about)
    above = exact[exact > rounding @ np.square(vectors)][::-1]
    above = above[: int((values > 0).sum())]
    return np.concatenate([above, np.zeros(len(values) - len(above))])

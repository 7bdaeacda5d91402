r"""Second moments of all circular shifts of maps, per frequency and class.

Samples (C, *size) of norm 1, with the half spectra u(p) of their channels by the unitary DFT, times sqrt(w_p), where w_p is the
number of frequencies that p stands for:

    M_k(p) = sum_{y_i = k} u_i(p) u_i(p)^*,   (C, C), Hermitian,

which are the block-circulant second moments of all T shifts of the samples, divided by T, in their eigenbasis of shifts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Complex128, Float64, Int, Int64, Shaped
from numpy.typing import NDArray

from probes.ids import Ids
from repanalysis.statistics.base import Statistic, refuse_non_finite

__all__ = ["ShiftMoments", "SpectralMoments"]

_SMALLEST = 1e-8  # samples of smaller norm are not scaled to norm 1
_BYTES = 1 << 24  # of the spectra of one block of samples


class SpectralMoments(NamedTuple):
    """Second moments per class and frequency.

    Attributes
    ----------
    classes, counts : (K,) int64
        Labels, sorted, and numbers of samples.
    moments : (K, F, C, C) complex128
        M_k(p).
    multiplicity : (F,) float64
        w_p; empty if the shape of the maps is not known.
    """

    classes: Int64[np.ndarray, " K"]
    counts: Int64[np.ndarray, " K"]
    moments: Complex128[np.ndarray, "K F C C"]
    multiplicity: Float64[np.ndarray, " F"]

    @property
    def points(self) -> int:
        """T; 0 if the shape of the maps is not known."""
        return int(self.multiplicity.sum())


@dataclass(frozen=True)
class ShiftMoments(Statistic):
    """Statistic of maps (C, *size), given as rows of C T numbers, channel by channel.

    Parameters
    ----------
    shape : tuple of int or None, default ()
        (C, *size) with one or two axes of size; () for rows without shifts, C = d. None: not known, nothing is summed.
    """

    shape: tuple[int, ...] | None = ()

    def _grid(self, d: int) -> tuple[int, tuple[int, ...]]:
        return (d, ()) if not self.shape else (self.shape[0], self.shape[1:])

    def init(self, d: int, classes: Sequence[int] = ()) -> SpectralMoments:
        """The state of no samples."""
        channels, size = self._grid(d)
        multiplicity = multiplicities(size) if self.shape is not None else np.zeros(0)
        labels = np.unique(np.asarray(classes, np.int64))
        moments = np.zeros((len(labels), len(multiplicity), channels, channels), np.complex128)
        return SpectralMoments(labels, np.zeros(len(labels), np.int64), moments, multiplicity)

    def update(
        self, state: SpectralMoments, x: Shaped[np.ndarray, "n d"], y: Int[np.ndarray, " n"], ids: Ids
    ) -> SpectralMoments:
        """Add the products of samples; rows that are not finite are refused."""
        refuse_non_finite(x)
        state = _with_classes(state, np.unique(np.asarray(y, np.int64)))
        channels, size = self._grid(x.shape[1])
        rows = max(1, _BYTES // (16 * x.shape[1]))
        for k, label in enumerate(state.classes):
            members = np.flatnonzero(y == label)
            state.counts[k] += len(members)
            for first in range(0, len(members) if self.shape is not None else 0, rows):
                u = _spectra(x[members[first : first + rows]], channels, size, state.multiplicity)
                state.moments[k] += u @ u.conj().transpose(0, 2, 1)
        return state

    def merge(self, a: SpectralMoments, b: SpectralMoments) -> SpectralMoments:
        """Sums of both."""
        merged, other = (_with_classes(state, np.union1d(a.classes, b.classes)) for state in (a, b))
        return merged._replace(counts=merged.counts + other.counts, moments=merged.moments + other.moments)

    def state_bytes(self, d: int, k: int) -> int:
        """16 K F C^2 bytes."""
        channels, size = self._grid(d)
        frequencies = 0 if self.shape is None else len(multiplicities(size))
        return 16 * k * frequencies * channels**2

    @classmethod
    def examples(cls) -> list[Statistic]:
        """Rows without shifts: other shapes are those of their features."""
        return [cls()]


def multiplicities(size: tuple[int, ...]) -> NDArray[np.float64]:
    """w_p of the half spectrum: 1 or 2, of which the last axis is halved."""
    if not size:
        return np.ones(1)
    last = np.full(size[-1] // 2 + 1, 2.0)
    last[0] = 1.0
    if size[-1] % 2 == 0:
        last[-1] = 1.0
    return np.tile(last, math.prod(size[:-1]))


def _spectra(
    x: NDArray[np.floating], channels: int, size: tuple[int, ...], multiplicity: NDArray[np.float64]
) -> NDArray[np.complex128]:
    """Half spectra (F, C, n) of rows, scaled to norm 1."""
    z = x.astype(np.float64)
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), _SMALLEST)
    maps = z.reshape(len(z), channels, *size)
    spectra = np.fft.rfftn(maps, axes=tuple(range(2, maps.ndim)), norm="ortho") if size else maps
    u = spectra.reshape(len(z), channels, len(multiplicity)) * np.sqrt(multiplicity)
    return np.ascontiguousarray(u.transpose(2, 1, 0).astype(np.complex128))


def _with_classes(state: SpectralMoments, labels: NDArray[np.int64]) -> SpectralMoments:
    """The state with zeros for further classes."""
    classes = np.union1d(state.classes, labels)
    if len(classes) == len(state.classes):
        return state
    places = np.searchsorted(classes, state.classes)
    counts = np.zeros(len(classes), np.int64)
    moments = np.zeros((len(classes), *state.moments.shape[1:]), np.complex128)
    counts[places], moments[places] = state.counts, state.moments
    return state._replace(classes=classes, counts=counts, moments=moments)

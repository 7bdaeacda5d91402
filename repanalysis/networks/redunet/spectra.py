r"""Signals as half spectra: a unitary change of coordinates in which circular convolutions are matrices per frequency.

A sample is a vector of d features, a signal of C channels and T samples, or an image of C channels and H x W pixels. With the
unitary DFT v(p) = T^{-1/2} sum_t z(t) exp(-2 pi i p t / T) of every channel, real signals have v(T - p) = conj v(p), so that
half of the frequencies suffice. Every kept frequency is multiplied by sqrt(w_p), where w_p is 1 or 2, the number of frequencies
that it stands for; then sum_p |u(p)|^2 = ||z||^2. In two dimensions the last axis alone is halved. A vector is one frequency
with d channels: its spectrum is real, and equal to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probes.errors import DataError
from repanalysis.statistics.shifts import multiplicities

__all__ = ["Grid"]

_AXES = {0: "features", 1: "channels, samples", 2: "channels, height, width"}


@dataclass(frozen=True)
class Grid:
    """The shape of a sample.

    Parameters
    ----------
    channels : int
        C, or d of vectors.
    size : tuple of int
        () for vectors, (T,) for signals, (H, W) for images.

    Examples
    --------
    >>> grid = Grid(3, (8,))
    >>> grid.points, grid.frequencies, grid.multiplicity(torch.zeros(())).tolist()
    (8, 5, [1.0, 2.0, 2.0, 2.0, 1.0])
    >>> x = torch.randn(2, 3, 8, dtype=torch.float64)
    >>> bool(torch.allclose(grid.signal(grid.spectrum(x)), x))
    True
    """

    channels: int
    size: tuple[int, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample."""
        return (self.channels, *self.size)

    @property
    def points(self) -> int:
        """T or H W; 1 for vectors."""
        return math.prod(self.size)

    @property
    def halved(self) -> tuple[int, ...]:
        """Numbers of kept frequencies along the axes."""
        return (*self.size[:-1], self.size[-1] // 2 + 1) if self.size else ()

    @property
    def frequencies(self) -> int:
        """Number of kept frequencies, F."""
        return math.prod(self.halved)

    def multiplicity(self, like: Tensor) -> Tensor:
        """w_p, (F,), of the type and device of `like`: 1 or 2."""
        return torch.from_numpy(multiplicities(self.size)).to(like)

    def spectrum(self, x: Tensor) -> Tensor:
        """U of samples (n, C, *size): (F, C, n), complex but for vectors.

        Raises
        ------
        DataError
            If the samples have another shape.
        """
        self.check(x)
        if not self.size:
            return x.T[None]
        if not len(x):  # FFTs of nothing are refused
            return torch.empty((self.frequencies, self.channels, 0), dtype=x.dtype.to_complex(), device=x.device)
        axes = tuple(range(2, 2 + len(self.size)))
        spectrum = torch.fft.rfftn(x, dim=axes, norm="ortho").flatten(2).permute(2, 1, 0).contiguous()
        scaled: Tensor = spectrum.mul_(self.multiplicity(x).sqrt()[:, None, None])
        return scaled

    def signal(self, u: Tensor) -> Tensor:
        """Samples (n, C, *size) of spectra (F, C, n)."""
        if not self.size:
            return u[0].T
        if not u.shape[2]:
            return torch.empty((0, *self.shape), dtype=u.real.dtype, device=u.device)
        scaled = u / self.multiplicity(u.real).sqrt()[:, None, None]
        full = scaled.permute(2, 1, 0).reshape(u.shape[2], self.channels, *self.halved)
        axes = tuple(range(2, 2 + len(self.size)))
        x: Tensor = torch.fft.irfftn(full, s=self.size, dim=axes, norm="ortho")
        return x

    def check(self, x: Any) -> None:
        """Raise DataError if samples don't have this shape."""
        if tuple(x.shape[1:]) != self.shape:
            raise DataError(
                f"The samples have shape {tuple(x.shape[1:])}; this network was constructed for ({_AXES[len(self.size)]}) = "
                f"{self.shape}. Resize the samples, or construct a network for theirs."
            )

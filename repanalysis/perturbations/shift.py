"""Translations by whole pixels, with several border conditions, and by fractions of pixels with Fourier phases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from probes.errors import UsageError
from repanalysis._checks import not_negative, one_of
from repanalysis.perturbations.base import Perturbation

__all__ = ["Border", "Shift"]

Border = Literal["circular", "reflect", "zeros", "fourier"]
_DIRECTIONS = ("right", "left", "down", "up")


@dataclass(frozen=True)
class Shift(Perturbation):
    """Translation of images.

    Parameters
    ----------
    seed : int, default 0
        Seed of random directions; each sample's direction also depends on its id.
    pixels : float, default 1
        Distance; a whole number unless the border is "fourier".
    border : {"circular", "reflect", "zeros", "fourier"}, default "circular"
        What enters at the border: the opposite side (circular), the mirror image, or zeros. `fourier` is circular too, by
        phases in Fourier space, and shifts by fractions of pixels.
    direction : {"right", "left", "down", "up", "random"}, default "right"
        Direction; `random` draws one of the four for each image.

    Notes
    -----
    Circular and Fourier shifts preserve the norm and are invertible, except that a Fourier shift changes the Nyquist frequency
    of even sides, whose phase is not free. Use these to test equivariance; the others model what a camera sees.

    Examples
    --------
    >>> Shift(pixels=1)(torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3), [0]).flatten().tolist()
    [3.0, 1.0, 2.0]
    """

    name = "shift"
    strength_field = "pixels"

    pixels: float = 1.0
    border: Border = "circular"
    direction: str = "right"

    def __post_init__(self) -> None:
        not_negative("pixels", self.pixels)
        one_of("border", self.border, get_args(Border))
        one_of("direction", self.direction, (*_DIRECTIONS, "random"))
        if self.border != "fourier" and self.pixels != round(self.pixels):
            raise UsageError(f"A shift by {self.pixels:g} pixels needs border=fourier; other borders take whole pixels.")

    def apply(self, images: Tensor, ids: Sequence[int]) -> Tensor:
        """Shifted images."""
        if self.direction != "random":
            return self._towards(images, self.direction)
        from repanalysis.statistics.draws import hashed

        drawn = torch.from_numpy((hashed(np.asarray(ids, np.int64), self.seed) >> np.uint64(62)).astype(np.int64))
        shifted = torch.empty_like(images)
        for index, direction in enumerate(_DIRECTIONS):
            rows = torch.nonzero(drawn == index).flatten().to(images.device)
            shifted[rows] = self._towards(images[rows], direction)
        return shifted

    def _towards(self, images: Tensor, direction: str) -> Tensor:
        axis = -1 if direction in ("right", "left") else -2
        offset = self.pixels if direction in ("right", "down") else -self.pixels
        if self.border == "fourier":
            return _by_phases(images, offset, axis)
        return _by_pixels(images, round(offset), axis, self.border)


def _by_pixels(images: Tensor, offset: int, axis: int, border: str) -> Tensor:
    if border == "circular":
        return images.roll(offset, axis)
    side = images.shape[axis]
    source = torch.arange(side, device=images.device) - offset
    if border == "zeros":
        shifted = images.index_select(axis, source.clamp(0, side - 1))
        outside = (source < 0) | (source >= side)
        return shifted.masked_fill(outside if axis == -1 else outside[:, None], 0.0)
    period = max(1, 2 * (side - 1))
    source = source % period
    return images.index_select(axis, torch.minimum(source, (period - source) % period if side > 1 else source))


def _by_phases(images: Tensor, offset: float, axis: int) -> Tensor:
    side = images.shape[axis]
    spectrum = torch.fft.rfft(images, dim=axis)
    frequencies = torch.arange(spectrum.shape[axis], device=images.device, dtype=images.dtype)
    phases = torch.polar(torch.ones_like(frequencies), -2 * torch.pi * frequencies * offset / side)
    if side % 2 == 0:  # cos(pi (u - t)) = cos(pi t) cos(pi u) at whole pixels u
        phases[-1] = torch.cos(torch.as_tensor(torch.pi * offset, dtype=images.dtype))
    shifted: Tensor = torch.fft.irfft(spectrum * (phases if axis == -1 else phases[:, None]), n=side, dim=axis)
    return shifted

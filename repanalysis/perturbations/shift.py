"""Translations: whole pixels around the border or with what lies beyond it made up, and parts of pixels through Fourier."""

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
    """Images moved by so many pixels.

    Parameters
    ----------
    seed : int, default 0
        What random directions depend on, with the sample's id.
    pixels : float, default 1
        How far; a whole number unless the border is "fourier".
    border : {"circular", "reflect", "zeros", "fourier"}, default "circular"
        What comes in: the other side, the mirror image, nothing; or the other side, by phases in Fourier, which moves by parts
        of pixels too.
    direction : {"right", "left", "down", "up", "random"}, default "right"
        Where to; at random, one of the four for each image.

    Notes
    -----
    Circular and Fourier shifts keep the norm (the latter but for the Nyquist frequency of even sides, whose phase is not free)
    and can be undone. They are the ones to test equivariance with; the others are what a camera sees.

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
            raise UsageError(f"A shift by {self.pixels:g} pixels needs border=fourier; others move by whole pixels.")

    def moved(self, images: Tensor, ids: Sequence[int]) -> Tensor:
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
        strength_field = self.pixels if direction in ("right", "down") else -self.pixels
        if self.border == "fourier":
            return _by_phases(images, strength_field, axis)
        return _by_places(images, round(strength_field), axis, self.border)


def _by_places(images: Tensor, strength_field: int, axis: int, border: str) -> Tensor:
    if border == "circular":
        return images.roll(strength_field, axis)
    side = images.shape[axis]
    source = torch.arange(side, device=images.device) - strength_field
    if border == "zeros":
        shifted = images.index_select(axis, source.clamp(0, side - 1))
        outside = (source < 0) | (source >= side)
        return shifted.masked_fill(outside if axis == -1 else outside[:, None], 0.0)
    period = max(1, 2 * (side - 1))
    source = source % period
    return images.index_select(axis, torch.minimum(source, (period - source) % period if side > 1 else source))


def _by_phases(images: Tensor, strength_field: float, axis: int) -> Tensor:
    side = images.shape[axis]
    spectrum = torch.fft.rfft(images, dim=axis)
    frequencies = torch.arange(spectrum.shape[axis], device=images.device, dtype=images.dtype)
    phases = torch.polar(torch.ones_like(frequencies), -2 * torch.pi * frequencies * strength_field / side)
    if side % 2 == 0:  # cos(pi u) moved by t, seen at whole pixels: cos(pi t) of it
        phases[-1] = torch.cos(torch.as_tensor(torch.pi * strength_field, dtype=images.dtype))
    shifted: Tensor = torch.fft.irfft(spectrum * (phases if axis == -1 else phases[:, None]), n=side, dim=axis)
    return shifted

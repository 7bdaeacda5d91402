"""Noise: uniform on a sphere, as long as another perturbation of the same image is, or Gaussian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from probes.errors import UsageError
from repanalysis._checks import not_negative
from repanalysis.perturbations.base import Perturbation

__all__ = ["GaussianNoise", "MatchedNoise", "SphereNoise"]


@dataclass(frozen=True)
class SphereNoise(Perturbation):
    """x + r g / ||g|| with Gaussian g: uniform on the sphere of radius r around each image.

    Parameters
    ----------
    seed : int, default 0
        What noise depends on, with the sample's id.
    norm : float, default 1
        r, the Euclidean norm over all pixels and colours.

    Examples
    --------
    >>> x = torch.zeros(1, 3, 8, 8, dtype=torch.float64)
    >>> round(float(SphereNoise(norm=2.0)(x, [0]).norm()), 12)
    2.0
    """

    name = "noise"
    strength_field = "norm"

    norm: float = 1.0

    def __post_init__(self) -> None:
        not_negative("norm", self.norm)

    def moved(self, images: Tensor, ids: Sequence[int]) -> Tensor:
        """Noisy images."""
        return images + self.norm * _directions(self, images, ids)


@dataclass(frozen=True)
class GaussianNoise(Perturbation):
    """x + s g, independent in every pixel and colour; where it is rectified, x + max(0, s g).

    Parameters
    ----------
    seed : int, default 0
        What noise depends on, with the sample's id.
    sigma : float, default 0.1
        s, in units of the pixels' values.
    rectified : bool, default False
        Whether what is below 0 is left out. Then its mean is s / (2 pi)^{1/2} and its variance s^2 (1/2 - 1/(2 pi)).
    """

    name = "noise"
    strength_field = "sigma"

    sigma: float = 0.1
    rectified: bool = False

    def __post_init__(self) -> None:
        not_negative("sigma", self.sigma)

    def moved(self, images: Tensor, ids: Sequence[int]) -> Tensor:
        """Noisy images."""
        noise = self.normal(ids, images.shape[1:])
        noise = noise.clamp_(min=0) if self.rectified else noise
        return images + (self.sigma * noise).to(images.device, images.dtype)


@dataclass(frozen=True)
class MatchedNoise(Perturbation):
    """Noise on the sphere whose radius is what another perturbation moves the same image by, ||tau x - x||.

    With it, relative stability R = D / G is 1 at the input. An image that the other does not move gets no noise.

    Parameters
    ----------
    seed : int, default 0
        What noise depends on, with the sample's id.
    match : Perturbation
        The other one.
    """

    name = "noise"
    strength_field = "match"

    match: Perturbation | None = None

    def __post_init__(self) -> None:
        if self.match is None:
            raise UsageError("Matched noise needs the perturbation that it matches: MatchedNoise(match=Diffeomorphism()).")

    @property
    def other(self) -> Perturbation:
        """The perturbation that is matched."""
        assert self.match is not None
        return self.match

    @property
    def label(self) -> str:
        """What it matches."""
        return f"noise:match={self.other.label}"

    @property
    def strength(self) -> float:
        """That of the other."""
        return self.other.strength

    def at(self, strength: float) -> Self:
        """Matching another strength."""
        return replace(self, match=self.other.at(strength))

    def moved(self, images: Tensor, ids: Sequence[int]) -> Tensor:
        """Noisy images."""
        return self.matched_to(images, self.other(images, ids), ids)

    def matched_to(self, images: Tensor, moved: Tensor, ids: Sequence[int]) -> Tensor:
        """Noisy images, where what the other perturbation makes of them is known already."""
        distance = torch.linalg.vector_norm((moved - images).double().flatten(1), dim=1)
        noisy: Tensor = images + distance.to(images.dtype)[:, None, None, None] * _directions(self, images, ids)
        return noisy


def _directions(perturbation: Perturbation, images: Tensor, ids: Sequence[int]) -> Tensor:
    """Uniform directions, each of norm 1."""
    noise = perturbation.normal(ids, images.shape[1:])
    noise /= torch.linalg.vector_norm(noise.flatten(1), dim=1)[:, None, None, None]
    return noise.to(images.device, images.dtype)

"""Noise: uniform on a sphere, with the norm of another perturbation of the same image, or Gaussian."""

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
        Seed of the noise; each sample's noise also depends on its id.
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

    def apply(self, images: Tensor, ids: Sequence[int]) -> Tensor:
        """Noisy images."""
        return images + self.norm * _directions(self, images, ids)


@dataclass(frozen=True)
class GaussianNoise(Perturbation):
    """x + s g, independent in every pixel and colour; x + max(0, s g) if rectified.

    Parameters
    ----------
    seed : int, default 0
        Seed of the noise; each sample's noise also depends on its id.
    sigma : float, default 0.1
        s, in units of pixel values.
    rectified : bool, default False
        Replaces negative noise by 0. The noise then has mean s / (2 pi)^{1/2} and variance s^2 (1/2 - 1/(2 pi)).
    """

    name = "noise"
    strength_field = "sigma"

    sigma: float = 0.1
    rectified: bool = False

    def __post_init__(self) -> None:
        not_negative("sigma", self.sigma)

    def apply(self, images: Tensor, ids: Sequence[int]) -> Tensor:
        """Noisy images."""
        noise = self.normal(ids, images.shape[1:])
        noise = noise.clamp_(min=0) if self.rectified else noise
        return images + (self.sigma * noise).to(images.device, images.dtype)


@dataclass(frozen=True)
class MatchedNoise(Perturbation):
    """Noise on the sphere of radius ||tau x - x||, the distance by which another perturbation tau moves the same image.

    With this noise, relative stability R = D / G is 1 at the input. An image that tau leaves unchanged gets no noise.

    Parameters
    ----------
    seed : int, default 0
        Seed of the noise; each sample's noise also depends on its id.
    match : Perturbation
        tau.
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
        """noise:match=LABEL, with the label of the matched perturbation."""
        return f"noise:match={self.other.label}"

    @property
    def strength(self) -> float:
        """Strength of the matched perturbation."""
        return self.other.strength

    def with_strength(self, strength: float) -> Self:
        """Noise that matches the other perturbation at another strength."""
        return replace(self, match=self.other.with_strength(strength))

    def apply(self, images: Tensor, ids: Sequence[int]) -> Tensor:
        """Noisy images."""
        return self.matched_to(images, self.other(images, ids), ids)

    def matched_to(self, images: Tensor, perturbed: Tensor, ids: Sequence[int]) -> Tensor:
        """Noisy images, given the images that the matched perturbation has returned."""
        distance = torch.linalg.vector_norm((perturbed - images).double().flatten(1), dim=1)
        noisy: Tensor = images + distance.to(images.dtype)[:, None, None, None] * _directions(self, images, ids)
        return noisy


def _directions(perturbation: Perturbation, images: Tensor, ids: Sequence[int]) -> Tensor:
    """Uniform directions, each of norm 1."""
    noise = perturbation.normal(ids, images.shape[1:])
    noise /= torch.linalg.vector_norm(noise.flatten(1), dim=1)[:, None, None, None]
    return noise.to(images.device, images.dtype)

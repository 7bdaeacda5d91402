"""Rotation and scaling about the centre of the image, bilinear; pixels beyond the border repeat the border."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin

import torch
from torch import Tensor

from probes.errors import UsageError
from repanalysis._checks import not_negative
from repanalysis.perturbations.base import Perturbation
from repanalysis.perturbations.resampling import warped

__all__ = ["Rotation", "Scaling"]


@dataclass(frozen=True)
class Rotation(Perturbation):
    """Rotation of images about their centre.

    Parameters
    ----------
    seed : int, default 0
        Not used: all images are rotated by the same angle.
    degrees : float, default 5
        Counter-clockwise.

    Examples
    --------
    >>> x = torch.arange(4.0).view(1, 1, 2, 2)
    >>> [round(v, 4) for v in Rotation(degrees=90.0)(x, [0]).flatten().tolist()]
    [1.0, 3.0, 0.0, 2.0]
    """

    name = "rotation"
    strength_field = "degrees"

    degrees: float = 5.0

    def apply(self, images: Tensor, ids: Sequence[int]) -> Tensor:  # noqa: ARG002  # nothing is drawn
        """Rotated images."""
        angle = self.degrees * pi / 180
        # Rows count downwards, so that this matrix turns the source clockwise on the screen.
        return _linear(images, ((cos(angle), -sin(angle)), (sin(angle), cos(angle))))


@dataclass(frozen=True)
class Scaling(Perturbation):
    """Scaling of images about their centre.

    Parameters
    ----------
    seed : int, default 0
        Not used: all images are scaled by the same factor.
    percent : float, default 5
        By how much lengths grow; below 0 they shrink.
    """

    name = "scaling"
    strength_field = "percent"

    percent: float = 5.0

    def __post_init__(self) -> None:
        not_negative("100 + percent", 100 + self.percent)
        if self.percent == -100:
            raise UsageError("Images can't be scaled to nothing; percent must be above -100.")

    def apply(self, images: Tensor, ids: Sequence[int]) -> Tensor:  # noqa: ARG002  # nothing is drawn
        """Scaled images."""
        factor = 1 / (1 + self.percent / 100)
        return _linear(images, ((factor, 0.0), (0.0, factor)))


def _linear(images: Tensor, matrix: tuple[tuple[float, float], tuple[float, float]]) -> Tensor:
    """out(s) = in(A s), s = (x, y) from the centre."""
    height, width = images.shape[-2:]
    kind = images.dtype if images.dtype in (torch.float32, torch.float64) else torch.float32
    x = torch.arange(width, dtype=kind, device=images.device) - (width - 1) / 2
    y = (torch.arange(height, dtype=kind, device=images.device) - (height - 1) / 2)[:, None]
    (a, b), (c, d) = matrix
    across, down = x - (a * x + b * y), y - (c * x + d * y)
    n = len(images)
    return warped(images, torch.stack([across.expand(n, height, width), down.expand(n, height, width)], dim=1))

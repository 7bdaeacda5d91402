r"""Images in polar coordinates: a rotation about the centre becomes a circular shift of the angles.

    x(r, a) = image( centre + radius_r (cos phi_a, sin phi_a) ),   phi_a = 2 pi a / A,   a = 0 ... A - 1,

by bilinear interpolation. With `endpoint=True` the angles are those of the published code, 2 pi a / (A - 1): the last one
repeats the first, a rotation by one step is no circular shift of the A columns, and invariance to rotations is lost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from probes.errors import DataError, UsageError

__all__ = ["Polar"]


class Polar(nn.Module):
    """(n, C, H, W) -> (n, C radii, angles), channel by channel, inner radii first.

    Parameters
    ----------
    radii : int, default 15
        Number of radii, (r + 1/2) / radii of the half side, r = 0 ... radii - 1.
    angles : int, default 200
        Number of angles.
    endpoint : bool, default False
        Repeat the first angle as the last one, as the published code does.

    Raises
    ------
    UsageError
        If a number is below 1.
    DataError
        When called, if the input is no batch of square images.

    Examples
    --------
    A rotation by 90 degrees is a shift by a quarter of the angles.

    >>> image = torch.rand(1, 1, 9, 9, dtype=torch.float64)
    >>> polar = Polar(radii=4, angles=12)
    >>> turned = polar(torch.rot90(image, -1, dims=(2, 3)))
    >>> bool(torch.allclose(turned, polar(image).roll(3, dims=2)))
    True
    """

    def __init__(self, radii: int = 15, angles: int = 200, *, endpoint: bool = False) -> None:
        super().__init__()
        if radii < 1 or angles < 1:
            raise UsageError(f"{radii} radii and {angles} angles; at least one of each is needed.")
        self.radii, self.angles, self.endpoint = radii, angles, endpoint

    def forward(self, x: Tensor) -> Tensor:
        """Images by radius and angle."""
        if x.ndim != 4 or x.shape[2] != x.shape[3] or x.shape[2] < 2:
            raise DataError(f"Images of shape {tuple(x.shape)}: (n, C, side, side) is needed for polar coordinates.")
        x = x if x.is_floating_point() else x.float()
        steps = max(1, self.angles - 1) if self.endpoint else self.angles
        phi = torch.arange(self.angles, dtype=torch.float64) * (2 * torch.pi / steps)
        radius = (torch.arange(self.radii, dtype=torch.float64) + 0.5) / self.radii
        side = x.shape[2]
        places = torch.stack([torch.cos(phi) * radius[:, None], torch.sin(phi) * radius[:, None]], dim=-1)
        places = (places * ((side - 1) / side)).to(x)  # the outermost pixels' centres at radius 1
        values = functional.grid_sample(x, places.expand(len(x), -1, -1, -1), mode="bilinear", align_corners=False)
        return values.flatten(1, 2)

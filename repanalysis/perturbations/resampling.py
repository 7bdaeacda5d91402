"""Backward warping: out(y, x) = in(y - d_y, x - d_x), bilinear, source coordinates clamped to the image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["warped"]


def warped(images: Tensor, field: Tensor) -> Tensor:
    """Images displaced by a field each, the same for all colours.

    Parameters
    ----------
    images : (n, c, h, w) tensor
        Floating point.
    field : (n, 2, h, w) tensor
        d_x and d_y, in pixels.

    Returns
    -------
    (n, c, h, w) tensor
        Interpolated between the four pixels around the source; beyond the border, the border pixel.

    Examples
    --------
    >>> ramp = torch.arange(4.0).view(1, 1, 1, 4)
    >>> half = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 4)
    >>> [round(v, 4) for v in warped(ramp, half).flatten().tolist()]
    [0.0, 0.5, 1.5, 2.5]
    """
    # grid_sample's coordinates run from -1 to 1 between the centres of the outermost pixels; a side of one pixel stays as it
    # is.
    height, width = images.shape[-2:]
    across = torch.sub(_centres(width, field), field[:, 0], alpha=2 / max(width - 1, 1))
    down = torch.sub(_centres(height, field)[:, None], field[:, 1], alpha=2 / max(height - 1, 1))
    # A complex tensor stores its parts interleaved, as grid_sample wants the coordinates; this is the fastest way.
    grid = torch.view_as_real(torch.complex(across, down))
    return functional.grid_sample(images, grid.to(images.dtype), "bilinear", "border", align_corners=True)


def _centres(side: int, like: Tensor) -> Tensor:
    """Coordinates of pixel centres, from -1 to 1."""
    return torch.arange(side, dtype=like.dtype, device=like.device) * (2 / max(side - 1, 1)) - 1

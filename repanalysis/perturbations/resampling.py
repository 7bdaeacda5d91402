"""Backward warping: out(y, x) = in(y - d_y, x - d_x), bilinear, source coordinates clamped to the image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["warped"]


def warped(images: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Images moved by a field of their own, every colour alike.

    Parameters
    ----------
    images : (n, c, h, w) tensor
        Floating point.
    across, down : (n, h, w) tensors
        d_x and d_y, in pixels.

    Returns
    -------
    (n, c, h, w) tensor
        Bilinear between the four pixels around the source; at the border the border's.

    Examples
    --------
    >>> ramp = torch.arange(4.0).view(1, 1, 1, 4)
    >>> [round(v, 4) for v in warped(ramp, torch.full((1, 1, 4), 0.5), torch.zeros(1, 1, 4)).flatten().tolist()]
    [0.0, 0.5, 1.5, 2.5]
    """
    height, width = images.shape[-2:]
    x = torch.arange(width, dtype=across.dtype, device=across.device) - across
    y = torch.arange(height, dtype=down.dtype, device=down.device)[:, None] - down
    # grid_sample counts from -1 to 1 between the centres of the outermost pixels; a side of one pixel has nothing to move.
    grid = torch.stack([x * (2 / max(width - 1, 1)) - 1, y * (2 / max(height - 1, 1)) - 1], dim=-1)
    return functional.grid_sample(images, grid.to(images.dtype), "bilinear", "border", align_corners=True)

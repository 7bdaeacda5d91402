"""Random crops, as in data augmentation: every image of a batch is shifted by a few random pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["random_crops"]


def random_crops(images: Tensor, border: int, generator: torch.Generator) -> Tensor:
    """Shift every image by -border to border pixels per axis; new pixels are zero.

    Examples
    --------
    >>> images = torch.arange(4.0).view(1, 1, 2, 2).expand(9, 1, 2, 2)
    >>> moved = random_crops(images, 1, torch.Generator().manual_seed(0))
    >>> moved.shape, sorted({float(one.max()) for one in moved})[0] >= 0
    (torch.Size([9, 1, 2, 2]), True)
    """
    n, _, height, width = images.shape
    padded = functional.pad(images, (border,) * 4)
    top, left = torch.randint(0, 2 * border + 1, (2, n), generator=generator)
    rows = top[:, None] + torch.arange(height)  # (n, h)
    columns = left[:, None] + torch.arange(width)  # (n, w)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)

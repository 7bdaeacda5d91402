"""Active pixels that move by one: the diffeomorphism of images with a few points (docs/stability.md, Formulas)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from probes.errors import UsageError
from repanalysis._checks import not_negative
from repanalysis.perturbations.base import Perturbation

__all__ = ["Moves"]

_MOST = 64  # active pixels; as many draws are made for every image


@dataclass(frozen=True)
class Moves(Perturbation):
    """Every pixel that is not 0 moves, each in a random direction of its own.

    Parameters
    ----------
    seed : int, default 0
        What directions depend on, with the sample's id.
    pixels : float, default 1
        How far: to the left or the right with probability 1/2 each where the image has one row; else in a direction uniform on
        the circle, rounded to whole pixels. At the border pixels stop.
    block : int, default 0
        Where it is not 0: a move that leaves its aligned block of so many pixels is not made. So labels of task 2 are kept.

    Notes
    -----
    Pixels that meet are added. The norm stays the same where none do.

    Examples
    --------
    >>> x = torch.zeros(1, 1, 1, 8)
    >>> x[..., 3] = 2.0
    >>> Moves()(x, [0]).flatten().nonzero().item() in (2, 4)
    True
    """

    name = "moves"
    strength_field = "pixels"

    pixels: float = 1.0
    block: int = 0

    def __post_init__(self) -> None:
        not_negative("pixels", self.pixels)
        not_negative("block", self.block)

    def moved(self, images: Tensor, ids: Sequence[int]) -> Tensor:
        """Images with their points moved."""
        active = images.ne(0).any(1)
        counts = active.flatten(1).sum(1)
        if int(counts.max()) > _MOST:
            raise UsageError(
                f"An image has {int(counts.max())} active pixels; `moves` is for images of at most {_MOST} points."
            )
        image, row, column = active.nonzero(as_tuple=True)
        first = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(image), device=images.device) - first[image]
        drawn = self.normal(ids, (_MOST, 2)).to(images.device)[image, rank]
        height, width = images.shape[-2:]
        if height == 1:
            across, down = torch.where(drawn[:, 0] < 0, -self.pixels, self.pixels).round().long(), torch.zeros_like(row)
        else:
            angle = torch.atan2(drawn[:, 0], drawn[:, 1]) + pi
            across, down = ((self.pixels * way(angle)).round().long() for way in (torch.cos, torch.sin))
        to_row, to_column = (row + down).clamp(0, height - 1), (column + across).clamp(0, width - 1)
        if self.block:
            left = (to_row // self.block != row // self.block) | (to_column // self.block != column // self.block)
            to_row, to_column = torch.where(left, row, to_row), torch.where(left, column, to_column)
        images_moved = torch.zeros_like(images).movedim(1, -1)
        images_moved.index_put_((image, to_row, to_column), images.movedim(1, -1)[image, row, column], accumulate=True)
        return images_moved.movedim(-1, 1).contiguous()

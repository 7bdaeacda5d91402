"""Displacements of active pixels: a diffeomorphism for images of a few points (docs/stability.md, Formulas)."""

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

_MAX_POINTS = 64  # active pixels; so many draws are made for every image


@dataclass(frozen=True)
class Moves(Perturbation):
    """Moves every nonzero pixel in a random direction of its own.

    Parameters
    ----------
    seed : int, default 0
        Seed of the directions; each sample's directions also depend on its id.
    pixels : float, default 1
        Distance. In images of one row a pixel moves left or right with probability 1/2 each; otherwise in a direction that is
        uniform on the circle, rounded to whole pixels. Pixels stop at the border.
    block : int, default 0
        If not 0, pixels stay where they are if they would leave their aligned block of so many pixels; this preserves labels of
        task 2.

    Notes
    -----
    Pixels that meet are added. If none meet, the norm is preserved.

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

    def apply(self, images: Tensor, ids: Sequence[int]) -> Tensor:
        """Images with moved points."""
        active = images.ne(0).any(1)
        counts = active.flatten(1).sum(1)
        if int(counts.max()) > _MAX_POINTS:
            raise UsageError(
                f"An image has {int(counts.max())} active pixels; `moves` is for images of at most {_MAX_POINTS} points."
            )
        image, row, column = active.nonzero(as_tuple=True)
        first = torch.cumsum(counts, 0) - counts
        rank = torch.arange(len(image), device=images.device) - first[image]
        drawn = self.normal(ids, (_MAX_POINTS, 2)).to(images.device)[image, rank]
        height, width = images.shape[-2:]
        if height == 1:
            across, down = torch.where(drawn[:, 0] < 0, -self.pixels, self.pixels).round().long(), torch.zeros_like(row)
        else:
            angle = torch.atan2(drawn[:, 0], drawn[:, 1]) + pi
            across, down = ((self.pixels * component(angle)).round().long() for component in (torch.cos, torch.sin))
        to_row, to_column = (row + down).clamp(0, height - 1), (column + across).clamp(0, width - 1)
        if self.block:
            leaves = (to_row // self.block != row // self.block) | (to_column // self.block != column // self.block)
            to_row, to_column = torch.where(leaves, row, to_row), torch.where(leaves, column, to_column)
        perturbed = torch.zeros_like(images).movedim(1, -1)
        perturbed.index_put_((image, to_row, to_column), images.movedim(1, -1)[image, row, column], accumulate=True)
        return perturbed.movedim(-1, 1).contiguous()

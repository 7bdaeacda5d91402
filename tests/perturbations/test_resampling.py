"""warped: whole pixels are rolls, clamped at the border; a side of one pixel stays."""

from __future__ import annotations

import numpy as np
import torch

from repanalysis.perturbations.resampling import warped


def test_whole_pixels_are_gathered(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.random((1, 1, 6, 7)))
    ones = torch.ones(1, 6, 7, dtype=torch.float64)
    found = warped(x, torch.stack([2 * ones, -ones], dim=1))
    wanted = x[..., [1, 2, 3, 4, 5, 5], :][..., [0, 0, 0, 1, 2, 3, 4]]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_one_row_of_pixels_can_only_move_along_itself() -> None:
    x = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 1, 3)
    found = warped(x, torch.tensor([1.0, 5.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3))
    assert found.flatten().tolist() == [1.0, 1.0, 2.0]

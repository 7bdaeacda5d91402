"""warped: displacements by whole pixels, clamped at the border, and images one pixel high."""

from __future__ import annotations

import numpy as np
import torch

from repanalysis.perturbations.resampling import warped


def test_displacements_by_whole_pixels_gather_pixels(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.random((1, 1, 6, 7)))
    ones = torch.ones(1, 6, 7, dtype=torch.float64)
    result = warped(x, torch.stack([2 * ones, -ones], dim=1))
    expected = x[..., [1, 2, 3, 4, 5, 5], :][..., [0, 0, 0, 1, 2, 3, 4]]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)


def test_a_single_row_of_pixels_only_moves_along_the_row() -> None:
    x = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 1, 3)
    result = warped(x, torch.tensor([1.0, 5.0]).view(1, 2, 1, 1).expand(1, 2, 1, 3))
    assert result.flatten().tolist() == [1.0, 1.0, 2.0]

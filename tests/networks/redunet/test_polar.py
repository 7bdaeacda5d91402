"""Rotations are circular shifts of the angles, unless the first angle is repeated."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from probes.errors import DataError, UsageError
from repanalysis.networks.redunet.polar import Polar


@pytest.mark.parametrize("side", [8, 9, 28])
@pytest.mark.parametrize("angles", [4, 12, 200])
def test_a_quarter_turn_is_a_shift_by_a_quarter(side: int, angles: int) -> None:
    x = torch.rand(3, 2, side, side, dtype=torch.float64)
    polar = Polar(radii=5, angles=angles)
    y = polar(x)
    assert y.shape == (3, 10, angles)
    torch.testing.assert_close(polar(torch.rot90(x, -1, dims=(2, 3))), y.roll(angles // 4, dims=2), rtol=0, atol=1e-12)


def test_the_repeated_end_point_breaks_the_shift() -> None:
    x = torch.rand(1, 1, 9, 9, dtype=torch.float64)
    polar = Polar(radii=4, angles=12, endpoint=True)
    y = polar(x)
    torch.testing.assert_close(y[..., 0], y[..., -1], rtol=0, atol=1e-12)
    turned = polar(torch.rot90(x, -1, dims=(2, 3)))
    assert min(float((turned - y.roll(shift, dims=2)).abs().max()) for shift in range(12)) > 0.01


def test_values_are_those_of_a_linear_image() -> None:
    """Bilinear interpolation is exact on a + b column + c row."""
    side, centre = 11, 5.0
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    x = (2.0 + 0.5 * column - 0.25 * row).double()[None, None]
    y = Polar(radii=3, angles=8)(x)[0].numpy()
    for r in range(3):
        for a in range(8):
            radius, phi = (r + 0.5) / 3 * centre, 2 * math.pi * a / 8
            expected = 2.0 + 0.5 * (centre + radius * math.cos(phi)) - 0.25 * (centre + radius * math.sin(phi))
            np.testing.assert_allclose(y[r, a], expected, rtol=1e-12)


def test_bad_input_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        Polar(radii=0)
    for shape in ((1, 4, 5), (2, 1, 4, 5), (2, 1, 1, 1)):
        with pytest.raises(DataError, match="is needed"):
            Polar()(torch.zeros(shape))

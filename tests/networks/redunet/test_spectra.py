"""Half spectra are isometric coordinates of signals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.errors import DataError
from repanalysis.networks.redunet.spectra import Grid


@pytest.mark.parametrize("size", [(), (1,), (2,), (7,), (8,), (1, 1), (3, 4), (4, 3), (1, 6), (6, 1), (5, 5)])
def test_spectra_preserve_norms_and_return(size: tuple[int, ...]) -> None:
    grid = Grid(3, size)
    x = torch.randn(4, 3, *size, dtype=torch.float64)
    u = grid.spectrum(x)
    assert u.shape == (grid.frequencies, 3, 4)
    np.testing.assert_allclose(u.abs().square().sum(dim=(0, 1)), x.flatten(1).square().sum(dim=1), rtol=1e-12)
    np.testing.assert_allclose(grid.signal(u), x, atol=1e-13)
    assert grid.multiplicity(x).sum() == grid.points


def test_a_shift_is_a_phase() -> None:
    grid = Grid(1, (9,))
    x = torch.randn(2, 1, 9, dtype=torch.float64)
    phases = torch.exp(-2j * torch.pi * torch.arange(5, dtype=torch.float64) * 4 / 9)[:, None, None]
    np.testing.assert_allclose(grid.spectrum(x.roll(4, dims=2)), grid.spectrum(x) * phases, atol=1e-13)


@pytest.mark.parametrize(("size", "shape"), [((), (4,)), ((8,), (3, 9)), ((8,), (2, 8)), ((4, 4), (3, 4, 5)), ((4,), (3,))])
def test_other_shapes_are_refused(size: tuple[int, ...], shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="Resize the samples"):
        Grid(3, size).spectrum(torch.zeros(2, *shape))

"""Rotation and scaling: right angles agree with rot90, and a disk grows by the scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.errors import UsageError
from repanalysis.perturbations import Rotation, Scaling


def test_right_angles_agree_with_numpy(rng: np.random.Generator) -> None:
    x = rng.random((1, 2, 9, 9))
    for quarter in (1, 2, 3):
        result = Rotation(degrees=90.0 * quarter)(torch.from_numpy(x), [0]).numpy()
        np.testing.assert_allclose(result, np.rot90(x, quarter, axes=(2, 3)), atol=1e-10)


def disk(radius: float, side: int = 64) -> torch.Tensor:
    places = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    distance = torch.hypot(places[:, None], places)
    return torch.sigmoid((radius - distance) * 2).view(1, 1, side, side)


def test_a_disk_is_invariant_to_rotation_and_grows_under_scaling() -> None:
    torch.testing.assert_close(Rotation(degrees=33.0)(disk(15), [0]), disk(15), rtol=0, atol=0.05)
    torch.testing.assert_close(
        Scaling(percent=20.0)(disk(15), [0]).sum() / disk(15).sum(), torch.tensor(1.44).double(), rtol=0.01, atol=0
    )
    torch.testing.assert_close(
        Scaling(percent=-20.0)(disk(15), [0]).sum() / disk(15).sum(), torch.tensor(0.64).double(), rtol=0.01, atol=0
    )


def test_a_scale_of_0_is_refused() -> None:
    with pytest.raises(UsageError, match="percent must be above -100"):
        Scaling(percent=-100.0)

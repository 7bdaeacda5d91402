"""Lifting is equivariant to circular shifts, and the plain circular cross-correlation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.errors import DataError, UsageError
from repanalysis.networks.redunet.lifting import Lift


@pytest.mark.parametrize("shape", [(2, 9), (1, 3), (2, 6, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_shift_of_the_input_shifts_the_output(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    lift = Lift(shape[0], 4, 3, len(shape) - 1)
    x = torch.randn(3, *shape, dtype=dtype)
    axes = tuple(range(2, x.ndim))
    y = lift(x)
    assert y.shape == (3, 4, *shape[1:])
    assert y.dtype == dtype
    torch.testing.assert_close(lift(x.roll((2,) * len(axes), axes)), y.roll((2,) * len(axes), axes), rtol=1e-5, atol=1e-5)


def test_it_is_the_plain_sum() -> None:
    lift = Lift(2, 3, 2, 1, seed=5)
    x = np.random.default_rng(0).normal(size=(2, 7))
    kernels = lift.kernels.numpy()
    plain = [
        [max(0.0, sum(kernels[o, c, i] * x[c, (t + i) % 7] for c in range(2) for i in range(2))) for t in range(7)]
        for o in range(3)
    ]
    np.testing.assert_allclose(lift(torch.from_numpy(x)[None])[0], plain, atol=1e-13)


def test_kernels_are_those_of_the_seed() -> None:
    a, b, c = (Lift(1, 200, 9, 2, seed=seed).kernels for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert abs(float(a.mean())) < 0.03
    assert abs(float(a.std()) - 1) < 0.03


def test_bad_numbers_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        Lift(1, 0, 3, 1)
    with pytest.raises(DataError, match="smaller one"):
        Lift(1, 2, 5, 2)(torch.zeros(1, 1, 8, 4))

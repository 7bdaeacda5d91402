"""Rounding error: the formula against rounded numbers, real matrix products, and eigenvalues of pure noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from repanalysis.statistics import ClassMoments, Groups, Rows, Samples
from repanalysis.statistics.rounding import EXACT, largest_eigenvalue, resolution_of

TYPES = ["float16", "bfloat16", "float32"]


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    return torch.from_numpy(x).to(getattr(torch, dtype)).double().numpy()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("scale", [1e-7, 1.0, 1e3])
def test_storage_error_is_below_the_margin_and_not_far_below(dtype: str, scale: float) -> None:
    x = scale * (1.5 + np.random.default_rng(0).normal(size=100_000))
    share, variance = resolution_of(dtype) - [100 * min(float(torch.finfo(getattr(torch, dtype)).eps), 2.0**-23) ** 2, 0.0]
    error = np.square(rounded(x, dtype) - x).mean()
    allowed = share * np.square(x).mean() + variance
    assert allowed / 16 < error < allowed / 2, "a margin of 4, of which the spread of mantissas takes another half"


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("k", "d", "n"), [(32, 128, 1000), (512, 600, 1500), (64, 768, 400)])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_errors_of_matrix_products_stay_below_the_threshold(dtype: str, k: int, d: int, n: int, offset: float) -> None:
    """Outputs of a linear layer against the exact product of the same numbers: largest eigenvalue of the errors."""
    generator = torch.Generator().manual_seed(0)
    kind = getattr(torch, dtype)
    x = (torch.randn(n, k, generator=generator).relu() + offset).to(kind)
    weight = (torch.randn(d, k, generator=generator) / k**0.5).to(kind)
    y = torch.nn.functional.linear(x, weight).double().numpy()
    errors = y - x.double().numpy() @ weight.double().numpy().T
    moments = ClassMoments().of(y, np.zeros(n, int)).at_resolution(resolution_of(dtype))
    unit = np.sqrt(moments.rounding())
    assert np.linalg.eigvalsh(np.cov((errors / unit).T))[-1] < largest_eigenvalue(n, d)


@pytest.mark.parametrize(("n", "d"), [(2000, 20), (500, 500), (200, 1500)])
def test_largest_eigenvalue_of_noise(n: int, d: int) -> None:
    x = np.random.default_rng(1).normal(size=(n, d))
    assert np.linalg.norm(x, 2) ** 2 / n == pytest.approx(largest_eigenvalue(n, d), rel=0.05)


def test_means_have_smaller_rounding_errors() -> None:
    x = np.abs(np.random.default_rng(2).normal(size=(20_000, 49)))
    error = np.square(rounded(x, "bfloat16").mean(axis=1) - x.mean(axis=1)).mean()
    allowed = resolution_of("bfloat16", 49.0)[0] * np.square(x.mean(axis=1)).mean()
    assert allowed / 16 < error < allowed


def test_integer_types_have_no_rounding_error() -> None:
    for dtype in (np.int32, "uint8", bool, "object", ""):
        np.testing.assert_array_equal(resolution_of(dtype), EXACT)
    assert resolution_of(torch.bfloat16)[0] == resolution_of("bfloat16")[0] > resolution_of(np.float16)[0] > EXACT[0]


@pytest.mark.parametrize("statistic", [ClassMoments(), Rows(), Samples(), Groups(ClassMoments(), 3)], ids=str)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4"])
def test_states_record_the_coarsest_type(statistic: Rows | Samples, dtype: str) -> None:
    x, y = np.eye(3, dtype=dtype), np.arange(3)
    coarse = statistic.of(x, y)
    mixed = statistic.update(statistic.init(3), np.eye(3), y, np.arange(3))
    mixed = statistic.finish(statistic.merge(mixed, statistic.update(statistic.init(3), x, y, np.arange(3, 6))))
    for state in (coarse, mixed):
        np.testing.assert_array_equal(getattr(state, "whole", state).resolution, resolution_of(np.dtype(dtype)))


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_steps_agree_with_torch(name: str) -> None:
    """a = 4 eps^2 / 12 P + (10 min(eps, 2^-23))^2 and b = 4 s^2 / 12, with P at least 1."""
    info = torch.finfo(getattr(torch, name))
    smallest = float(info.tiny * info.eps)  # subnormal numbers
    for averaged in (0.5, 1.0, 49.0):
        share, variance = resolution_of(name, averaged)
        assert share == pytest.approx(info.eps**2 / (3 * max(averaged, 1.0)) + 100 * min(info.eps, 2.0**-23) ** 2, rel=1e-12)
        assert variance == pytest.approx(smallest**2 / 3, rel=1e-12)

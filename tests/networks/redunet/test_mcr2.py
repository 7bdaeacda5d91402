"""The loss is minus the metric, its gradient is the closed form, and it trains."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.errors import DataError, UsageError
from repanalysis.networks.redunet.mcr2 import MaximalCodingRateReduction
from tests.metrics.rates import CANONICAL, plain, subspaces


def batch(n: int, d: int, k: int = 3, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n + d)
    return torch.randn(n, d, generator=generator, dtype=dtype), torch.arange(n) % k


@pytest.mark.parametrize("case", CANONICAL)
def test_values_of_the_table(case: str) -> None:
    (dims, copies, d, eps_sq), expected = CANONICAL[case]
    x, y = (torch.from_numpy(array) for array in subspaces(dims, copies, d))
    assert float(MaximalCodingRateReduction(eps_sq)(x, y)) == pytest.approx(-expected[2], abs=1e-6)


@pytest.mark.parametrize(("n", "d"), [(30, 4), (12, 40), (3, 3)])
def test_it_is_minus_the_rate_reduction(n: int, d: int) -> None:
    x, y = batch(n, d)
    rate, classwise = plain(x.numpy(), y.numpy(), 0.3, "sphere")
    loss = MaximalCodingRateReduction(0.3)
    np.testing.assert_allclose([float(value) for value in loss.rates(x, y)], [rate, classwise], rtol=1e-11)
    assert float(loss(x, y)) == pytest.approx(classwise - rate, rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(20, 4), (12, 30)])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_gradient_is_the_closed_form_and_that_of_differences(n: int, d: int, normalize: bool) -> None:
    x, y = batch(n, d)
    loss = MaximalCodingRateReduction(0.5, normalize=normalize)
    assert torch.autograd.gradcheck(lambda z: loss(z, y), x.clone().requires_grad_(), rtol=1e-6)
    if normalize:
        return
    z = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z, y), z)
    alpha = d / (n * 0.5)
    expected = -x @ (alpha * torch.linalg.inv(torch.eye(d) + alpha * x.T @ x))
    for k in range(3):
        rows = y == k
        alpha_k = d / (int(rows.sum()) * 0.5)
        inverse = torch.linalg.inv(torch.eye(d) + alpha_k * x[rows].T @ x[rows])
        expected[rows] += int(rows.sum()) / n * alpha_k * x[rows] @ inverse
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-11)


def test_scales_of_samples_do_not_matter_with_normalisation() -> None:
    x, y = batch(20, 5)
    loss = MaximalCodingRateReduction()
    scaled = x * torch.linspace(0.1, 9, 20, dtype=torch.float64)[:, None]
    torch.testing.assert_close(loss(scaled, y), loss(x, y))
    assert float(MaximalCodingRateReduction(normalize=False)(10 * x, y)) < float(
        MaximalCodingRateReduction(normalize=False)(x, y)
    )


def test_the_published_factors() -> None:
    x, y = batch(20, 5)
    z = x / x.norm(dim=1, keepdim=True)
    whole = torch.logdet(torch.eye(5) + 20.0 * 5 / (20 * 0.5) * z.T @ z) / 2
    _, classes = MaximalCodingRateReduction().rates(x, y)
    loss = MaximalCodingRateReduction(0.5, gamma_inside=20.0, gamma_outside=0.05)
    torch.testing.assert_close(loss(x, y), classes - 0.05 * whole)


def test_missing_classes_zero_rows_and_maps() -> None:
    x, y = batch(12, 6)
    loss = MaximalCodingRateReduction()
    torch.testing.assert_close(loss(x, y * 7), loss(x, y))  # labels need not be contiguous
    assert loss(x, torch.zeros(12, dtype=torch.int64)).item() == pytest.approx(0, abs=1e-12)
    x[3] = 0
    z = x.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z, y), z)
    assert torch.isfinite(gradient).all()
    torch.testing.assert_close(loss(z.unflatten(1, (2, 3)), y), loss(z, y))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x, y = batch(60, 16)
    rounded = x.to(dtype)
    value = MaximalCodingRateReduction(0.01)(rounded, y)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float(MaximalCodingRateReduction(0.01)(rounded.double(), y)), rel=1e-4)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), "are needed"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), "are needed"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "are needed"),
        (torch.zeros(3, 2), torch.tensor([0, -1, 0]), "0 or above"),
        (torch.zeros(3, 2), torch.zeros(3), "0 or above"),
        (torch.full((3, 2), float("nan")), torch.tensor([0, 1, 0]), "Lower the learning rate"),
    ],
)
def test_bad_batches_are_refused(features: torch.Tensor, labels: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        MaximalCodingRateReduction()(features, labels)


@pytest.mark.parametrize("options", [{"eps_sq": 0.0}, {"gamma_inside": 0.0}, {"gamma_outside": -1.0}])
def test_bad_parameters_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        MaximalCodingRateReduction(**options)


def test_gradient_ascent_reaches_orthogonal_classes() -> None:
    """Free features end at the table's value of two lines."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(2).repeat_interleave(30)
    centres = torch.tensor([[1.0, 0.0], [0.5, 0.9]], dtype=torch.float64)
    z = (centres[y] + 0.1 * torch.randn(60, 2, generator=generator, dtype=torch.float64)).requires_grad_()
    loss, optimizer = MaximalCodingRateReduction(0.1), torch.optim.SGD([z], lr=10.0)
    for _ in range(500):
        optimizer.zero_grad()
        torch.autograd.backward(loss(z, y))
        optimizer.step()
    assert loss(z, y).item() == pytest.approx(-0.875634, abs=1e-4)

"""Laws of the operators, the rates and the step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.errors import UsageError
from repanalysis.networks.redunet.operators import Step, class_rates, normalized, operators_of
from repanalysis.networks.redunet.spectra import Grid
from tests.metrics.rates import CANONICAL, subspaces
from tests.networks.redunet import plain

GRIDS = [Grid(5), Grid(3, (1,)), Grid(2, (6,)), Grid(3, (5,)), Grid(2, (4, 3)), Grid(2, (3, 4)), Grid(1, (5, 5))]


def data(grid: Grid, counts: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalized(torch.randn(sum(counts), *grid.shape, generator=generator, dtype=torch.float64) + 0.3)


def labels(counts: tuple[int, ...]) -> np.ndarray:
    return np.arange(len(counts)).repeat(counts)


@pytest.mark.parametrize("case", CANONICAL)
def test_rates_of_orthogonal_subspaces_are_those_of_the_table(case: str) -> None:
    (dims, copies, d, eps_sq), expected = CANONICAL[case]
    x, y = subspaces(dims, copies, d)
    grid, counts = Grid(d), np.bincount(y).tolist()
    u = grid.spectrum(torch.from_numpy(x))
    _, rates = operators_of(u, Step.of(grid, counts, eps_sq=eps_sq))
    np.testing.assert_allclose(rates, expected, atol=1e-6)
    np.testing.assert_allclose(class_rates(u, counts, grid, eps_sq), expected, atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("counts", [(4, 3), (2, 5, 1)])
def test_operators_and_rates_are_those_of_all_shifts(grid: Grid, counts: tuple[int, ...]) -> None:
    """Against dense block circulants with explicit inverses: R / T, and E, C_k applied to any signal."""
    z, eps_sq = data(grid, counts), 0.3
    step = Step.of(grid, counts, eps_sq=eps_sq)
    operators, rates = operators_of(grid.spectrum(z), step)
    every = plain.shifts(z.numpy())
    dense = plain.operators(every, labels(counts).repeat(grid.points), every.shape[1] / eps_sq)
    np.testing.assert_allclose(rates, dense[3] / grid.points, rtol=1e-12, atol=1e-13)
    v = torch.randn(3, *grid.shape, dtype=torch.float64)
    for index, matrix in enumerate([dense[0], *dense[1]]):
        rows = slice(index * grid.channels, (index + 1) * grid.channels)
        applied = grid.signal(operators[:, rows] @ grid.spectrum(v)).reshape(3, -1)
        np.testing.assert_allclose(applied, v.reshape(3, -1).numpy() @ matrix.T, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_operators_are_hermitian_with_bounded_eigenvalues(grid: Grid) -> None:
    counts = (4, 2, 6)
    step = Step.of(grid, counts, eps_sq=0.2)
    operators, _ = operators_of(grid.spectrum(data(grid, counts)), step)
    matrices = torch.unflatten(operators, 1, (-1, grid.channels))
    torch.testing.assert_close(matrices, matrices.mH, rtol=0, atol=1e-12)
    alphas = [grid.channels / (n * 0.2) for n in (sum(counts), *counts)]
    for index, alpha in enumerate(alphas):
        eigenvalues = torch.linalg.eigvalsh(matrices[:, index])
        assert eigenvalues.min() > 0
        assert eigenvalues.max() <= alpha * (1 + 1e-12)
    assert all(n / sum(counts) * alpha_k == pytest.approx(alphas[0]) for n, alpha_k in zip(counts, alphas[1:], strict=True))


def test_the_expansion_is_a_ridge_residual() -> None:
    """E z = alpha (z - Z q), q the minimiser of alpha ||z - Z q||^2 + ||q||^2 (law 11)."""
    grid, counts = Grid(6), (5, 4)
    z = data(grid, counts).numpy().T  # columns
    alpha = 6 / (9 * 0.1)
    operators, _ = operators_of(grid.spectrum(data(grid, counts)), Step.of(grid, counts, eps_sq=0.1))
    v = np.arange(1.0, 7.0)
    q = np.linalg.lstsq(np.vstack([np.sqrt(alpha) * z, np.eye(9)]), np.r_[np.sqrt(alpha) * v, np.zeros(9)], rcond=None)[0]
    np.testing.assert_allclose(operators[0, :6].numpy() @ v, alpha * (v - z @ q), rtol=1e-10)


def test_with_true_memberships_the_step_is_the_gradient() -> None:
    """A huge lam with samples on the lines of their classes makes pi one-hot; g is then autograd's n dDelta R / dZ / n."""
    grid, counts = Grid(4), (6, 5)
    x = torch.zeros(11, 4, dtype=torch.float64)
    x[:6, :2] = torch.randn(6, 2, dtype=torch.float64)
    x[6:, 2:] = torch.randn(5, 2, dtype=torch.float64)
    z = normalized(x).requires_grad_()
    b = 4 / 0.5

    def rate(rows: torch.Tensor) -> torch.Tensor:
        return torch.logdet(torch.eye(4, dtype=torch.float64) + b / len(rows) * rows.T @ rows) / 2

    reduction = rate(z) - 6 / 11 * rate(z[:6]) - 5 / 11 * rate(z[6:])
    (gradient,) = torch.autograd.grad(reduction, z)
    step = Step.of(grid, counts, eta=1e-6, eps_sq=0.5, lam=1e9)
    with torch.no_grad():
        u = grid.spectrum(z.detach())
        operators, _ = operators_of(u, step)
        moved = grid.signal(step.moved(u, operators))
    expected = normalized(z.detach() + 1e-6 * gradient)
    np.testing.assert_allclose((moved - z.detach()) / 1e-6, (expected - z.detach()) / 1e-6, atol=1e-8)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_step_is_that_of_the_plain_formula(grid: Grid) -> None:
    counts = (4, 3, 5)
    z, y = data(grid, counts), labels(counts)
    parameters = {"eta": 0.7, "lam": 3.0}
    step = Step.of(grid, counts, eps_sq=0.4, **parameters)
    u = grid.spectrum(z)
    operators, _ = operators_of(u, step)
    every = plain.shifts(z.numpy())
    dense = plain.operators(every, y.repeat(grid.points), every.shape[1] / 0.4)[:3]
    for new in (z, data(grid, (7,), seed=3)):
        expected = np.array([plain.step(v, *dense, **parameters) for v in new.reshape(len(new), -1).numpy()])
        moved = grid.signal(step.moved(grid.spectrum(new), operators)).reshape(len(new), -1)
        np.testing.assert_allclose(moved, expected, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(moved.norm(dim=1), 1, rtol=1e-12)


def test_chunks_of_samples_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    grid, counts = Grid(2, (6,)), (20, 21)
    step = Step.of(grid, counts)
    u = grid.spectrum(data(grid, counts))
    operators, _ = operators_of(u, step)
    whole, logits = step.moved(u, operators), step.assigned(u, operators)
    monkeypatch.setattr("repanalysis.networks.redunet.operators._CHUNK", 1)
    torch.testing.assert_close(step.moved(u, operators), whole, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(step.assigned(u, operators), logits, rtol=1e-13, atol=1e-14)
    assert step.moved(u[:, :, :0], operators).shape == (4, 2, 0)


def test_a_class_without_samples_is_skipped() -> None:
    grid = Grid(3)
    u = grid.spectrum(data(grid, (4, 5)))
    assert class_rates(u, [4, 0, 5], grid, 0.1) == class_rates(u, [4, 5], grid, 0.1)


def test_rates_do_not_change_with_shifts_of_each_sample() -> None:
    for grid in (Grid(3, (7,)), Grid(2, (4, 5))):
        z = data(grid, (4, 5))
        axes = tuple(range(1, 1 + len(grid.size)))
        moved = torch.stack([row.roll(tuple(range(i, i + len(axes))), dims=axes) for i, row in enumerate(z)])
        for counts in ([4, 5], [9]):
            a, b = (class_rates(grid.spectrum(x), counts, grid, 0.1) for x in (z, moved))
            np.testing.assert_allclose(a, b, atol=1e-13)


def test_official_parameters_are_converted_in_one_place() -> None:
    grid = Grid(2, (3, 4))
    official = Step.of(grid, (3, 4), eta=0.5, eps_sq=0.1, lam=500.0, spectral_norm="official")
    exact = Step.of(grid, (3, 4), eta=6.0, eps_sq=1.2, lam=6000.0)
    assert official[2:5] == pytest.approx(exact[2:5])
    assert official.eta_eff == pytest.approx(0.5 * 2 / (7 * 0.1))
    assert Step.of(grid, (3, 4), eta_eff=1.5, lam_eff=9.0).eta_eff == pytest.approx(1.5)
    for norm in ("exact", "official"):
        step = Step.of(grid, (3, 4), eta_eff=1.5, lam_eff=9.0, spectral_norm=norm)  # type: ignore[arg-type]
        assert (step.eta_eff, step.lam_eff) == pytest.approx((1.5, 9.0))


def test_the_official_rate_is_the_plain_one_with_a_unitary_transform() -> None:
    grid, counts = Grid(3, (8,)), (4, 5)
    z = data(grid, counts)
    step = Step.of(grid, counts, eps_sq=0.1, spectral_norm="official")
    _, rates = operators_of(grid.spectrum(z), step)
    v = np.fft.fft(z.numpy(), norm="ortho").transpose(2, 1, 0)  # all frequencies
    inner = np.eye(3) + 3 / (9 * 0.1) * v @ v.conj().transpose(0, 2, 1)
    assert rates.whole == pytest.approx(np.linalg.slogdet(inner)[1].sum() / (2 * 8), rel=1e-12)


@pytest.mark.parametrize(
    "parameters", [{"eps_sq": 0}, {"eps_sq": -1.0}, {"eta": 0.0}, {"eta": float("nan")}, {"lam": -1},
                   {"eta_eff": 0.0}, {"lam_eff": -1.0},
                   {"scheme": "fair"}, {"spectral_norm": "ortho"}]
)  # fmt: skip
def test_parameters_out_of_range_are_refused(parameters: dict) -> None:
    with pytest.raises(UsageError):
        Step.of(Grid(3), [2, 2], **parameters)


def test_a_distortion_below_the_precision_is_refused_with_a_remedy() -> None:
    grid, counts = Grid(40), (60, 7)
    x = data(grid, (1,)).repeat(67, 1)
    with pytest.raises(UsageError, match="eps_sq = 1e-300 is too small"):
        class_rates(grid.spectrum(x), counts, grid, 1e-300)


def test_large_dimensions_and_small_distortions_do_not_overflow() -> None:
    grid, counts = Grid(2048), (10, 10)
    x = data(grid, counts)
    double = class_rates(grid.spectrum(x), counts, grid, 1e-4)
    single = class_rates(grid.spectrum(x.float()), counts, grid, 1e-4)
    np.testing.assert_allclose(single, double, rtol=1e-5)
    gram = x.numpy() @ x.numpy().T
    assert double.whole == pytest.approx(np.linalg.slogdet(np.eye(20) + 2048 / (20 * 1e-4) * gram)[1] / 2, rel=1e-12)

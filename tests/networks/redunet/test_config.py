"""The parameters and what they give for samples of a shape."""

from __future__ import annotations

import pytest

from probes.errors import UsageError
from repanalysis.networks.redunet.config import ReduNetConfig, ReduNetKeywords
from repanalysis.networks.redunet.spectra import Grid


def test_keywords_are_the_fields() -> None:
    assert set(ReduNetKeywords.__annotations__) == set(ReduNetConfig.__dataclass_fields__)


@pytest.mark.parametrize(
    ("shape", "options", "grid"),
    [
        ((5,), {}, Grid(5)),
        ((2, 3, 4), {}, Grid(24)),
        ((2, 7), {"shift_invariant": True}, Grid(2, (7,))),
        ((1, 8, 9), {"shift_invariant": True, "channels": 6}, Grid(6, (8, 9))),
    ],
)
def test_the_grid_of_samples(shape: tuple[int, ...], options: dict, grid: Grid) -> None:
    assert ReduNetConfig(**options).grid(shape) == grid


@pytest.mark.parametrize("shape", [(5,), (1, 2, 3, 4)])
def test_samples_without_one_or_two_axes_have_no_shifts(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="Reshape them"):
        ReduNetConfig(shift_invariant=True).grid(shape)


@pytest.mark.parametrize(
    "options",
    [
        {"layers": 0}, {"eta": 0.0}, {"eta_eff": -1.0}, {"eps_sq": 0.0}, {"eps_sq": float("inf")}, {"lam": -1.0}, {"tol": -1.0},
        {"lam_eff": float("nan")}, {"assignment": "soft"}, {"spectral_norm": "unitary"}, {"dtype": "float16"}, {"kernel": 0},
        {"channels": -1}, {"channels": 3}, {"spectral_norm": "official"},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(UsageError):
        ReduNetConfig(**options)


def test_effective_parameters_replace_the_others() -> None:
    step = ReduNetConfig(eta=9.0, eta_eff=1.5, lam=9.0, lam_eff=30.0, eps_sq=0.2).step((4,), [3, 5])
    assert (step.eta_eff, step.lam_eff) == pytest.approx((1.5, 30.0))
    assert step.eta == pytest.approx(1.5 * 8 * 0.2 / 4)

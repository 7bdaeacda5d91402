"""Diffeomorphisms: constants of the specification, moments of the field, borders, folds, and a plain remap as oracle."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import pytest
import torch

from probes.errors import UsageError
from repanalysis.perturbations import Diffeomorphism, FoldWarning
from repanalysis.perturbations.diffeomorphism import delta_of, modes, temperature_of, temperatures

SUMS = {3: 1.2250, 5: 1.8779, 10: 2.7962, 15: 3.3652}  # S(c), docs/stability.md, Formulas


def test_constants_of_the_specification() -> None:
    assert [modes(c) for c in SUMS] == [6, 19, 77, 172]
    for c, expected in SUMS.items():
        inner = [(i, j) for i in range(1, c + 1) for j in range(1, c + 1) if sqrt(i * i + j * j) < c + 0.5]
        assert sum(1 / (i * i + j * j) for i, j in inner) == pytest.approx(expected, abs=5e-5)
    assert temperature_of(1.0, 3, 32) == pytest.approx(1.13179e-3, rel=1e-5)
    low, high = temperatures(3, 32)
    assert (low, high) == pytest.approx((2.829e-4, 1.305e-2), rel=5e-4)
    assert delta_of(low, 3, 32) == pytest.approx(0.5)
    assert delta_of(high, 3, 32) == pytest.approx(32 / (pi * 3))
    assert delta_of(temperature_of(0.7, 5, 100), 5, 100) == pytest.approx(0.7)
    assert temperatures(3, 224)[0] == pytest.approx(5.774e-6, rel=5e-4)


@pytest.mark.parametrize("c", [3, 5])
def test_moments_of_the_field(c: int) -> None:
    side, draws = 24, 4000
    field = torch.stack(Diffeomorphism(delta=1.0, c=c).field(range(draws), side, side), dim=1).numpy() / side
    temperature = temperature_of(1.0, c, side)
    expected = temperature * SUMS[c] / 4 * ((side - 1) / side) ** 2
    per_draw = np.square(field).mean(axis=(2, 3))
    assert np.abs(per_draw.mean(axis=0) - expected).max() < 5 * per_draw.std() / sqrt(draws)
    assert np.abs(field.mean(axis=0)).max() < 6 * np.sqrt(temperature * SUMS[c]) / sqrt(draws)
    mixed = (field[:, 0] * field[:, 1]).mean(axis=(1, 2))
    assert abs(mixed.mean()) < 5 * mixed.std() / sqrt(draws)
    slope = sum(np.square(np.diff(field[:, 0], axis=axis) * (side - 1)).mean() for axis in (1, 2))
    assert slope == pytest.approx(temperature * pi**2 * modes(c) / 4, rel=0.08)  # E |grad tau_x|^2, up to the grid


def test_the_field_is_the_sum_of_sines() -> None:
    diffeomorphism = Diffeomorphism(delta=1.3, c=3, seed=4)
    across, down = (component[0].numpy() for component in diffeomorphism.field([9], 10, 14))
    side = sqrt(140)
    c = diffeomorphism.normal([9], (2, 3, 3))[0].numpy()
    for axis, component_field in enumerate((across, down)):
        expected = np.zeros((10, 14))
        for i in range(1, 4):
            for j in range(1, 4):
                if sqrt(i * i + j * j) < 3.5:
                    weight = c[axis, i - 1, j - 1] * sqrt(temperature_of(1.3, 3, side) / (i * i + j * j))
                    v, u = np.arange(10)[:, None] / 9, np.arange(14) / 13
                    expected += weight * np.sin(pi * i * u) * np.sin(pi * j * v)
        np.testing.assert_allclose(component_field, side * expected, atol=1e-12)


def test_a_ramp_shows_the_displacement_and_borders_are_fixed() -> None:
    diffeomorphism = Diffeomorphism(delta=1.0)
    ramp = torch.arange(32, dtype=torch.float64).expand(3, 1, 32, 32)
    across = diffeomorphism.field([0, 1, 2], 32, 32)[0]
    deformed = diffeomorphism(ramp, [0, 1, 2])[:, 0]
    torch.testing.assert_close(deformed, (ramp[:, 0] - across).clamp(0, 31), rtol=0, atol=1e-10)
    x = torch.rand(2, 3, 20, 31, dtype=torch.float64)
    deformed_image = Diffeomorphism(delta=2.0)(x, [0, 1])
    for edge in (np.s_[..., 0, :], np.s_[..., -1, :], np.s_[..., 0], np.s_[..., -1]):
        torch.testing.assert_close(deformed_image[edge], x[edge], rtol=0, atol=1e-10)


def test_it_is_the_plain_bilinear_remap(rng: np.random.Generator) -> None:
    diffeomorphism = Diffeomorphism(delta=1.0, c=4)
    x = rng.random((2, 2, 11, 15))
    across, down = (component.numpy() for component in diffeomorphism.field([3, 4], 11, 15))
    deformed = diffeomorphism(torch.from_numpy(x), [3, 4]).numpy()
    for n in range(2):
        for row in range(11):
            for column in range(15):
                y, z = np.clip(row - down[n, row, column], 0, 10), np.clip(column - across[n, row, column], 0, 14)
                y0, z0 = int(np.floor(y)), int(np.floor(z))
                y1, z1, a, b = min(y0 + 1, 10), min(z0 + 1, 14), y - y0, z - z0
                expected = (1 - a) * ((1 - b) * x[n, :, y0, z0] + b * x[n, :, y0, z1]) + a * (
                    (1 - b) * x[n, :, y1, z0] + b * x[n, :, y1, z1]
                )
                np.testing.assert_allclose(deformed[n, :, row, column], expected, atol=1e-10)


def test_weak_deformations_do_not_fold() -> None:
    side = 64
    diffeomorphism = Diffeomorphism(delta=0.2 * side / (pi * 3), c=3)
    across, down = (component.numpy() for component in diffeomorphism.field(range(200), side, side))
    dxx, dxy = np.diff(across, axis=2)[:, :-1], np.diff(across, axis=1)[:, :, :-1]
    dyx, dyy = np.diff(down, axis=2)[:, :-1], np.diff(down, axis=1)[:, :, :-1]
    assert ((1 - dxx) * (1 - dyy) - dxy * dyx > 0).mean() > 0.999


def test_folding_deformations_warn_with_the_largest_delta() -> None:
    with pytest.warns(FoldWarning, match=r"delta = 9 pixels folds images of 32 pixels at c = 3; use at most 3.4 pixels"):
        Diffeomorphism(delta=9.0)(torch.zeros(1, 1, 32, 32), [0])


@pytest.mark.parametrize("c", [1, 0, 2.5])
def test_a_cutoff_below_two_has_a_one_sentence_error(c: float) -> None:
    with pytest.raises(UsageError, match="whole number of at least 2"):
        Diffeomorphism(c=c)  # type: ignore[arg-type]

"""Wavelet banks: tight frames, zero means, the Littlewood-Paley sum as energy, one-sentence errors."""

from __future__ import annotations

import numpy as np
import pytest

from probes.errors import UsageError
from repanalysis.networks.wavelets import FilterBank, bank, morlet, steerable

SHAPES = [(36, 36), (40, 24), (31, 37)]
TIGHT = {"morlet": lambda shape, j, angles: morlet(shape, j, angles).tight(), "steerable": steerable}


def energy(filters: FilterBank, x: np.ndarray) -> float:
    """||x * phi||^2 + sum ||x * psi||^2, computed in space."""
    spectrum = np.fft.fft2(x)
    bank = [filters.phi, *filters.psi.reshape(-1, *x.shape)]
    return float(sum(np.square(np.abs(np.fft.ifft2(spectrum * spectrum_of_filter))).sum() for spectrum_of_filter in bank))


@pytest.mark.parametrize("name", TIGHT)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("scales", "angles"), [(1, 8), (3, 8), (2, 1), (2, 5)])
def test_a_tight_frame_preserves_the_energy_of_real_images(
    name: str, shape: tuple[int, int], scales: int, angles: int, rng: np.random.Generator
) -> None:
    filters = TIGHT[name](shape, scales, angles)
    x = rng.normal(size=shape)
    assert energy(filters, x) == pytest.approx(np.square(x).sum(), rel=1e-12)


def test_morlet_bounds_agree_with_the_littlewood_paley_sum(rng: np.random.Generator) -> None:
    filters = morlet((36, 36), scales=3)
    low, high = filters.bounds()
    assert (round(low, 3), round(high, 3)) == (0.123, 1.011)  # of kymatio's Morlet bank
    for _ in range(20):
        x = rng.normal(size=(36, 36))
        assert low <= energy(filters, x) / np.square(x).sum() <= high


def test_the_frame_bounds_are_attained() -> None:
    filters = morlet((36, 36), scales=2)
    energies = filters.littlewood_paley()
    for position in (np.unravel_index(energies.argmin(), energies.shape), np.unravel_index(energies.argmax(), energies.shape)):
        rows, columns = np.mgrid[:36, :36]
        x = np.cos(2 * np.pi * (rows * position[0] + columns * position[1]) / 36)
        assert energy(filters, x) / np.square(x).sum() == pytest.approx(energies[position], rel=1e-10)


@pytest.mark.parametrize("name", ["morlet", "steerable"])
@pytest.mark.parametrize("tight", [False, True])
def test_wavelets_have_mean_zero_and_averages_mean_one(name: str, *, tight: bool) -> None:
    filters = bank(name, (40, 40), 2, tight=tight)
    assert np.abs(filters.psi[..., 0, 0]).max() < 1e-12
    assert filters.phi[0, 0] == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("build", [morlet, steerable])
def test_rotating_the_angle_by_90_degrees_rotates_the_filter(build: object) -> None:
    psi = build((32, 32), 2, 8).psi  # type: ignore[operator]
    rotated = np.rot90(np.fft.fftshift(psi[1, 1])[1:, 1:])  # without the Nyquist frequency, whose sign is arbitrary
    perpendicular = np.fft.fftshift(psi[1, 5])[1:, 1:]
    assert min(np.abs(rotated - perpendicular).max(), np.abs(rotated - perpendicular[::-1, ::-1]).max()) < 1e-10


def test_the_steerable_bank_is_analytic() -> None:
    psi = steerable((33, 33), 2, 6).psi
    assert (np.minimum(psi, psi[..., *np.ix_(-np.arange(33), -np.arange(33))]) == 0).all()


def test_window_is_the_low_pass_filter_in_two_factors() -> None:
    filters = morlet((40, 24), 3)
    assert filters.window is not None
    np.testing.assert_array_equal(np.outer(*filters.window), filters.phi)
    assert filters.tight().window is None


def test_invalid_parameters_have_one_sentence_errors() -> None:
    with pytest.raises(UsageError, match="Unknown filters 'morlett'. Did you mean 'morlet'"):
        bank("morlett", (8, 8), 1)
    with pytest.raises(UsageError, match="J = 0 scales"):
        bank("morlet", (8, 8), 0)

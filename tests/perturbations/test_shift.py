"""Shifts: numpy's roll and pad as oracles, Fourier shifts of waves, inverse shifts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.errors import UsageError
from repanalysis.perturbations import Shift


@pytest.mark.parametrize(("direction", "axis", "sign"), [("right", -1, 1), ("left", -1, -1), ("down", -2, 1), ("up", -2, -1)])
@pytest.mark.parametrize("pixels", [1, 3])
def test_borders_agree_with_numpy(direction: str, axis: int, sign: int, pixels: int, rng: np.random.Generator) -> None:
    x = rng.random((2, 1, 6, 5))
    strength_field = sign * pixels
    width = [(0, 0)] * 4
    width[axis] = (max(strength_field, 0), max(-strength_field, 0))
    cut = np.s_[..., : x.shape[-1]] if axis == -1 else np.s_[..., : x.shape[-2], :]
    if strength_field < 0:
        cut = np.s_[..., -x.shape[-1] :] if axis == -1 else np.s_[..., -x.shape[-2] :, :]
    expected = {
        "circular": np.roll(x, strength_field, axis),
        "zeros": np.pad(x, width)[cut],
        "reflect": np.pad(x, width, mode="reflect")[cut],
        "fourier": np.roll(x, strength_field, axis),
    }
    for border, shifted in expected.items():
        result = Shift(pixels=pixels, border=border, direction=direction)(torch.from_numpy(x), [0, 1])  # type: ignore[arg-type]
        np.testing.assert_allclose(result.numpy(), shifted, atol=1e-12)


@pytest.mark.parametrize("side", [16, 15])
def test_waves_shift_by_fractions_of_a_pixel(side: int) -> None:
    places = torch.arange(side, dtype=torch.float64)
    for frequency in range(1, side // 2):
        wave = torch.cos(2 * torch.pi * frequency * places / side + 0.3).view(1, 1, 1, side)
        shifted = torch.cos(2 * torch.pi * frequency * (places - 0.25) / side + 0.3).view(1, 1, 1, side)
        torch.testing.assert_close(Shift(pixels=0.25, border="fourier")(wave, [0]), shifted)


def test_opposite_shifts_are_inverse(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.random((1, 2, 7, 9)))
    for border, pixels in (("circular", 4), ("fourier", 0.4)):
        shifted = Shift(pixels=pixels, border=border)(x, [0])  # type: ignore[arg-type]
        torch.testing.assert_close(Shift(pixels=pixels, border=border, direction="left")(shifted, [0]), x)  # type: ignore[arg-type]
        assert shifted.norm() == pytest.approx(float(x.norm()), rel=1e-12)


def test_random_shifts_go_in_all_four_directions(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.random((1, 1, 5, 5))).expand(400, -1, -1, -1)
    shifted = Shift(direction="random")(x, range(400))
    matches = [
        torch.equal(image, Shift(direction=direction)(x[:1], [0])[0])
        for image in shifted
        for direction in ("right", "left", "down", "up")
    ]
    counts = np.array(matches).reshape(-1, 4).sum(axis=0)
    assert counts.sum() == 400
    assert (np.abs(counts - 100) < 50).all()


def test_invalid_parameters_have_one_sentence_errors() -> None:
    with pytest.raises(UsageError, match="needs border=fourier"):
        Shift(pixels=0.5)
    with pytest.raises(UsageError, match="Unknown border 'mirror'"):
        Shift(border="mirror")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Unknown direction 'rigth'. Did you mean 'right'"):
        Shift(direction="rigth")
    with pytest.raises(UsageError, match="pixels is -1"):
        Shift(pixels=-1)

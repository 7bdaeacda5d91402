"""Noise: exact norms, uniform directions, the right variance, matched to another perturbation image by image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.errors import UsageError
from repanalysis.perturbations import Diffeomorphism, GaussianNoise, MatchedNoise, Shift, SphereNoise


def test_noise_on_the_sphere_has_its_norm_in_all_directions_alike() -> None:
    x = torch.zeros(3000, 1, 2, 2, dtype=torch.float64)
    found = SphereNoise(norm=2.5)(x, range(3000)).flatten(1).numpy()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 2.5, rtol=1e-12)
    assert np.abs(found.mean(axis=0)).max() < 5 * 1.25 / np.sqrt(3000)
    np.testing.assert_allclose(found.T @ found / 3000, 2.5**2 / 4 * np.eye(4), atol=0.15)


def test_gaussian_noise_has_its_deviation() -> None:
    found = GaussianNoise(sigma=0.3)(torch.ones(50, 3, 8, 8, dtype=torch.float64), range(50)).numpy() - 1
    assert found.std() == pytest.approx(0.3, rel=0.02)
    assert found.mean() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("other", [Diffeomorphism(delta=1.5), Shift(pixels=2)], ids=str)
def test_matched_noise_moves_as_far_as_the_other(other: Diffeomorphism | Shift, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.random((5, 3, 16, 16)))
    noise = MatchedNoise(match=other)
    distances = [(moved - x).flatten(1).norm(dim=1) for moved in (noise(x, range(5)), other(x, range(5)))]
    torch.testing.assert_close(*distances, rtol=1e-12, atol=0)
    torch.testing.assert_close(noise.matched_to(x, other(x, range(5)), range(5)), noise(x, range(5)))


def test_a_flat_image_gets_no_matched_noise() -> None:
    x = torch.full((1, 1, 8, 8), 0.5)
    assert torch.equal(MatchedNoise(match=Shift())(x, [0]), x)
    with pytest.raises(UsageError, match="needs the perturbation that it matches"):
        MatchedNoise()
    with pytest.raises(UsageError, match="norm is -1"):
        SphereNoise(norm=-1)

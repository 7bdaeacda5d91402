"""Noise: exact norms, uniform directions, variance, and norms matched to another perturbation for each image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.errors import UsageError
from repanalysis.perturbations import Diffeomorphism, GaussianNoise, MatchedNoise, Shift, SphereNoise


def test_sphere_noise_has_its_norm_and_uniform_directions() -> None:
    x = torch.zeros(3000, 1, 2, 2, dtype=torch.float64)
    noise = SphereNoise(norm=2.5)(x, range(3000)).flatten(1).numpy()
    np.testing.assert_allclose(np.linalg.norm(noise, axis=1), 2.5, rtol=1e-12)
    assert np.abs(noise.mean(axis=0)).max() < 5 * 1.25 / np.sqrt(3000)
    np.testing.assert_allclose(noise.T @ noise / 3000, 2.5**2 / 4 * np.eye(4), atol=0.15)


def test_gaussian_noise_has_its_standard_deviation() -> None:
    noise = GaussianNoise(sigma=0.3)(torch.ones(50, 3, 8, 8, dtype=torch.float64), range(50)).numpy() - 1
    assert noise.std() == pytest.approx(0.3, rel=0.02)
    assert noise.mean() == pytest.approx(0.0, abs=0.01)


@pytest.mark.parametrize("perturbation", [Diffeomorphism(delta=1.5), Shift(pixels=2)], ids=str)
def test_matched_noise_has_the_norm_of_the_other_perturbation(
    perturbation: Diffeomorphism | Shift, rng: np.random.Generator
) -> None:
    x = torch.from_numpy(rng.random((5, 3, 16, 16)))
    noise = MatchedNoise(match=perturbation)
    distances = [(perturbed - x).flatten(1).norm(dim=1) for perturbed in (noise(x, range(5)), perturbation(x, range(5)))]
    torch.testing.assert_close(*distances, rtol=1e-12, atol=0)
    torch.testing.assert_close(noise.matched_to(x, perturbation(x, range(5)), range(5)), noise(x, range(5)))


def test_a_flat_image_gets_no_matched_noise() -> None:
    x = torch.full((1, 1, 8, 8), 0.5)
    assert torch.equal(MatchedNoise(match=Shift())(x, [0]), x)
    with pytest.raises(UsageError, match="needs the perturbation that it matches"):
        MatchedNoise()
    with pytest.raises(UsageError, match="norm is -1"):
        SphereNoise(norm=-1)

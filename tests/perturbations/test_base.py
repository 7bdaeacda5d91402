"""Laws of every perturbation: identity at strength 0, draws by (seed, id), types kept, input unchanged, one-sentence errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xxhash

from probes.errors import UsageError
from repanalysis.perturbations import (
    Diffeomorphism,
    GaussianNoise,
    MatchedNoise,
    Moves,
    Perturbation,
    Rotation,
    Scaling,
    Shift,
    SphereNoise,
)

ALL = [
    Diffeomorphism(), Diffeomorphism(delta=0.5, c=5), Shift(pixels=2), Shift(pixels=1, border="reflect", direction="random"),
    Shift(pixels=3, border="zeros", direction="up"), Shift(pixels=0.5, border="fourier"), SphereNoise(), GaussianNoise(),
    MatchedNoise(match=Diffeomorphism()), Rotation(), Scaling(), Scaling(percent=-10.0),
]  # fmt: skip
NOT_PICTURES = {Moves}  # takes images of a few points; test_moves.py tests it
every_perturbation = pytest.mark.parametrize("perturbation", ALL, ids=str)


def test_every_kind_is_tested() -> None:
    assert {type(perturbation) for perturbation in ALL} | NOT_PICTURES == set(Perturbation.kinds)


def pictures(rng: np.random.Generator, n: int = 4, height: int = 12, width: int = 16) -> torch.Tensor:
    return torch.from_numpy(rng.random((n, 3, height, width)))


@every_perturbation
def test_strength_0_is_the_identity_bit_for_bit(perturbation: Perturbation, rng: np.random.Generator) -> None:
    x = pictures(rng)
    assert perturbation.strength != 0
    assert torch.equal(perturbation.with_strength(0)(x, range(4)), x)
    assert perturbation.with_strength(perturbation.strength) == perturbation


@every_perturbation
def test_draws_depend_on_seed_and_id_alone(perturbation: Perturbation, rng: np.random.Generator) -> None:
    x, ids = pictures(rng), [11, 5, 70, 2]
    expected = perturbation(x, ids)
    order = [2, 0, 3, 1]
    torch.testing.assert_close(perturbation(x[order], [ids[i] for i in order]), expected[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(perturbation(x[1:2], ids[1:2]), expected[1:2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(perturbation(x, torch.tensor(ids)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("perturbation", [ALL[0], ALL[3], *ALL[6:9]], ids=str)
def test_other_seeds_and_ids_give_other_draws(perturbation: Perturbation, rng: np.random.Generator) -> None:
    x = pictures(rng, 1).expand(8, -1, -1, -1)
    perturbed = perturbation(x, range(8))
    assert not torch.equal(perturbed, perturbation.reseeded(1)(x, range(8)))
    assert len({tuple(image.flatten().tolist()) for image in perturbed}) > 1


@every_perturbation
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_shape_and_type_are_kept_and_images_are_not_changed(
    perturbation: Perturbation, kind: torch.dtype, rng: np.random.Generator
) -> None:
    x = pictures(rng).to(kind)
    original = x.clone()
    perturbed = perturbation(x, range(4))
    assert (perturbed.shape, perturbed.dtype) == (x.shape, kind)
    assert torch.equal(x, original)
    assert torch.isfinite(perturbed).all()


@pytest.mark.parametrize(
    "perturbation", [kind for kind in ALL if "Noise" not in str(kind) and "zeros" not in str(kind)], ids=str
)
def test_constant_images_are_unchanged(perturbation: Perturbation) -> None:
    x = torch.full((2, 1, 9, 11), 0.7, dtype=torch.float64)
    torch.testing.assert_close(perturbation(x, [0, 1]), x, rtol=1e-12, atol=1e-12)


def test_other_arrays_than_images_have_one_sentence_errors() -> None:
    for invalid in (torch.zeros(3, 8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.int64)):
        with pytest.raises(UsageError, match="floating-point type; these are"):
            Shift()(invalid, [0])
    with pytest.raises(UsageError, match="There are 2 images and 3 ids"):
        Shift()(torch.zeros(2, 1, 4, 4), [0, 1, 2])


def test_normal_draws_are_normal_and_independent_of_their_neighbours() -> None:
    values = Shift().normal(range(2000), (30,)).numpy()
    assert abs(values.mean()) < 5 / np.sqrt(values.size)
    assert abs(values.var() - 1) < 5 * np.sqrt(2 / values.size)
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 5 / np.sqrt(values.size)


@every_perturbation
def test_draws_by_name_use_the_hash_of_the_name(perturbation: Perturbation, rng: np.random.Generator) -> None:
    images, names = pictures(rng, 3), ["cat/1.png", "dog/1.png", "é"]
    keys = [xxhash.xxh3_64(name.encode()).intdigest() for name in names]
    signed = [key - 2**64 if key >= 2**63 else key for key in keys]
    perturbed = perturbation(images, names)
    assert torch.equal(perturbed, perturbation(images, signed))
    torch.testing.assert_close(perturbation(images[[2, 0]], ["é", "cat/1.png"]), perturbed[[2, 0]], rtol=1e-12, atol=1e-12)

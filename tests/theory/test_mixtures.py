"""Mixtures: means of k atoms, larger deviations on k coordinates, samples independent of the sample count."""

from __future__ import annotations

import numpy as np
import pytest

from probes.errors import UsageError
from repanalysis.theory.mixtures import sparse_mixture


def test_means_are_k_atoms_and_deviations_are_larger_on_k_coordinates() -> None:
    mixture = sparse_mixture(K=5, d=20, sparsity=3, radius=2.0, noise=0.5, contrast=4.0)
    assert ((mixture.means != 0).sum(axis=1) == 3).all()
    np.testing.assert_allclose(np.linalg.norm(mixture.means, axis=1), 2 * np.sqrt(3))
    assert ((mixture.deviations == 2.0).sum(axis=1) == 3).all()
    assert (np.minimum(mixture.deviations, 0.5) == 0.5).all()
    assert (np.abs(mixture.means).astype(bool).sum(axis=0) <= 1).all(), "classes share atoms though there are enough"


def test_atoms_of_a_frame_have_norm_1() -> None:
    mixture = sparse_mixture(K=4, d=6, radius=3.0, redundancy=5)
    np.testing.assert_allclose(np.linalg.norm(mixture.means, axis=1), 3.0, rtol=1e-9)


def test_samples_have_the_moments_of_their_class() -> None:
    mixture = sparse_mixture(K=3, d=4, radius=2.0, contrast=3.0)
    x, y = mixture.sample(90_000, seed=1)
    for c in range(3):
        np.testing.assert_allclose(x[y == c].mean(axis=0), mixture.means[c], atol=0.06)
        np.testing.assert_allclose(x[y == c].std(axis=0), mixture.deviations[c], rtol=0.03)
    np.testing.assert_array_equal(mixture.sample(10, seed=1)[0], x[:10])


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"K": 0}, "K and d are at least 1"),
        ({"d": 4, "sparsity": 5}, "1 to d atoms make a mean"),
        ({"redundancy": -1}, "redundancy 0"),
        ({"noise": 0.0}, "noise is 0.0; it must be a finite number above 0"),
        ({"radius": -1.0}, "radius is -1.0"),
    ],
)
def test_invalid_parameters_have_one_sentence_errors(parameters: dict[str, float], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        sparse_mixture(**parameters)  # type: ignore[arg-type]

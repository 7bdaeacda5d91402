"""Tight frames: F^T F = Id, equal norms, coherence above Welch's bound, vectors in pairs of opposite sign."""

from __future__ import annotations

import numpy as np
import pytest

from probes.errors import UsageError
from repanalysis.theory.frames import random_tight_frame, sign_invariant


@pytest.mark.parametrize(("p", "d"), [(5, 5), (12, 5), (64, 8), (9, 1)])
def test_a_random_frame_is_tight_with_equal_norms(p: int, d: int, rng: np.random.Generator) -> None:
    frame = random_tight_frame(p, d, seed=3)
    np.testing.assert_allclose(frame.T @ frame, np.eye(d), atol=1e-12)
    np.testing.assert_allclose(np.square(frame).sum(axis=1), d / p, rtol=1e-9)
    x = rng.normal(size=d)
    assert np.linalg.norm(frame @ x) == pytest.approx(np.linalg.norm(x), rel=1e-12)
    if p > d > 1:
        rows = frame / np.linalg.norm(frame, axis=1, keepdims=True)
        coherence = np.abs(rows @ rows.T - np.eye(p)).max()
        assert coherence >= np.sqrt((p - d) / (d * (p - 1))) - 1e-12


def test_the_seed_determines_the_frame() -> None:
    np.testing.assert_array_equal(random_tight_frame(6, 3, seed=1), random_tight_frame(6, 3, seed=1))
    assert not np.allclose(random_tight_frame(6, 3, seed=1), random_tight_frame(6, 3, seed=2))


def test_a_sign_invariant_frame_is_tight_and_contains_both_signs(rng: np.random.Generator) -> None:
    frame = sign_invariant(random_tight_frame(7, 4))
    np.testing.assert_allclose(frame.T @ frame, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(frame[:7], -frame[7:])
    x, y = rng.normal(size=(2, 4))
    halved = np.maximum(frame @ x, 0)
    np.testing.assert_allclose(frame.T @ halved, x / 2, atol=1e-12)  # S1
    assert np.square(halved).sum() == pytest.approx(np.square(x).sum() / 2)  # S2
    displacement = np.linalg.norm(halved - np.maximum(frame @ y, 0))
    distance = np.linalg.norm(x - y)
    assert distance / 2 - 1e-12 <= displacement <= distance / np.sqrt(2) + 1e-12  # S5
    assert np.linalg.norm(halved - np.maximum(-frame @ x, 0)) == pytest.approx(np.linalg.norm(x))  # S5, at y = -x


def test_too_few_vectors_are_refused() -> None:
    with pytest.raises(UsageError, match=r"3 vectors are not a frame of R\^4: at least 4 are needed"):
        random_tight_frame(3, 4)

"""Absolute cosines of samples, sorted by class."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from probes.errors import DataError
from repanalysis.analyses.cosines import class_cosines


def test_values_are_those_of_sklearn_in_the_order_of_classes(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(30, 2, 3)), rng.integers(0, 4, 30)
    result = class_cosines(x, y)
    order = np.argsort(y, kind="stable")
    np.testing.assert_array_equal(result.labels, y[order])
    np.testing.assert_allclose(result.values, np.abs(cosine_similarity(x.reshape(30, -1)[order])), atol=1e-12)
    assert result.values.max() <= 1


def test_means_by_class_leave_out_the_sample_itself_and_zeros() -> None:
    x = np.array([[1.0, 0], [1, 1], [0, 1], [0, -2], [0, 0], [1, 0]])
    means = class_cosines(x, np.array(["a", "a", "b", "b", "b", "c"])).by_class()
    half = np.sqrt(0.5)
    np.testing.assert_allclose(
        means, [[half, half / 2, (1 + half) / 2], [half / 2, 1, 0], [(1 + half) / 2, 0, np.nan]], atol=1e-12
    )


def test_rotations_and_scales_do_not_matter(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(12, 5)), np.arange(12) % 3
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    moved = (x @ rotation) * rng.uniform(-3, 3, size=(12, 1))
    np.testing.assert_allclose(class_cosines(moved, y).values, class_cosines(x, y).values, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.ones((3, 2)), [0, 1], "are needed"),
        (np.ones(3), [0, 1, 1], "are needed"),
        (np.full((2, 2), np.inf), [0, 1], "NaN or infinite"),
        (np.ones((5001, 1)), np.zeros(5001), "5,000 at most"),
    ],
)
def test_bad_input_is_refused(x: np.ndarray, y: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        class_cosines(x, y)

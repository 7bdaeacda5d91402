"""k nearest neighbours: scikit-learn's, without the sample itself, with a fixed rule for ties."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from probes.errors import DataError, UsageError
from repanalysis.heads.neighbours import nearest_neighbours


@pytest.mark.parametrize("k", [1, 3, 5])
def test_two_classes_have_the_predictions_of_sklearn(rng: np.random.Generator, k: int) -> None:
    """An odd k and two classes have no ties."""
    x, y, new = rng.normal(size=(80, 6)), rng.integers(0, 2, 80), rng.normal(size=(300, 6))
    peer = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(x, y)
    np.testing.assert_array_equal(nearest_neighbours(x, y, new, k=k), peer.predict(new))
    neighbours = peer.kneighbors(return_distance=False)  # of the samples themselves, without each itself
    np.testing.assert_array_equal(nearest_neighbours(x, y, k=k), (y[neighbours].mean(axis=1) > 0.5).astype(int))


def test_a_sample_is_not_its_own_neighbour() -> None:
    """Random labels: with itself, one neighbour would be right for all."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 8)), rng.integers(0, 2, 400)
    assert 0.4 < (nearest_neighbours(x, y, k=1) == y).mean() < 0.6
    assert (nearest_neighbours(x, y, x, k=1) == y).all()


def test_ties_go_to_the_nearer_class() -> None:
    x = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.5], [1.0, 0.6]])
    y = np.array(["b", "b", "a", "a"])
    assert nearest_neighbours(x, y, [[1.0, -0.1], [1.0, 1.0]], k=4).tolist() == ["b", "a"]
    assert nearest_neighbours(np.eye(2), ["b", "a"], [[1.0, 1.0]], k=2).tolist() == ["a"]


def test_votes_count_before_cosines() -> None:
    x = np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    assert nearest_neighbours(x, [0, 1, 1], [[1.0, 0.0]], k=3).tolist() == [1]


@pytest.mark.parametrize("block", [1, 3])
def test_scales_and_zeros(rng: np.random.Generator, block: int) -> None:
    x, y = rng.normal(size=(20, 3)), np.arange(20) % 3
    scaled = x * rng.uniform(0.1, 9, size=(20, 1))
    np.testing.assert_array_equal(nearest_neighbours(scaled, y), nearest_neighbours(x, y))
    assert nearest_neighbours(x, y, np.zeros((block, 3))).shape == (block,)


@pytest.mark.parametrize(
    ("x", "y", "new", "k"),
    [
        (np.eye(3), [0, 1], None, 1),
        (np.eye(3), [0, 1, 1], None, 3),
        (np.eye(3), [0, 1, 1], None, 0),
        (np.eye(3), [0, 1, 1], np.eye(2), 1),
    ],
)
def test_bad_input_is_refused(x: np.ndarray, y: list[int], new: np.ndarray | None, k: int) -> None:
    with pytest.raises((DataError, UsageError)):
        nearest_neighbours(x, y, new, k=k)

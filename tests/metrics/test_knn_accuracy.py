"""knn_accuracy: scikit-learn one sample at a time, duplicates, and no sample votes for itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from repanalysis.metrics._neighbours import neighbours
from repanalysis.metrics.knn_accuracy import knn_accuracy
from repanalysis.statistics import Samples
from repanalysis.statistics.draws import JACKKNIFE_SEED, hashed
from repanalysis.statistics.shares import share_error

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize("k", [1, 5, 20])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_is_scikit_learn_without_the_sample_itself(classes: Classes, k: int, distance: str) -> None:
    x, y = classes(150, 6, 4)
    right = 0
    for i in range(150):
        others = np.arange(150) != i
        fitted = KNeighborsClassifier(k, metric=distance).fit(x[others], y[others])
        right += int(fitted.predict(x[i : i + 1])[0] == y[i])
    assert knn_accuracy(Samples().of(x, y), k=k, distance=distance) == right / 150


def test_its_error_is_a_jackknife_less_the_variance_of_flips(classes: Classes) -> None:
    """The group left out neither votes nor is scored; flips are deviations of each sample's answer from its mean."""
    samples = Samples().of(*classes(400, 6, 4))
    group = hashed(samples.ids, JACKKNIFE_SEED) % np.uint64(20)
    x, y = samples.x, samples.labels

    def answers(voters: np.ndarray) -> np.ndarray:
        right = []
        for i in range(400):
            others = voters & (np.arange(400) != i)
            nearest = np.argsort(np.square(x[others] - x[i]).sum(axis=1))[:5]
            right.append(np.bincount(y[others][nearest], minlength=4).argmax() == y[i])
        return np.array(right, float)

    full = answers(np.ones(400, bool))
    without = np.array([answers(group != g) for g in range(20)])
    scores = np.array([answer[group != g].mean() for g, answer in enumerate(without)])
    flips = (without - without.mean(axis=0)).var(axis=1, ddof=1).sum() / 400
    variance = 19 / 20 * (np.square(scores - scores.mean()).sum() - flips)
    expected = max(share_error(float(full.mean()), 400), math.sqrt(max(0.0, variance)))
    assert knn_accuracy(samples).se == pytest.approx(
        expected, rel=0.02
    )  # five of nine neighbours share a group once in a thousand


def test_a_sample_never_votes_for_itself() -> None:
    x = np.arange(40.0)[:, None]
    y = np.arange(40) % 2  # neighbours are always of the other class
    assert knn_accuracy(Samples().of(x, y), k=1) == 0.0


def test_duplicates_do_vote(rng: np.random.Generator) -> None:
    x = np.repeat(rng.normal(size=(50, 3)), 2, axis=0)
    y = np.repeat(rng.integers(0, 2, 50), 2)
    assert knn_accuracy(Samples().of(x, y), k=1) == 1.0


def test_an_offset_loses_no_precision(classes: Classes) -> None:
    x, y = classes(300, 6, 4)
    assert knn_accuracy(Samples().of(x + 1e6, y)) == knn_accuracy(Samples().of(x, y))


def test_too_few_samples_and_rows_of_norm_0_are_undefined(rng: np.random.Generator) -> None:
    value = knn_accuracy(Samples().of(rng.normal(size=(4, 2)), np.arange(4) % 2))
    assert math.isnan(value)
    assert "no 5 neighbours" in value.note
    assert math.isnan(knn_accuracy(Samples().of(np.zeros((40, 2)), np.arange(40) % 2), distance="cosine"))


@pytest.mark.parametrize("n", [4, 7, 12])
def test_as_many_neighbours_as_there_are_other_samples(n: int, rng: np.random.Generator) -> None:
    """With k = n - 1 all others vote: the majority of all without the sample itself; ties go to the first label."""
    x, y = rng.normal(size=(n, 2)), (np.arange(n) * 3 > n).astype(int)
    right = [np.bincount(np.delete(y, i), minlength=2).argmax() == y[i] for i in range(n)]
    assert knn_accuracy(Samples().of(x, y), k=n - 1) == np.mean(right)
    assert math.isnan(knn_accuracy(Samples().of(x, y), k=n))


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_neighbours_are_those_of_the_sorted_distances(n: int, rng: np.random.Generator) -> None:
    """For every number of neighbours below n; rows 0 and 1 are equal, and ties are ordered by position."""
    x = rng.normal(size=(n, 3)) + 100
    x[1] = x[0]
    for k in range(1, n):
        distances, indices = neighbours(x, k)
        for i in range(n):
            table = [(float(np.linalg.norm(x[i] - x[j])), j) for j in range(n) if j != i]
            expected = sorted(table)[:k]
            assert indices[i].tolist() == [j for _, j in expected]
            np.testing.assert_allclose(distances[i], [distance for distance, _ in expected], rtol=1e-9)

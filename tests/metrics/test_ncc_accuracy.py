"""ncc_accuracy: scikit-learn's NearestCentroid on the same halves, and the whitened one by Mahalanobis distances."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestCentroid

from repanalysis.metrics import get, ncc_accuracy
from repanalysis.statistics import Samples

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_is_that_of_scikit_learn_on_the_same_halves(classes: Classes) -> None:
    x, y = classes(600, 6, 4)
    samples = Samples().of(x + 1e3, y)
    chosen = samples.training()
    fitted = NearestCentroid().fit(samples.x[chosen], samples.labels[chosen])
    values = ncc_accuracy(samples)
    assert values[""] == fitted.score(samples.x[~chosen], samples.labels[~chosen])
    assert values["train"] == fitted.score(samples.x[chosen], samples.labels[chosen])
    assert values[""].se == pytest.approx(math.sqrt(values[""] * (1 - values[""]) / (~chosen).sum()))


def test_whitened_is_the_smallest_mahalanobis_distance(classes: Classes) -> None:
    x, y = classes(600, 6, 4)
    samples = Samples().of(x, y)
    chosen = samples.training()
    train, labels = samples.x[chosen], samples.labels[chosen]
    centres = np.array([train[labels == c].mean(axis=0) for c in range(4)])
    within = (train - centres[labels]).T @ (train - centres[labels]) / len(train)
    distances = cdist(samples.x[~chosen], centres, "mahalanobis", VI=np.linalg.inv(within))
    assert ncc_accuracy(samples)["whitened"] == (distances.argmin(axis=1) == samples.labels[~chosen]).mean()


def test_wide_samples_have_no_whitened_accuracy_and_bounded_ones_say_so(classes: Classes) -> None:
    values = ncc_accuracy(Samples().of(*classes(60, 100, 4)))
    assert math.isnan(values["whitened"])
    assert "singular" in values["whitened"].note
    metric = get("ncc_accuracy", max_samples=100)
    assert metric(metric.needs.of(*classes(600, 6, 4)))["max_samples=100"].note == "on 100 of 600 samples, drawn by id"


def test_a_class_without_samples_to_fit_on_counts_as_wrong(rng: np.random.Generator) -> None:
    chosen = Samples().of(np.zeros((300, 1)), np.zeros(300, int))
    lonely = int(chosen.ids[~chosen.training()][0])
    y = np.arange(300) % 2
    y[lonely] = 2
    value = ncc_accuracy(Samples().of(rng.normal(size=(300, 3)) + 20 * y[:, None], y))[""]
    assert value == pytest.approx(1 - 1 / (~chosen.training()).sum())
    assert "1 classes have no samples to fit on" in value.note

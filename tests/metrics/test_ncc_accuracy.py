"""ncc_accuracy: scikit-learn's NearestCentroid on the same halves, and the whitened one by Mahalanobis distances."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestCentroid

from repanalysis.metrics import get
from repanalysis.metrics.ncc_accuracy import ncc_accuracy
from repanalysis.statistics import Samples
from tests.metrics.fits import error, left_out

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_agrees_with_scikit_learn_on_the_same_halves(classes: Classes) -> None:
    x, y = classes(600, 6, 4)
    samples = Samples().of(x + 1e3, y)
    training = samples.training()
    fitted = NearestCentroid().fit(samples.x[training], samples.labels[training])
    values = ncc_accuracy(samples)
    assert values[""] == fitted.score(samples.x[~training], samples.labels[~training])
    assert values["train"] == fitted.score(samples.x[training], samples.labels[training])
    correct = fitted.predict(samples.x[~training]) == samples.labels[~training]
    without = []
    for rows in left_out(samples):
        refitted = NearestCentroid().fit(samples.x[rows], samples.labels[rows])
        without.append(refitted.predict(samples.x[~training]) == samples.labels[~training])
    assert values[""].se == pytest.approx(error(correct, without), rel=1e-9)
    trained = fitted.predict(samples.x[training]) == samples.labels[training]
    assert values["train"].se == pytest.approx(error(trained, [trained]), rel=1e-9)


def test_whitened_predicts_the_smallest_mahalanobis_distance(classes: Classes) -> None:
    x, y = classes(600, 6, 4)
    samples = Samples().of(x, y)
    training = samples.training()
    train, labels = samples.x[training], samples.labels[training]
    centres = np.array([train[labels == c].mean(axis=0) for c in range(4)])
    within = (train - centres[labels]).T @ (train - centres[labels]) / len(train)
    distances = cdist(samples.x[~training], centres, "mahalanobis", VI=np.linalg.inv(within))
    correct = distances.argmin(axis=1) == samples.labels[~training]
    assert ncc_accuracy(samples)["whitened"] == correct.mean()
    without = []
    for rows in left_out(samples):
        train, labels = samples.x[rows], samples.labels[rows]
        centres = np.array([train[labels == c].mean(axis=0) for c in range(4)])
        within = (train - centres[labels]).T @ (train - centres[labels])
        refitted = cdist(samples.x[~training], centres, "mahalanobis", VI=np.linalg.inv(within)).argmin(axis=1)
        without.append(refitted == samples.labels[~training])
    assert ncc_accuracy(samples)["whitened"].se == pytest.approx(error(correct, without), rel=1e-9)


def test_perfect_and_barely_fitted_accuracies_have_standard_errors(classes: Classes) -> None:
    y = np.arange(200) % 2
    values = ncc_accuracy(Samples().of(np.c_[100.0 * y + np.linspace(0, 1, 200), np.sin(np.arange(200.0))], y))
    for variant in ("", "train", "whitened"):
        assert values[variant] == 1.0
        assert 0.01 < values[variant].se < 0.03
    x, y = classes(90, 38, 2)
    value = ncc_accuracy(Samples().of(x, y))["whitened"]  # 45 samples in 38 dimensions, 40 without a group
    assert math.isfinite(value)
    assert math.isnan(value.se) == ("no standard error" in value.note)


def test_wide_samples_have_no_whitened_accuracy_and_subsampling_is_noted(classes: Classes) -> None:
    values = ncc_accuracy(Samples().of(*classes(60, 100, 4)))
    assert math.isnan(values["whitened"])
    assert "singular" in values["whitened"].note
    metric = get("ncc_accuracy", max_samples=100)
    assert metric(metric.needs.of(*classes(600, 6, 4)))["max_samples=100"].note == "on 100 of 600 samples, drawn by id"


def test_a_class_without_samples_to_fit_on_counts_as_wrong(rng: np.random.Generator) -> None:
    samples = Samples().of(np.zeros((300, 1)), np.zeros(300, int))
    lonely = int(samples.ids[~samples.training()][0])
    y = np.arange(300) % 2
    y[lonely] = 2
    value = ncc_accuracy(Samples().of(rng.normal(size=(300, 3)) + 20 * y[:, None], y))[""]
    assert value == pytest.approx(1 - 1 / (~samples.training()).sum())
    assert "1 classes have no samples to fit on" in value.note

"""lda_accuracy: scikit-learn's on the same halves, the Bayes rate of Gaussian classes, constant features."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from repanalysis.metrics._readout import by_discriminants, halves
from repanalysis.metrics.lda_accuracy import _shrunk, lda_accuracy
from repanalysis.statistics import Samples
from tests.metrics.fits import error, left_out

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize(("n", "d"), [(400, 10), (100, 200)])
def test_agrees_with_scikit_learn_on_the_same_halves(classes: Classes, n: int, d: int) -> None:
    samples = Samples().of(*classes(n, d, 4))
    training = samples.training()
    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(samples.x[training], samples.labels[training])
    expected = fitted.score(samples.x[~training], samples.labels[~training])
    assert lda_accuracy(samples)[""] == pytest.approx(expected, abs=0.011)  # it scales features before it shrinks


def test_its_error_agrees_with_refits_of_scikit_learn_without_each_group(classes: Classes) -> None:
    """Scikit-learn estimates the shrinkage anew without each group, lda_accuracy does not; the errors are similar."""
    samples = Samples().of(*classes(600, 30, 4))
    training = samples.training()
    correct, *without = (
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        .fit(samples.x[rows], samples.labels[rows])
        .predict(samples.x[~training])
        == samples.labels[~training]
        for rows in (training, *left_out(samples))
    )
    assert lda_accuracy(samples)[""].se == pytest.approx(error(correct, without), rel=0.2)


def test_reaches_the_bayes_rate_of_gaussian_classes(rng: np.random.Generator) -> None:
    y = np.arange(5000) % 2
    x = rng.normal(size=(5000, 3))
    x[:, 0] += 2.0 * y
    value = lda_accuracy(Samples().of(x, y))[""]
    assert abs(value - norm.cdf(1.0)) < 4 * value.se


def test_constant_features_do_not_matter_and_constant_data_is_undefined(classes: Classes) -> None:
    x, y = classes(300, 5, 3)
    with_dead = np.c_[x, np.full(300, 7.0)]
    assert lda_accuracy(Samples().of(with_dead, y))[""] == lda_accuracy(Samples().of(x, y))[""]
    assert math.isnan(lda_accuracy(Samples().of(np.ones((300, 2)), y))[""])


def test_each_class_covariance_is_shrunk_in_units_of_its_features() -> None:
    """Oracle: scikit-learn's standard scaler and Ledoit and Wolf's estimate, class by class, scaled back."""
    from sklearn.covariance import ledoit_wolf
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(400, 3)) * [1e3, 1.0, 1e-3], np.arange(400) % 2
    split = halves(Samples().of(x, y))
    assert not isinstance(split, str)
    expected = np.zeros((3, 3))
    for label in (0, 1):
        rows = split.train[split.train_y == label]
        scaler = StandardScaler().fit(rows)
        scale = np.outer(scaler.scale_, scaler.scale_)
        expected += len(rows) / len(split.train) * scale * ledoit_wolf(scaler.transform(rows), assume_centered=True)[0]
    np.testing.assert_allclose(_shrunk(split)[0], expected, rtol=1e-10)


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_tiny_and_huge_features_are_not_taken_for_constant_ones(scale: float) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 3)) + 2.0 * (np.arange(200) % 2)[:, None], np.arange(200) % 2
    assert lda_accuracy(Samples().of(scale * x, y))[""] == lda_accuracy(Samples().of(x, y))[""]


@pytest.mark.filterwarnings("ignore:Only one sample available")  # by scikit-learn, of the class of one
@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_covariance_with_a_small_class_is_that_of_scikit_learn(size: int, rng: np.random.Generator) -> None:
    """A class of one sample has no covariance; from two samples on it contributes."""
    samples = Samples(limit=0).of(rng.normal(size=(80, 5)), np.arange(80) % 2)
    split = halves(samples)
    assert not isinstance(split, str)
    y = split.train_y.copy()
    y[:size] = 2
    expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(split.train, y).covariance_
    np.testing.assert_allclose(_shrunk(split._replace(train_y=y, labels=np.arange(3)))[0], expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("priors", [False, True])
def test_discriminants_without_a_group_are_those_of_its_means_and_class_shares(priors: bool, rng: np.random.Generator) -> None:
    """For a fixed metric S = I the formula is plain: mu_c . z - |mu_c|^2 / 2, plus the log share of class c."""
    y = (rng.random(200) < 0.2).astype(int)
    split = halves(Samples(limit=0).of(rng.normal(size=(200, 3)) + y[:, None], y))
    assert not isinstance(split, str)
    fits = list(by_discriminants(split, lambda v: v, priors=priors))
    groups = np.unique(split.groups)
    assert len(fits) == len(groups) > 2
    for group, (coefficients, offsets) in zip(groups, fits, strict=True):
        rest = split.groups != group
        x, labels = split.train[rest], split.train_y[rest]
        for k in (0, 1):
            mean = x[labels == k].mean(axis=0)
            np.testing.assert_allclose(coefficients[:, k], mean, rtol=1e-10)
            log_share = math.log((labels == k).mean()) if priors else 0.0
            assert offsets[k] == pytest.approx(log_share - mean @ mean / 2, rel=1e-10)

"""lda_accuracy: scikit-learn's on the same halves, the Bayes rate of Gaussian classes, constant features."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from repanalysis.metrics.lda_accuracy import lda_accuracy
from repanalysis.statistics import Samples
from tests.metrics.fits import error, left_out

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize(("n", "d"), [(400, 10), (100, 200)])
def test_is_scikit_learns_on_the_same_halves(classes: Classes, n: int, d: int) -> None:
    samples = Samples().of(*classes(n, d, 4))
    chosen = samples.training()
    fitted = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(samples.x[chosen], samples.labels[chosen])
    expected = fitted.score(samples.x[~chosen], samples.labels[~chosen])
    assert lda_accuracy(samples)[""] == pytest.approx(expected, abs=0.011)  # it scales features before it shrinks


def test_its_error_is_that_of_scikit_learns_without_each_group(classes: Classes) -> None:
    """Scikit-learn shrinks anew without each group, this does not, and neither scales by class: errors are alike."""
    samples = Samples().of(*classes(600, 30, 4))
    chosen = samples.training()
    correct, *without = (
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
        .fit(samples.x[rows], samples.labels[rows])
        .predict(samples.x[~chosen])
        == samples.labels[~chosen]
        for rows in (chosen, *left_out(samples))
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

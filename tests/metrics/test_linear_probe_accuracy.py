"""linear_probe_accuracy: scikit-learn's ridge with the same penalties, explicit leave-one-out, chance level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler

from repanalysis.metrics._readout import halves, one_hot
from repanalysis.metrics.linear_probe_accuracy import _guess, _left_out, linear_probe_accuracy, ridge_by_leave_one_out
from repanalysis.statistics import Samples
from tests.metrics.fits import error, left_out

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]
PENALTIES = 10.0 ** np.arange(-6, 3)


@pytest.mark.parametrize(("n", "d"), [(400, 10), (120, 90), (100, 300)])
def test_agrees_with_scikit_learns_ridge_with_leave_one_out(classes: Classes, n: int, d: int) -> None:
    x, y = classes(n, d, 4)
    samples = Samples().of(x, y)
    training = samples.training()
    scaler = StandardScaler().fit(samples.x[training])
    train, test = scaler.transform(samples.x[training]), scaler.transform(samples.x[~training])
    targets = one_hot(samples.labels[training], 4)
    fitted = RidgeCV(alphas=PENALTIES * len(train)).fit(train, targets)
    values = linear_probe_accuracy(samples)
    assert values["penalty"] * len(train) == pytest.approx(fitted.alpha_, rel=1e-12)
    assert values[""] == (fitted.predict(test).argmax(axis=1) == samples.labels[~training]).mean()
    assert values["train"] == (fitted.predict(train).argmax(axis=1) == samples.labels[training]).mean()
    without = []
    for rows in left_out(samples):
        refitted = Ridge(alpha=fitted.alpha_).fit(train[rows[training]], targets[rows[training]])
        without.append(refitted.predict(test).argmax(axis=1) == samples.labels[~training])
    correct = fitted.predict(test).argmax(axis=1) == samples.labels[~training]
    assert values[""].se == pytest.approx(error(correct, without), rel=1e-9)


def test_leave_one_out_agrees_with_refits_without_each_sample(classes: Classes) -> None:
    x, y = classes(60, 5, 3)
    samples = Samples().of(x, y)
    training = samples.training()
    train = StandardScaler().fit_transform(samples.x[training])
    targets, m = one_hot(samples.labels[training], 3), int(training.sum())
    errors = []
    for penalty in PENALTIES:
        residuals = []
        for i in range(m):
            others = np.arange(m) != i
            fitted = Ridge(alpha=penalty * m).fit(train[others], targets[others])  # the penalty is that of all m samples
            residuals.append(targets[i] - fitted.predict(train[i : i + 1])[0])
        errors.append(np.square(residuals).mean())
    assert linear_probe_accuracy(samples)["penalty"] == PENALTIES[int(np.argmin(errors))]


def test_random_labels_give_chance_accuracy(rng: np.random.Generator) -> None:
    y = rng.integers(0, 4, 3000)
    values = linear_probe_accuracy(Samples().of(rng.normal(size=(3000, 20)), y))
    assert abs(values[""] - 0.25) < 4 * values[""].se


def test_logistic_agrees_with_scikit_learn(classes: Classes) -> None:
    samples = Samples().of(*classes(400, 6, 4))
    training = samples.training()
    scaler = StandardScaler().fit(samples.x[training])
    fitted = LogisticRegression(max_iter=1000).fit(scaler.transform(samples.x[training]), samples.labels[training])
    expected = fitted.score(scaler.transform(samples.x[~training]), samples.labels[~training])
    value = linear_probe_accuracy(samples, solver="logistic")[""]
    assert value == pytest.approx(expected, abs=0.006)
    without = []
    for rows in left_out(samples):
        refitted = LogisticRegression(max_iter=1000).fit(scaler.transform(samples.x[rows]), samples.labels[rows])
        without.append(refitted.predict(scaler.transform(samples.x[~training])) == samples.labels[~training])
    correct = fitted.predict(scaler.transform(samples.x[~training])) == samples.labels[~training]
    assert value.se == pytest.approx(error(correct, without), rel=0.1)  # lbfgs ends elsewhere from another start


def test_refits_without_a_group_equal_ridge_regressions_on_the_other_samples() -> None:
    """Oracle: scikit-learn's Ridge at the same penalty m lambda, fitted again without each group."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(160, 5)), np.arange(160) % 3
    x[:, 0] += 0.7 * y
    split = halves(Samples().of(x, y))
    assert not isinstance(split, str)
    train, test = 3.0 + split.train, 3.0 + split.test
    targets = one_hot(split.train_y, 3)
    probe = ridge_by_leave_one_out(train, targets)
    refits = list(_left_out(train, test, split, probe))
    assert len(refits) == len(np.unique(split.groups)) > 2
    for group, correct in zip(np.unique(split.groups), refits, strict=True):
        rest = split.groups != group
        fitted = Ridge(len(train) * probe.penalty).fit(train[rest], targets[rest])
        np.testing.assert_array_equal(correct, fitted.predict(test).argmax(axis=1) == split.test_y)
    fitted = Ridge(len(train) * probe.penalty).fit(train, targets)
    np.testing.assert_array_equal(_guess(test, probe), fitted.predict(test).argmax(axis=1))


@pytest.mark.parametrize("solver", ["ridge", "logistic"])
def test_undefined_results_have_the_variants_of_defined_ones(solver: Literal["ridge", "logistic"], classes: Classes) -> None:
    x, y = classes(80, 4, 2)
    defined = linear_probe_accuracy(Samples().of(x, y), solver=solver)
    for samples in (Samples().of(x, np.zeros(80, int)), Samples().of(np.ones((80, 4)), y)):
        undefined = linear_probe_accuracy(samples, solver=solver)
        assert list(undefined) == list(defined)
        assert all(np.isnan(value) and value.note for value in undefined.values())

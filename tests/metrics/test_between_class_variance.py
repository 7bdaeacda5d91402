"""between_class_variance: closed form and a slow plain oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics.between_class_variance import between_class_variance
from repanalysis.metrics.class_mean_separation import class_mean_separation
from repanalysis.metrics.fisher_trace_ratio import fisher_trace_ratio
from repanalysis.metrics.nc1_quotient import nc1_quotient
from repanalysis.metrics.within_class_variance import within_class_variance
from repanalysis.statistics import ClassMoments

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_two_points_have_the_closed_form() -> None:
    values = between_class_variance(ClassMoments(scatter="none").of(np.array([[-2.0], [2.0]]), np.array([0, 1])))
    assert values[""] == 4.0
    assert values["relative"] == 1.0


@pytest.mark.parametrize("class_weight", ["balanced", "empirical"])
def test_agrees_with_a_loop(classes: Classes, class_weight: str) -> None:
    x, y = classes(300, 5, 4)
    weights = {"balanced": np.full(4, 0.25), "empirical": np.bincount(y) / 300}[class_weight]
    means = [x[y == c].mean(axis=0) for c in range(4)]
    centre = sum(w * mean for w, mean in zip(weights, means, strict=True))
    expected = sum(w * np.square(mean - centre).sum() for w, mean in zip(weights, means, strict=True))
    moments = ClassMoments(scatter="none").of(x, y)
    assert between_class_variance(moments, class_weight=class_weight)[""] == pytest.approx(expected, rel=1e-12)  # type: ignore[arg-type]


def test_collapse_has_no_within_class_variance() -> None:
    moments = ClassMoments(scatter="none").of(np.repeat(np.eye(3), 4, axis=0), np.repeat(np.arange(3), 4))
    assert between_class_variance(moments)["relative"] == 1.0
    assert within_class_variance(moments)["relative"] == 0.0


@pytest.mark.parametrize("class_weight", ["balanced", "empirical"])
def test_debiased_estimate_is_unbiased(class_weight: str) -> None:
    """Within four standard errors over 400 draws of skewed classes of unequal size and variance; the plain value is far off."""
    rng = np.random.default_rng(1)
    y, means = np.repeat([0, 1, 2], [8, 12, 20]), rng.normal(size=(3, 5)) / 3
    weights = np.full(3, 1 / 3) if class_weight == "balanced" else np.bincount(y) / 40
    truth = weights @ np.square(means - weights @ means).sum(axis=1)
    draws = []
    for _ in range(400):
        x = (rng.exponential(size=(40, 5)) - 1.0) * np.array([1.0, 2.0, 0.5])[y][:, None] + means[y]
        moments = ClassMoments(scatter="none").of(x, y)
        draws.append(between_class_variance(moments, class_weight=class_weight, debiased=True)[""])  # type: ignore[arg-type]
    assert abs(np.mean(draws) - truth) < 4 * np.std(draws) / 20
    assert between_class_variance(moments)[""].note.endswith("of it is bias at n = 40; debiased=true removes it")


@pytest.mark.parametrize("class_weight", ["balanced", "empirical"])
def test_debiased_shares_are_of_variances_with_ddof_1(classes: Classes, class_weight: str) -> None:
    x, y = classes(40, 3, 3)
    counts = np.bincount(y)
    pi = np.full(3, 1 / 3) if class_weight == "balanced" else counts / 40
    variances = np.array([x[y == c].var(axis=0, ddof=1).sum() for c in range(3)])
    means = np.stack([x[y == c].mean(axis=0) for c in range(3)])
    between = pi @ np.square(means - pi @ means).sum(axis=1) - (pi * (1 - pi)) @ (variances / counts)
    moments = ClassMoments(scatter="none").of(x, y)
    values = between_class_variance(moments, class_weight=class_weight, debiased=True)  # type: ignore[arg-type]
    assert values[""] == pytest.approx(between, rel=1e-10)
    assert values["relative"] == pytest.approx(between / (between + pi @ variances), rel=1e-10)


def test_every_measure_of_between_class_variance_notes_its_bias(rng: np.random.Generator) -> None:
    moments = ClassMoments(scatter="none").of(rng.normal(size=(50, 30)), np.arange(50) % 5)
    values = [
        between_class_variance(moments)["relative"], class_mean_separation(moments)[""],
        class_mean_separation(moments)["relative"], fisher_trace_ratio(moments), nc1_quotient(moments),
    ]  # fmt: skip
    assert all("is bias at n = 50" in value.note for value in values)
    separated = ClassMoments(scatter="none").of(
        rng.normal(size=(50, 30)) + 9 * np.eye(30)[np.arange(50) % 5], np.arange(50) % 5
    )
    assert not any(metric(separated).note for metric in (fisher_trace_ratio, nc1_quotient))

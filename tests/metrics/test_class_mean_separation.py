"""class_mean_separation: closed form, oracle, and the unbiasedness of its debiased variant."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest

from repanalysis.metrics.between_class_variance import between_class_variance
from repanalysis.metrics.class_mean_separation import class_mean_separation
from repanalysis.metrics.within_class_variance import within_class_variance
from repanalysis.statistics import ClassMoments

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_a_simplex_of_radius_r_has_the_closed_form() -> None:
    k, r = 6, 2.0
    means = np.eye(k) - 1 / k
    means *= r / np.linalg.norm(means[0])
    values = class_mean_separation(ClassMoments().of(means, np.arange(k)))
    assert values[""] == pytest.approx(2 * r**2 * k / (k - 1), rel=1e-12)
    assert values["min"] == pytest.approx(values[""], rel=1e-12)


def test_agrees_with_a_loop_over_pairs_and_with_the_between_class_variance(classes: Classes) -> None:
    x, y = classes(300, 5, 6)
    moments = ClassMoments(scatter="none").of(x, y)
    means = [x[y == c].mean(axis=0) for c in range(6)]
    pairs = [float(np.square(a - b).sum()) for a, b in combinations(means, 2)]
    values = class_mean_separation(moments)
    assert values[""] == pytest.approx(np.mean(pairs), rel=1e-12)
    assert values["min"] == pytest.approx(min(pairs), rel=1e-12)
    assert values[""] == pytest.approx(2 * 6 / 5 * between_class_variance(moments)[""], rel=1e-12)
    assert values["relative"] == pytest.approx(np.mean(pairs) / within_class_variance(moments)[""], rel=1e-12)


def test_debiased_is_unbiased_where_the_plain_value_is_not() -> None:
    rng = np.random.default_rng(1)
    means, sizes = np.array([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0], [0.0, 0.4, 0.0]]), [4, 9, 30]
    y = np.repeat(np.arange(3), sizes)
    truth = np.mean([0.09, 0.16, 0.25])
    results = [
        class_mean_separation(ClassMoments(scatter="none").of(rng.normal(size=(43, 3)) + means[y], y)) for _ in range(3000)
    ]
    debiased = [values["debiased"] for values in results]
    error = np.std(debiased) / math.sqrt(3000)
    assert np.mean(debiased) == pytest.approx(truth, abs=4 * error)
    assert np.mean([values[""] for values in results]) > truth + 20 * error


def test_undefined_variants_have_a_reason() -> None:
    values = class_mean_separation(ClassMoments().of(np.eye(2), np.arange(2)))
    assert values["relative"] == math.inf
    assert values["relative"].note == "the within-class variance is 0"
    assert math.isnan(values["debiased"])
    assert values["debiased"].note == "a class of one sample has no variance estimate"

"""fisher_trace_ratio: closed form, an oracle in plain numpy, and where it is undefined."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics.fisher_trace_ratio import fisher_trace_ratio
from repanalysis.statistics import ClassMoments
from tests.metrics.geometries import isotropic, simplex

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_isotropic_classes_have_the_closed_form(rng: np.random.Generator) -> None:
    x, y = isotropic(simplex(5, 8, 2.0, rng), 0.3, 2, rng)
    assert fisher_trace_ratio(ClassMoments().of(x, y)) == pytest.approx(2.0**2 / (8 * 0.3**2), rel=1e-12)


@pytest.mark.parametrize("class_weight", ["balanced", "empirical"])
def test_is_the_ratio_of_plain_traces(classes: Classes, class_weight: str) -> None:
    x, y = classes(300, 6, 4)
    labels, count = np.unique(y, return_counts=True)
    weights = np.full(4, 0.25) if class_weight == "balanced" else count / 300
    means = np.array([x[y == c].mean(axis=0) for c in labels])
    within = sum(w * x[y == c].var(axis=0).sum() for w, c in zip(weights, labels, strict=True))
    between = weights @ np.square(means - weights @ means).sum(axis=1)
    assert fisher_trace_ratio(ClassMoments().of(x, y), class_weight=class_weight) == pytest.approx(between / within, rel=1e-12)


def test_collapsed_classes_are_infinitely_far_apart_and_equal_samples_are_undefined() -> None:
    y = np.arange(20) % 4
    assert fisher_trace_ratio(ClassMoments().of(np.eye(4)[y], y)) == math.inf
    assert math.isnan(fisher_trace_ratio(ClassMoments().of(np.ones((20, 3)), y)))

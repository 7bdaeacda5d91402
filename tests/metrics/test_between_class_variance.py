"""between_class_variance: closed form and a slow plain oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics import between_class_variance, within_class_variance
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


def test_collapse_leaves_nothing_within() -> None:
    moments = ClassMoments(scatter="none").of(np.repeat(np.eye(3), 4, axis=0), np.repeat(np.arange(3), 4))
    assert between_class_variance(moments)["relative"] == 1.0
    assert within_class_variance(moments)["relative"] == 0.0

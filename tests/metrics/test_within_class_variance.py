"""within_class_variance: closed form and a slow plain oracle."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics.between_class_variance import between_class_variance
from repanalysis.metrics.within_class_variance import within_class_variance
from repanalysis.statistics import ClassMoments

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_a_star_around_every_mean_has_the_closed_form(rng: np.random.Generator) -> None:
    star, means = 3.0 * np.concatenate([np.eye(4), -np.eye(4)]), rng.normal(size=(5, 4))
    x, y = np.concatenate([star + mean for mean in means]), np.repeat(np.arange(5), 8)
    assert within_class_variance(ClassMoments(scatter="none").of(x, y))[""] == pytest.approx(9.0, rel=1e-12)


@pytest.mark.parametrize("class_weight", ["balanced", "empirical"])
def test_agrees_with_a_loop(classes: Classes, class_weight: str) -> None:
    x, y = classes(300, 5, 4)
    weights = {"balanced": np.full(4, 0.25), "empirical": np.bincount(y) / 300}[class_weight]
    expected = sum(w * sum(np.var(x[y == c], axis=0)) for c, w in enumerate(weights))
    moments = ClassMoments(scatter="none").of(x, y)
    values = within_class_variance(moments, class_weight=class_weight)  # type: ignore[arg-type]
    assert values[""] == pytest.approx(expected, rel=1e-12)
    between = between_class_variance(moments, class_weight=class_weight)  # type: ignore[arg-type]
    assert values["relative"] + between["relative"] == pytest.approx(1.0, rel=1e-14)


def test_empirical_weights_give_the_trace_of_the_covariance(classes: Classes) -> None:
    x, y = classes(300, 5, 4)
    moments = ClassMoments(scatter="none").of(x, y)
    total = (
        within_class_variance(moments, class_weight="empirical")[""]
        + between_class_variance(moments, class_weight="empirical")[""]
    )
    assert total == pytest.approx(np.var(x, axis=0).sum(), rel=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_relative_variance_does_not_depend_on_the_scale(scale: float) -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 4
    expected = within_class_variance(ClassMoments().of(x, y))["relative"]
    assert within_class_variance(ClassMoments().of(scale * x, y))["relative"] == pytest.approx(expected, rel=1e-10)

"""Laws that every registered metric obeys: those of `repanalysis.testing`, and those of built-in metrics only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from repanalysis import metrics
from repanalysis.metrics import Metric
from repanalysis.testing import LAWS, edge_cases

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]

every_metric = pytest.mark.parametrize("metric", [metrics.get(name) for name in metrics.names()], ids=metrics.names())


@every_metric
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_metrics_obey_the_laws(metric: Metric, law: Callable[[Metric], None]) -> None:
    law(metric)


@every_metric
def test_metrics_without_a_need_for_two_classes_are_defined_for_one(metric: Metric) -> None:
    x, y = edge_cases()["one class"]
    if metric.min_classes < 2 and metric.name != "power_law_exponent" and not metric.needs_targets:  # a constant target
        assert all(math.isfinite(value) for value in metric(metric.needs.of(x, y)).values())


@every_metric
def test_parameters_are_named_in_the_variant(metric: Metric, classes: Classes) -> None:
    changed: dict[str, Any] = {
        "eps_sq": 0.1,
        "class_weight": "empirical",
        "normalization": "sphere",
        "per": "pair",
        "ridge": 0.1,
    }
    changed |= {"max_samples": 200, "k": 3, "method": "mle", "distance": "cosine", "last": 6}
    if metric.name == "within_class_variance":
        changed["per"] = "class"
    parameters = {key: value for key, value in changed.items() if key in metric.parameters}
    configured = metrics.get(metric.name, **parameters)
    values = configured(configured.needs.of(*classes(300, 6, 4)))
    assert all(f"{key}={value}" in variant for key, value in parameters.items() for variant in values)

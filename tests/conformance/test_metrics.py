"""Laws that every registered metric obeys: those of `repanalysis.testing`, and what they do not know of strangers' metrics."""

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

every = pytest.mark.parametrize("metric", [metrics.get(name) for name in metrics.names()], ids=metrics.names())


@every
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_it_obeys_the_laws(metric: Metric, law: Callable[[Metric], None]) -> None:
    law(metric)


@every
def test_what_needs_no_second_class_is_defined_for_one(metric: Metric) -> None:
    x, y = edge_cases()["one class"]
    if metric.min_classes < 2 and metric.name != "power_law_exponent" and not metric.needs_targets:  # a constant target
        assert all(math.isfinite(value) for value in metric(metric.needs.of(x, y)).values())


@every
def test_chosen_parameters_stand_in_the_variant(metric: Metric, classes: Classes) -> None:
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
    chosen = {key: value for key, value in changed.items() if key in metric.parameters}
    other = metrics.get(metric.name, **chosen)
    values = other(other.needs.of(*classes(300, 6, 4)))
    assert all(f"{key}={value}" in variant for key, value in chosen.items() for variant in values)

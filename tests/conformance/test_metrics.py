"""Laws that every registered metric obeys; its declared invariances are held to."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.stats import ortho_group

from repanalysis import metrics
from repanalysis.metrics import Metric
from repanalysis.metrics._registry import INVARIANCES
from repanalysis.statistics import ClassMoments, Rows, Statistic

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]

every = pytest.mark.parametrize("metric", [metrics.get(name) for name in metrics.names()], ids=metrics.names())


def values(metric: Metric, x: np.ndarray, y: np.ndarray, ids: np.ndarray | None = None) -> dict[str, float]:
    return {variant: float(value) for variant, value in metric(metric.needs.of(x, y, ids)).items()}


def smooth(metric: Metric) -> bool:
    """Whether the metric is a function of moments; the others count, and a count may stay the same by chance."""
    return isinstance(metric.needs, ClassMoments)


def assert_same(a: dict[str, float], b: dict[str, float], rtol: float = 1e-8) -> None:
    assert a.keys() == b.keys()
    for variant, value in a.items():
        assert value == pytest.approx(b[variant], rel=rtol, abs=1e-10, nan_ok=True), variant


def transformed(kind: str, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    d = x.shape[1]
    if kind == "translation":
        return x + rng.normal(size=d)
    if kind == "rotation":
        return x @ ortho_group(d, seed=1).rvs()
    if kind == "scaling":
        return 3.7 * x
    if kind == "linear":
        return x @ (rng.normal(size=(d, d)) + 3 * np.eye(d))
    assert kind == "sign"
    return x * rng.choice([-1.0, 1.0], size=(len(x), 1))


@every
def test_it_is_described(metric: Metric) -> None:
    doc = inspect.getdoc(metric.function) or ""
    for section in ("Parameters\n", "Returns\n", "Notes\n", "References\n", "Examples\n", ".. math::"):
        assert section in doc, f"{metric.name} lacks {section.strip()}"
    assert isinstance(metric.needs, Statistic)
    assert metric.summary.endswith(".")


@every
@pytest.mark.parametrize("kind", INVARIANCES)
def test_declared_invariances_hold_and_others_do_not(
    metric: Metric, kind: str, classes: Classes, rng: np.random.Generator
) -> None:
    x, y = classes(300, 6, 4)
    before, after = values(metric, x, y), values(metric, transformed(kind, x, rng), y)
    if kind in metric.invariant:
        assert_same(after, before)
    elif smooth(metric):
        assert any(after[v] != pytest.approx(before[v], rel=1e-6) for v in before), f"{metric.name} could declare {kind}"


@every
def test_order_of_samples_names_of_classes_and_batches_do_not_matter(
    metric: Metric, classes: Classes, rng: np.random.Generator
) -> None:
    x, y = classes(300, 6, 4)
    expected = values(metric, x, y)
    order = rng.permutation(300)
    assert_same(values(metric, x[order], y[order], order), expected)
    if not metric.needs_targets:  # which are numbers, not names
        assert_same(values(metric, x, np.array([40, 7, 13, 52])[y]), expected)
        assert_same(values(metric, x, np.array([-40, -7, 13, 52])[y]), expected)
    needs = metric.needs
    parts = [needs.update(needs.init(6), x[part], y[part], np.arange(300)[part]) for part in (slice(100), slice(100, 300))]
    merged = metric(needs.finish(needs.merge(*parts)))
    assert_same({variant: float(value) for variant, value in merged.items()}, expected)


@every
def test_known_classes_without_samples_change_nothing(metric: Metric, classes: Classes) -> None:
    x, y = classes(300, 6, 4)
    state = metric.needs.update(metric.needs.init(6, [0, 1, 2, 3, 9, 11]), x, y, np.arange(300))
    found = metric(metric.needs.finish(state))
    assert_same({variant: float(value) for variant, value in found.items()}, values(metric, x, y))


@every
@pytest.mark.parametrize("shape", [(300, 6, 4), (60, 200, 4), (300, 20, 90)], ids=["plain", "n < d", "many classes"])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_rows_give_the_same_as_moments(
    metric: Metric, shape: tuple[int, int, int], offset: float, rng: np.random.Generator
) -> None:
    if not smooth(metric):
        return
    n, d, k = shape
    y = np.arange(n) % k
    x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + 2 * rng.normal(size=(k, d))[y] + offset
    assert isinstance(metric.needs, ClassMoments)
    rows = metric(Rows(normalize=metric.needs.normalize).of(x, y))
    expected = metric(metric.needs.of(x, y))
    assert_same(
        {variant: float(value) for variant, value in rows.items()},
        {variant: float(value) for variant, value in expected.items()},
        rtol=1e-8 * max(1.0, offset / 10),
    )


@every
def test_the_state_is_not_changed(metric: Metric, classes: Classes) -> None:
    state = metric.needs.of(*classes(300, 6, 4))
    before = [np.copy(array) for array in state]
    metric(state)
    for array, old in zip(state, before, strict=True):
        np.testing.assert_array_equal(array, old)


@every
def test_float32_gives_the_same_up_to_its_rounding(metric: Metric, classes: Classes) -> None:
    x, y = classes(300, 6, 4)
    assert_same(values(metric, x.astype(np.float32), y), values(metric, x, y), rtol=1e-4)


def odd_cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(5)
    y = np.arange(40) % 4
    return {
        "one class": (rng.normal(size=(40, 3)), np.zeros(40, int)),
        "one sample": (rng.normal(size=(1, 3)), np.zeros(1, int)),
        "all equal": (np.ones((40, 3)), y),
        "all zero": (np.zeros((40, 3)), y),
        "collapsed": (np.eye(4)[y], y),
        "one sample a class": (rng.normal(size=(4, 3)), np.arange(4)),
        "d = 1": (rng.normal(size=(40, 1)), y),
        "n < d": (rng.normal(size=(40, 90)), y),
        "dead feature": (np.c_[rng.normal(size=(40, 3)), np.zeros(40)], y),
        "huge offset": (rng.normal(size=(40, 3)) + 1e8, y),
        "huge": (rng.normal(size=(40, 3)) * 1e30, y),
        "tiny": (rng.normal(size=(40, 3)) * 1e-30, y),
    }


@every
@pytest.mark.parametrize("case", odd_cases())
def test_odd_data_gives_a_number_or_a_reason(metric: Metric, case: str) -> None:
    x, y = odd_cases()[case]
    found = metric(metric.needs.of(x, y))
    for variant, value in found.items():
        if not math.isfinite(value):
            assert value.note, f"{metric.name} {variant} is {value} without a reason"
    if case == "one class" and metric.min_classes == 2:
        assert all(math.isnan(value) for value in found.values()), "undefined is NaN, never 0"
    defined = metric.name != "power_law_exponent" and not metric.needs_targets  # d is below its first rank; a constant target
    if case == "one class" and metric.min_classes < 2 and defined:
        assert all(math.isfinite(value) for value in found.values())


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
    found = other(other.needs.of(*classes(300, 6, 4)))
    assert all(f"{key}={value}" in variant for key, value in chosen.items() for variant in found)

"""Laws of all metrics, for authors of metrics: `check_metric` tests a metric against all of them.

    from repanalysis.testing import check_metric

    def test_my_metric():
        check_metric("py:my_metrics:my_metric")

Each law is a function of this module that raises AssertionError with a sentence; the conformance tests of this project apply
the same functions to its own metrics.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ortho_group

from repanalysis.metrics import Metric, get
from repanalysis.metrics._registry import INVARIANCES
from repanalysis.statistics import ClassMoments, Rows, Statistic

__all__ = ["LAWS", "check_metric", "edge_cases", "gaussian_classes"]

SECTIONS = ("Parameters\n", "Returns\n", "Notes\n", "References\n", "Examples\n", ".. math::")


def check_metric(metric: Metric | str, *, documented: bool = False) -> None:
    """Test a metric against all laws.

    Parameters
    ----------
    metric : Metric or str
        The metric or its name, such as `"py:my_metrics:my_metric"`.
    documented : bool, default False
        Whether its docstring must have the sections of this project's metrics.

    Raises
    ------
    AssertionError
        If a law does not hold; the message describes the first.

    Examples
    --------
    >>> check_metric("fisher_ratio")
    """
    metric = get(metric) if isinstance(metric, str) else metric
    for law in LAWS:
        if documented or law is not has_documentation:
            law(metric)


def gaussian_classes(n: int, d: int, k: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Gaussian classes of unequal size, each with its own mean and covariance, (n, d), and labels 0 to k - 1."""
    rng = np.random.default_rng(seed)
    shares = np.arange(1.0, k + 1) / np.arange(1.0, k + 1).sum()
    y = np.sort(np.concatenate([np.arange(k).repeat(3), rng.choice(k, n - 3 * k, p=shares)]))
    maps = rng.normal(size=(k, d, d)) / np.sqrt(d) + np.eye(d)
    x = rng.normal(size=(n, d))
    for label in range(k):
        x[y == label] = x[y == label] @ maps[label]
    x += rng.normal(size=(k, d))[y]
    order = rng.permutation(n)
    return x[order], y[order]


def edge_cases() -> dict[str, tuple[NDArray[np.float64], NDArray[np.int64]]]:
    """Data at which formulas may be undefined: one class, no variance, fewer samples than features, huge and tiny numbers."""
    rng = np.random.default_rng(5)
    y = np.arange(40) % 4
    return {
        "one class": (rng.normal(size=(40, 3)), np.zeros(40, np.int64)),
        "one sample": (rng.normal(size=(1, 3)), np.zeros(1, np.int64)),
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


def has_documentation(metric: Metric) -> None:
    """The docstring has a formula and the sections Parameters, Returns, Notes, References and Examples."""
    text = inspect.getdoc(metric.function) or ""
    missing = [section.strip() for section in SECTIONS if section not in text]
    assert not missing, f"The documentation of {metric.name} lacks {', '.join(missing)}."
    assert metric.summary.endswith("."), f"The first line of the documentation of {metric.name} is not a sentence."


def needs_a_statistic(metric: Metric) -> None:
    """`needs` is a statistic."""
    assert isinstance(metric.needs, Statistic), f"{metric.name} needs a {type(metric.needs).__name__}, which is no Statistic."


def invariances_hold(metric: Metric) -> None:
    """Declared invariances hold; those that a smooth metric does not declare do not hold."""
    x, y = gaussian_classes(300, 6, 4)
    before = _values(metric, x, y)
    for kind in INVARIANCES:
        after = _values(metric, _transformed(kind, x), y)
        if kind in metric.invariant:
            _assert_same(metric, after, before, f"after {INVARIANCES[kind]} (invariant={kind!r})")
        elif metric.has_jackknife_se:
            defined = {variant: value for variant, value in before.items() if math.isfinite(value)}
            changed = any(not _close(after[variant], value, 1e-6) for variant, value in defined.items())
            assert changed or not defined, (
                f"{metric.name} does not change with {INVARIANCES[kind]}: declare invariant={kind!r}."
            )


def order_and_batches_do_not_matter(metric: Metric) -> None:
    """The value does not depend on the order of samples, the numbers of classes, or the batches."""
    x, y = gaussian_classes(300, 6, 4)
    expected = _values(metric, x, y)
    order = np.random.default_rng(0).permutation(300)
    _assert_same(metric, _values(metric, x[order], y[order], order), expected, "in another order of samples")
    if not metric.needs_targets:  # which are numbers, not names
        for names in ([40, 7, 13, 52], [-40, -7, 13, 52]):
            _assert_same(metric, _values(metric, x, np.array(names)[y]), expected, f"with classes called {names}")
    needs, ids = metric.needs, np.arange(300)
    parts = [needs.update(needs.init(6), x[part], y[part], ids[part]) for part in (slice(100), slice(100, 300))]
    _assert_same(metric, _floats(metric(needs.finish(needs.merge(*parts)))), expected, "in two parts that are merged")


def empty_classes_do_not_matter(metric: Metric) -> None:
    """Classes without samples do not change the value."""
    x, y = gaussian_classes(300, 6, 4)
    state = metric.needs.update(metric.needs.init(6, [0, 1, 2, 3, 9, 11]), x, y, np.arange(300))
    _assert_same(metric, _floats(metric(metric.needs.finish(state))), _values(metric, x, y), "with empty classes")


def rows_give_the_same_as_moments(metric: Metric) -> None:
    """A smooth metric has the same value for `Rows` as for `ClassMoments`."""
    if not isinstance(metric.needs, ClassMoments):
        return
    rng = np.random.default_rng(20261121)
    for n, d, k in ((300, 6, 4), (60, 200, 4), (300, 20, 90)):
        for offset in (0.0, 1e3):
            y = np.arange(n) % k
            x = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / np.sqrt(d) + 2 * rng.normal(size=(k, d))[y] + offset
            rows = _floats(metric(Rows(normalize=metric.needs.normalize).of(x, y)))
            expected = _floats(metric(metric.needs.of(x, y)))
            _assert_same(metric, rows, expected, f"from rows, n = {n}, d = {d}, K = {k}", rtol=1e-8 * max(1.0, offset / 10))


def state_is_not_changed(metric: Metric) -> None:
    """The metric does not change its state."""
    state: Any = metric.needs.of(*gaussian_classes(300, 6, 4))
    before = [np.copy(array) for array in state]
    metric(state)
    assert all(np.array_equal(*pair, equal_nan=True) for pair in zip(state, before, strict=True)), (
        f"{metric.name} changes the state that it is given; copy it first."
    )


def float32_gives_the_same(metric: Metric) -> None:
    """The value for float32 features is equal up to rounding."""
    x, y = gaussian_classes(300, 6, 4)
    _assert_same(metric, _values(metric, x.astype(np.float32), y), _values(metric, x, y), "from float32", rtol=1e-4)


def undefined_values_have_a_reason(metric: Metric) -> None:
    """At edge cases a value is finite, or NaN or infinite with a note."""
    for case, (x, y) in edge_cases().items():
        values = metric(metric.needs.of(x, y))
        for variant, value in values.items():
            assert math.isfinite(value) or value.note, (
                f"{metric.name} {variant} is {value} without a note where data are: {case}."
            )
        if case == "one class" and metric.min_classes == 2:
            assert all(math.isnan(value) for value in values.values()), (
                f"{metric.name} has a value for one class; undefined is NaN, or it declares min_classes=1."
            )


LAWS: tuple[Callable[[Metric], None], ...] = (
    has_documentation,
    needs_a_statistic,
    invariances_hold,
    order_and_batches_do_not_matter,
    empty_classes_do_not_matter,
    rows_give_the_same_as_moments,
    state_is_not_changed,
    float32_gives_the_same,
    undefined_values_have_a_reason,
)


def _values(metric: Metric, x: NDArray[Any], y: NDArray[Any], ids: NDArray[np.int64] | None = None) -> dict[str, float]:
    return _floats(metric(metric.needs.of(x, y, ids)))


def _floats(values: Mapping[str, float]) -> dict[str, float]:
    return {variant: float(value) for variant, value in values.items()}


def _close(a: float, b: float, rtol: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=rtol, abs_tol=1e-10)


def _assert_same(
    metric: Metric, values: Mapping[str, float], expected: Mapping[str, float], when: str, rtol: float = 1e-8
) -> None:
    assert values.keys() == expected.keys(), f"{metric.name} has other variants {when}: {sorted(values)}."
    for variant, value in expected.items():
        assert _close(values[variant], value, rtol), (
            f"{metric.name} {variant} is {values[variant]!r} {when}, and {value!r} without that."
        )


def _transformed(kind: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The features after a transformation."""
    rng, d = np.random.default_rng(20261121), x.shape[1]
    changed: dict[str, Callable[[], NDArray[np.float64]]] = {
        "translation": lambda: x + rng.normal(size=d),
        "rotation": lambda: x @ np.asarray(ortho_group(d, seed=1).rvs()),
        "scaling": lambda: 3.7 * x,
        "linear": lambda: x @ (rng.normal(size=(d, d)) + 3 * np.eye(d)),
        "sign": lambda: x * rng.choice([-1.0, 1.0], size=(len(x), 1)),
    }
    return changed[kind]()

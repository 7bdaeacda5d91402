"""Error against the number of labels: T13, Monte Carlo over subsets, concavity and the union bound."""

from __future__ import annotations

import numpy as np
import pytest

from probes.errors import DataError, UsageError
from repanalysis.theory.label_subsets import beaten_by, error_by_labels, linear_fit, power_law


def scores(n: int = 3000, k: int = 30) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k))
    logits[np.arange(n), labels] += 1.3
    return logits, labels


def test_it_agrees_with_the_error_over_random_subsets() -> None:
    logits, labels = scores()
    errors = error_by_labels(beaten_by(logits, labels), 30, np.array([2, 5, 10, 30])).set_index("labels")["error"]
    rng = np.random.default_rng(1)
    for k in (2, 5, 10):
        wrong = []
        for _ in range(30):
            for row, label in zip(logits[::10], labels[::10], strict=True):
                others = rng.choice(np.delete(np.arange(30), label), k - 1, replace=False)
                wrong.append(bool((row[others] > row[label]).any()))
        # 9,000 draws of 300 samples
        assert errors[k] == pytest.approx(np.mean(wrong), abs=0.06)
    assert errors[30] == pytest.approx((logits.argmax(1) != labels).mean(), abs=1e-12)


def test_it_is_increasing_concave_and_below_the_union_bound() -> None:
    logits, labels = scores()
    beaten = beaten_by(logits, labels)
    table = error_by_labels(beaten, 30, np.arange(2, 31))
    steps = np.diff(table["error"])
    assert (steps > 0).all()
    assert (np.diff(steps) < 1e-12).all()
    assert (table["error"] <= table["bound"] + 1e-12).all()
    assert table["error"].iloc[0] == pytest.approx(beaten.mean() / 29, rel=1e-12)


def test_fits_recover_power_laws_and_logarithms() -> None:
    x = np.array([3.0, 10.0, 30.0, 100.0])
    assert linear_fit(x, 0.002 * x + 0.01).r_squared == pytest.approx(1)
    assert linear_fit(x, np.array([1.0, -1.0, 1.0, -1.0])).r_squared < 0.5
    assert power_law(x, 5 * x**-0.4).slope == pytest.approx(-0.4)


def test_invalid_input_has_a_one_sentence_error() -> None:
    with pytest.raises(UsageError, match="sizes go from 2 to 5"):
        error_by_labels(np.zeros(3, np.int64), 5, np.array([1, 2]))
    with pytest.raises(DataError, match="no samples"):
        error_by_labels(np.zeros(0, np.int64), 5, np.array([2]))
    with pytest.raises(DataError, match="three are the least"):
        linear_fit(np.array([1.0, 2.0]), np.array([1.0, 2.0]))

"""Standard errors: textbook cases, coverage on data sets drawn again and again, and the null of random labels."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from probes import Batch
from repanalysis import analyze
from repanalysis.uncertainty import jackknife, null_summary, permuted


def test_equal_groups_give_the_textbook_formula(rng: np.random.Generator) -> None:
    x = rng.normal(size=60)
    left_out = [np.delete(x, slice(6 * j, 6 * j + 6)).mean() for j in range(10)]
    expected = math.sqrt(9 / 10 * np.square(np.array(left_out) - np.mean(left_out)).sum())
    assert jackknife(x.mean(), left_out, [6] * 10) == pytest.approx(expected, rel=1e-12)


def test_unequal_groups_of_a_mean_are_unbiased(rng: np.random.Generator) -> None:
    sizes = [3, 5, 8, 12, 4, 8]
    edges = np.cumsum([0, *sizes])
    found = []
    for _ in range(3000):
        x = rng.normal(size=40)
        left_out = [np.delete(x, slice(a, b)).mean() for a, b in pairwise(edges)]
        found.append(jackknife(x.mean(), left_out, sizes) ** 2)
    assert np.mean(found) == pytest.approx(1 / 40, rel=0.06)


def test_what_is_not_finite_has_no_error() -> None:
    assert math.isnan(jackknife(1.0, [1.0, math.nan], [5, 5]))
    assert math.isnan(jackknife(math.inf, [1.0, 2.0], [5, 5]))
    assert math.isnan(jackknife(1.0, [1.0], [5]))


@pytest.mark.parametrize("metric", ["fisher_ratio", "nc1", "rate_reduction", "within_class_variance", "participation_ratio"])
def test_standard_errors_are_the_spread_over_data_sets(metric: str) -> None:
    values, errors = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y = np.arange(400) % 3
        x = rng.normal(size=(400, 4)) + 2 * np.eye(3, 4)[y]
        batch = Batch(ids=np.arange(400) + 1000 * seed, layers={"x": x}, labels=y)
        row = analyze([batch], metric, progress=False).select(variant="").frame
        values.append(row["value"].item())
        errors.append(row["se"].item())
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values, ddof=1), rel=0.35)


def test_permutations_keep_the_number_of_each_class_and_depend_on_the_draw() -> None:
    labels = np.repeat([0, 1, 5], [30, 20, 10])
    first, second = permuted(labels, 0, 0), permuted(labels, 0, 1)
    assert np.bincount(first).tolist() == np.bincount(labels).tolist()
    assert (first != second).any()
    np.testing.assert_array_equal(first, permuted(labels, 0, 0))


def test_a_null_with_undefined_draws_is_undefined() -> None:
    mean, spread, note = null_summary(1.0, [0.5, math.nan])
    assert math.isnan(mean)
    assert math.isnan(spread)
    assert "not finite" in note

"""Rows: fewer coordinates keep scalar products, groups leave rows out, nothing of K d^2 is made."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from repanalysis import metrics
from repanalysis.statistics import Rows
from repanalysis.statistics.draws import GROUP, hashed

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_fewer_coordinates_have_the_same_scalar_products(offset: float, rng: np.random.Generator) -> None:
    x = rng.normal(size=(30, 500)) + offset
    rows = Rows().of(x, np.zeros(30, int))
    assert rows.x.shape == (30, 31)
    assert rows.d == 500
    order = np.argsort(hashed(np.arange(30), GROUP))
    centred, ours = x[order] - x.mean(axis=0), rows.x - rows.x.mean(axis=0)
    np.testing.assert_allclose(ours @ ours.T, centred @ centred.T, rtol=1e-8, atol=1e-8 * 500)
    np.testing.assert_allclose(rows.x @ rows.x.T, x[order] @ x[order].T, rtol=1e-10)


def test_leaving_a_group_out_is_having_the_others(classes: Classes) -> None:
    x, y = classes(300, 6, 4)
    group = hashed(np.arange(300), GROUP) % np.uint64(5)
    rows = Rows().of(x, y)
    for index, (size, rest) in enumerate(rows.replicates(5)):
        others = group != index
        expected = Rows().of(x[others], y[others])
        assert size == (~others).sum()
        np.testing.assert_allclose(rest.mean, expected.mean, rtol=1e-12)
        np.testing.assert_allclose(rest.scatter_sum(np.ones(4)), expected.scatter_sum(np.ones(4)), rtol=1e-10, atol=1e-12)


def test_a_thousand_classes_need_no_matrix_each(rng: np.random.Generator) -> None:
    k, d, n = 1000, 256, 4000
    x, y = rng.normal(size=(n, d)).astype(np.float32), np.arange(n) % k
    tracemalloc.start()
    rows = Rows().of(x, y)
    values = [
        metrics.get(name)(rows) for name in ("fisher_ratio", "nc1", "rate_reduction", "effective_rank", "nc2_equiangular")
    ]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(np.isfinite(float(value)) for found in values for value in found.values())
    assert peak < 0.2 * k * d * d * 8

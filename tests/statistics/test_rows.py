"""Rows: fewer coordinates keep scalar products, replicates omit groups, no array of size K d^2 is allocated."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from repanalysis import metrics
from repanalysis.statistics import ClassMoments, Rows
from repanalysis.statistics.draws import JACKKNIFE_SEED, hashed
from repanalysis.statistics.geometry import About

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_isometric_coordinates_keep_scalar_products(offset: float, rng: np.random.Generator) -> None:
    x = rng.normal(size=(30, 500)) + offset
    rows = Rows().of(x, np.zeros(30, int))
    assert rows.d == rows.mean.shape[1] == 500, "features keep their names"
    fewer = rows.isometric()
    assert fewer.x.shape == (30, 31)
    order = np.argsort(hashed(np.arange(30), JACKKNIFE_SEED))
    centred, reduced = x[order] - x.mean(axis=0), fewer.x - fewer.x.mean(axis=0)
    np.testing.assert_allclose(reduced @ reduced.T, centred @ centred.T, rtol=1e-8, atol=1e-8 * 500)
    np.testing.assert_allclose(fewer.x @ fewer.x.T, x[order] @ x[order].T, rtol=1e-10)
    for _, replicate in rows.replicates(5):
        assert replicate.isometric().x.shape == (len(replicate.x), 31), "made once, for all replicates"


@pytest.mark.parametrize("about", ["class", "mean", "origin"])
@pytest.mark.parametrize(("n", "d"), [(30, 80), (200, 12)])
@pytest.mark.parametrize("scaled", [False, True])
def test_the_spectrum_agrees_with_the_dense_matrix(
    about: About, n: int, d: int, scaled: bool, rng: np.random.Generator
) -> None:
    x, y = rng.normal(size=(n, d)) + 2.0, np.arange(n) % 3
    moments = ClassMoments().of(x, y)
    scale = rng.uniform(0.5, 2.0, d) * (np.arange(d) != 4) if scaled else None
    matrix = moments.matrix(about)
    if scale is not None:
        units = np.where(scale > 0, scale, np.inf)
        matrix = matrix / np.outer(units, units)
    for state in (moments, Rows().of(x, y)):
        values, vectors = state.spectrum(about, scale=scale)
        np.testing.assert_allclose((vectors * values) @ vectors.T, matrix, atol=1e-12 * np.abs(matrix).max())
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(values)), atol=1e-9)


def test_replicates_are_the_rows_of_the_other_groups(classes: Classes) -> None:
    x, y = classes(300, 6, 4)
    group = hashed(np.arange(300), JACKKNIFE_SEED) % np.uint64(5)
    rows = Rows().of(x, y)
    for index, (size, replicate) in enumerate(rows.replicates(5)):
        mask = group != index
        expected = Rows().of(x[mask], y[mask])
        assert size == (~mask).sum()
        np.testing.assert_allclose(replicate.mean, expected.mean, rtol=1e-12)
        np.testing.assert_allclose(replicate.scatter_sum(np.ones(4)), expected.scatter_sum(np.ones(4)), rtol=1e-10, atol=1e-12)


def test_a_thousand_classes_need_no_matrix_per_class(rng: np.random.Generator) -> None:
    k, d, n = 1000, 256, 4000
    x, y = rng.normal(size=(n, d)).astype(np.float32), np.arange(n) % k
    tracemalloc.start()
    rows = Rows().of(x, y)
    values = [
        metrics.get(name)(rows) for name in ("fisher_ratio", "nc1", "rate_reduction", "effective_rank", "nc2_equiangular")
    ]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all(np.isfinite(float(value)) for result in values for value in result.values())
    assert peak < 0.2 * k * d * d * 8


def test_nbytes_counts_rows_labels_groups_ids_and_hashes() -> None:
    x, y = np.zeros((100, 20), np.float32), np.arange(100) % 3
    rows = Rows().of(x, y)
    stored = rows.x.nbytes + rows.labels.nbytes + rows.groups.nbytes + 8 * len(x)  # and the ids
    assert Rows().state_bytes(20, 3, 100) == 2 * stored


def test_rows_replace_only_moments_of_the_same_normalization() -> None:
    for rows in (Rows(), Rows(normalize="sphere")):
        for moments in (ClassMoments(), ClassMoments(scatter="none"), ClassMoments(normalize="sphere")):
            assert rows.covers(moments) == (rows.normalize == moments.normalize)


def test_scatter_sums_of_any_two_weightings_are_plain_products(classes: Classes) -> None:
    """The latest product is reused only for proportional factors."""
    x, y = classes(60, 4, 3)
    geometry = Rows().of(x, y)
    scatters = [(c := x[y == label] - x[y == label].mean(axis=0)).T @ c for label in range(3)]
    for factors in ([1.0, 2.0, 3.0], [1.0, 1.5, 2.5], [2.0, 3.0, 5.0], [0.0, 1.0, 0.0], [1.0, 2.0, 3.0]):
        expected = sum(factor * scatter for factor, scatter in zip(factors, scatters, strict=True))
        np.testing.assert_allclose(np.tril(geometry.scatter_sum(np.array(factors))), np.tril(expected), rtol=1e-9, atol=1e-9)


def test_there_is_a_replicate_for_every_nonempty_group(classes: Classes) -> None:
    x, y = classes(60, 4, 3)
    geometry = Rows().of(x, y)
    sizes = np.bincount((hashed(np.arange(60), JACKKNIFE_SEED) % np.uint64(10)).astype(int))
    replicates = list(geometry.replicates(10))
    assert [size for size, _ in replicates] == [size for size in sizes.tolist() if size]
    assert [rest.n for _, rest in replicates] == [60 - size for size, _ in replicates]

"""Samples: a uniform draw that does not depend on the order, in the type of the input."""

from __future__ import annotations

import numpy as np
import pytest

from repanalysis.statistics import NonFiniteError, Samples


def test_every_sample_is_drawn_equally_often(rng: np.random.Generator) -> None:
    counts = np.zeros(100)
    for start in range(0, 200_000, 100):
        samples = Samples(limit=20).of(np.zeros((100, 1)), np.zeros(100, int), np.arange(start, start + 100))
        counts[samples.ids - start] += 1
    assert np.abs(counts / 2000 - 0.2).max() < 5 * np.sqrt(0.16 / 2000)


def test_a_smaller_draw_is_a_subset_of_a_larger_one(rng: np.random.Generator) -> None:
    x = rng.normal(size=(500, 2))
    small, large = (Samples(limit=limit).of(x, np.zeros(500, int)).ids for limit in (50, 200))
    np.testing.assert_array_equal(small, large[:50])


def test_rows_stay_with_their_ids_and_labels(rng: np.random.Generator) -> None:
    ids = rng.permutation(10_000)[:700]
    samples = Samples(limit=100).of(ids[:, None] * 1.0, ids % 7, ids)
    np.testing.assert_array_equal(samples.x[:, 0], samples.ids)
    np.testing.assert_array_equal(samples.labels, samples.ids % 7)
    assert int(samples.n_seen) == 700


@pytest.mark.parametrize("size", [1, 7, 30, 100])
def test_n_seen_counts_all_samples_after_repeated_merges(size: int) -> None:
    statistic, ids = Samples(limit=8), np.arange(100)
    states = []
    for rows in (ids[:60], ids[60:]):
        state = statistic.init(1)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            state = statistic.update(state, part[:, None] * 1.0, part, part)
        assert int(state.n_seen) == len(rows)
        states.append(state)
    samples = statistic.finish(statistic.merge(*states))
    assert (samples.n, int(samples.n_seen), samples.note) == (8, 100, "on 8 of 100 samples, drawn by id")
    np.testing.assert_array_equal(samples.ids, statistic.of(ids[:, None] * 1.0, ids).ids)


def test_no_note_where_all_samples_are_used() -> None:
    for limit in (0, 100, 101):
        assert Samples(limit=limit).of(np.zeros((100, 1)), np.zeros(100, int)).note == ""


def test_rounding_is_a_fraction_of_each_features_mean_square_plus_a_constant(rng: np.random.Generator) -> None:
    x = rng.normal(size=(50, 3)) * [1.0, 10.0, 100.0]
    samples = Samples().of(x, np.zeros(50, int)).at_resolution(np.array([1e-3, 2e-3]))
    np.testing.assert_allclose(samples.rounding(), 1e-3 * np.square(x).mean(axis=0) + 2e-3, rtol=1e-12)
    assert samples.at_resolution(np.array([0.5e-3, 3e-3])).resolution.tolist() == [1e-3, 3e-3]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_float_types_are_kept_and_integers_become_floats(dtype: type) -> None:
    result = Samples().of(np.ones((3, 2), dtype), np.zeros(3, int)).x.dtype
    assert result == np.result_type(np.float32, dtype)
    assert Samples().of(np.ones((3, 2), np.int32), np.zeros(3, int)).x.dtype == np.float64


def test_halves_are_of_equal_size_and_depend_on_ids_alone() -> None:
    ids = np.arange(10_000)
    samples = Samples(limit=0).of(np.zeros((10_000, 1)), np.zeros(10_000, int), ids)
    training = set(samples.ids[samples.training()].tolist())
    assert abs(len(training) - 5000) < 250
    fewer = Samples(limit=0).of(np.zeros((100, 1)), np.zeros(100, int), ids[:100])
    assert {int(i) for i in fewer.ids[fewer.training()]} == {i for i in training if i < 100}


def test_features_whose_squares_overflow_are_named() -> None:
    x = np.full((10, 3), 1e150)
    assert Samples().of(x, np.zeros(10, int)).n == 10
    x[4, 1] = 1e155
    with pytest.raises(NonFiniteError) as caught:
        Samples().of(x, np.zeros(10, int))
    assert caught.value.row == 4

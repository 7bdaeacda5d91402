"""Samples: a uniform draw, the same whatever the order, and the type that came in."""

from __future__ import annotations

import numpy as np
import pytest

from repanalysis.statistics import NonFiniteError, Samples


def test_every_sample_is_drawn_as_often(rng: np.random.Generator) -> None:
    drawn = np.zeros(100)
    for start in range(0, 200_000, 100):
        found = Samples(limit=20).of(np.zeros((100, 1)), np.zeros(100, int), np.arange(start, start + 100))
        drawn[found.ids - start] += 1
    assert np.abs(drawn / 2000 - 0.2).max() < 5 * np.sqrt(0.16 / 2000)


def test_a_smaller_draw_is_part_of_a_larger_one(rng: np.random.Generator) -> None:
    x = rng.normal(size=(500, 2))
    small, large = (Samples(limit=limit).of(x, np.zeros(500, int)).ids for limit in (50, 200))
    np.testing.assert_array_equal(small, large[:50])


def test_rows_stay_with_their_ids_and_labels(rng: np.random.Generator) -> None:
    ids = rng.permutation(10_000)[:700]
    found = Samples(limit=100).of(ids[:, None] * 1.0, ids % 7, ids)
    np.testing.assert_array_equal(found.x[:, 0], found.ids)
    np.testing.assert_array_equal(found.labels, found.ids % 7)
    assert int(found.n_seen) == 700


@pytest.mark.parametrize("size", [1, 7, 30, 100])
def test_all_samples_count_as_seen_however_often_the_rest_are_dropped(size: int) -> None:
    statistic, ids = Samples(limit=8), np.arange(100)
    states = []
    for rows in (ids[:60], ids[60:]):
        state = statistic.init(1)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            state = statistic.update(state, part[:, None] * 1.0, part, part)
        assert int(state.n_seen) == len(rows)
        states.append(state)
    found = statistic.finish(statistic.merge(*states))
    assert (found.n, int(found.n_seen), found.note) == (8, 100, "on 8 of 100 samples, drawn by id")
    np.testing.assert_array_equal(found.ids, statistic.of(ids[:, None] * 1.0, ids).ids)


def test_no_note_where_all_samples_are_there() -> None:
    for limit in (0, 100, 101):
        assert Samples(limit=limit).of(np.zeros((100, 1)), np.zeros(100, int)).note == ""


def test_rounding_is_a_share_of_each_features_mean_square_and_a_variance(rng: np.random.Generator) -> None:
    x = rng.normal(size=(50, 3)) * [1.0, 10.0, 100.0]
    samples = Samples().of(x, np.zeros(50, int)).at_resolution(np.array([1e-3, 2e-3]))
    np.testing.assert_allclose(samples.rounding(), 1e-3 * np.square(x).mean(axis=0) + 2e-3, rtol=1e-12)
    assert samples.at_resolution(np.array([0.5e-3, 3e-3])).resolution.tolist() == [1e-3, 3e-3]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_types_are_kept_and_integers_become_floats(dtype: type) -> None:
    kept = Samples().of(np.ones((3, 2), dtype), np.zeros(3, int)).x.dtype
    assert kept == np.result_type(np.float32, dtype)
    assert Samples().of(np.ones((3, 2), np.int32), np.zeros(3, int)).x.dtype == np.float64


def test_halves_are_halves_and_depend_on_ids_alone() -> None:
    ids = np.arange(10_000)
    found = Samples(limit=0).of(np.zeros((10_000, 1)), np.zeros(10_000, int), ids)
    training = set(found.ids[found.training()].tolist())
    assert abs(len(training) - 5000) < 250
    fewer = Samples(limit=0).of(np.zeros((100, 1)), np.zeros(100, int), ids[:100])
    assert {int(i) for i in fewer.ids[fewer.training()]} == {i for i in training if i < 100}


def test_what_overflows_when_squared_is_named() -> None:
    x = np.full((10, 3), 1e150)
    assert Samples().of(x, np.zeros(10, int)).n == 10
    x[4, 1] = 1e155
    with pytest.raises(NonFiniteError) as caught:
        Samples().of(x, np.zeros(10, int))
    assert caught.value.row == 4

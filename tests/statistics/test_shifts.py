"""Spectral moments of maps are the block-circulant second moments of all their shifts."""

from __future__ import annotations

import numpy as np
import pytest

from probes.errors import DataError
from repanalysis.statistics.shifts import ShiftMoments
from tests.networks.redunet import plain

SHAPES = [(3, 1), (2, 5), (2, 6), (2, 3, 4), (2, 4, 3), (1, 5, 5), (3, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_eigenvalues_are_those_of_all_shifts(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    maps = rng.normal(size=(9, *shape))
    y = np.array([4, 4, 4, 1, 1, 1, 1, 1, 1])
    state = ShiftMoments(shape).of(maps.reshape(9, -1), y)
    assert state.classes.tolist() == [1, 4]
    assert state.counts.tolist() == [6, 3]
    unit = maps / np.linalg.norm(maps.reshape(9, -1), axis=1).reshape(-1, *[1] * len(shape))
    for k, label in enumerate(state.classes):
        every = plain.shifts(unit[y == label])
        expected = np.linalg.eigvalsh(every.T @ every) / state.points
        values = np.linalg.eigvalsh(state.moments[k] / state.multiplicity[:, None, None])
        repeated = np.repeat(values, state.multiplicity.astype(int), axis=0)
        np.testing.assert_allclose(np.sort(repeated.ravel()), expected, atol=1e-12)
    assert state.multiplicity.sum() == state.points == np.prod(shape[1:])


@pytest.mark.parametrize("shape", SHAPES)
def test_shifts_of_single_samples_change_nothing(shape: tuple[int, ...]) -> None:
    maps = np.random.default_rng(1).normal(size=(6, *shape))
    axes = tuple(range(len(shape) - 1))
    moved = np.stack([np.roll(one, [i] * len(axes), axis=[axis + 1 for axis in axes]) for i, one in enumerate(maps)])
    y = np.array([0, 1, 0, 1, 0, 1])
    a, b = (ShiftMoments(shape).of(x.reshape(6, -1), y).moments for x in (maps, moved))
    np.testing.assert_allclose(a, b, atol=1e-13)


def test_zero_samples_count_and_add_nothing() -> None:
    state = ShiftMoments((1, 4)).of(np.array([[0.0] * 4, [1, 0, 0, 0]]), np.array([0, 0]))
    alone = ShiftMoments((1, 4)).of(np.array([[1.0, 0, 0, 0]]), np.array([0]))
    assert state.counts.tolist() == [2]
    np.testing.assert_allclose(state.moments, alone.moments)


def test_rows_that_are_not_finite_are_refused_before_anything_is_added() -> None:
    with pytest.raises(DataError, match="Row 1 holds nan"):
        ShiftMoments((1, 2)).of(np.array([[1.0, 0], [np.nan, 1]]), np.array([0, 0]))


def test_an_unknown_shape_sums_nothing() -> None:
    state = ShiftMoments(None).of(np.eye(5), np.arange(5) % 2)
    assert state.moments.size == state.points == 0
    assert state.counts.tolist() == [3, 2]
    assert ShiftMoments(None).state_bytes(5, 2) == 0
    assert ShiftMoments((2, 6)).state_bytes(12, 3) == ShiftMoments((2, 6)).init(12, [0, 1, 2]).moments.nbytes


@pytest.mark.parametrize("shape", SHAPES)
def test_any_split_of_the_samples_gives_the_same_state(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    statistic, d = ShiftMoments(shape), int(np.prod(shape))
    x, y = rng.normal(size=(20, d)), rng.integers(3, 7, 20)
    whole = statistic.of(x, y)
    ids = np.arange(20)
    parts = [
        statistic.update(statistic.init(d), x[rows], y[rows], ids[rows]) for rows in (slice(0, 3), slice(3, 3), slice(3, 20))
    ]
    for order in ((0, 1, 2), (2, 0, 1)):
        merged = statistic.init(d, [9])
        for index in order:
            merged = statistic.merge(merged, parts[index])
        assert merged.counts.tolist() == [*whole.counts, 0]
        np.testing.assert_allclose(merged.moments[:-1], whole.moments, atol=1e-13)
    np.testing.assert_allclose(statistic.of(x.astype(np.float32), y).moments, whole.moments, atol=1e-6)

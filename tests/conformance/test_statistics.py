"""Laws that every registered statistic obeys: batching, merging and the order of samples do not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise, product
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import repanalysis.statistics  # registers every statistic
from repanalysis.statistics import Statistic

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def specifications() -> list[Statistic]:
    """Every registered statistic with every combination of its literal options."""
    found = []
    for kind in Statistic.registered:
        hints = get_type_hints(kind)
        names = [field.name for field in fields(kind)]  # type: ignore[arg-type]  # subclasses are dataclasses
        found += [kind(**dict(zip(names, values, strict=True))) for values in product(*(get_args(hints[n]) for n in names))]
    return found


every = pytest.mark.parametrize("statistic", specifications(), ids=str)


def assert_equal(a: Any, b: Any, rtol: float = 1e-12) -> None:
    """States agree, relative to the largest entry of each array: an entry near 0 is a difference of larger ones."""
    for name, left, right in zip(a._fields, a, b, strict=True):
        scale = np.abs(left).max() if np.size(left) else 0.0
        np.testing.assert_allclose(left, right, rtol=rtol, atol=rtol * scale, err_msg=name)


@every
def test_there_is_something_to_test(statistic: Statistic) -> None:
    assert hash(statistic) == hash(type(statistic)(**vars(statistic)))
    assert statistic.covers(statistic)
    assert statistic.state_bytes(64, 10) > 0
    assert repanalysis.statistics.Statistic is Statistic


@every
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=6), seed=st.integers(0, 9), offset=st.sampled_from([0.0, 1e3]))
def test_merging_any_split_gives_the_one_shot_state(statistic: Statistic, cuts: list[int], seed: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.choice(5, 300, p=[0.5, 0.3, 0.1, 0.08, 0.02])
    x = rng.normal(size=(300, 7)) + rng.normal(size=(5, 7))[y] + offset
    edges = [0, *sorted(cuts), 300]
    parts = [statistic.of(x[a:b], y[a:b]) for a, b in pairwise(edges)]
    merged = statistic.init(7)
    for part in rng.permutation(len(parts)):
        merged = statistic.merge(merged, parts[part])
    assert_equal(merged, statistic.of(x, y))


@every
def test_updating_in_batches_gives_the_one_shot_state(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(2000, 11, 6)
    x = x + 1e3
    whole = statistic.of(x, y)
    for size, known in ((1, ()), (7, ()), (333, range(6)), (2000, range(6))):
        state = statistic.init(11, known)
        for start in range(0, 2000, size):
            state = statistic.update(state, x[start : start + size], y[start : start + size])
        assert_equal(state, whole)


@every
def test_merge_is_commutative_and_associative_and_changes_nothing(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(300, 5, 4)
    a, b, c = (statistic.of(x[part], y[part]) for part in (slice(0, 90), slice(90, 91), slice(91, 300)))
    before = [np.copy(array) for array in a]
    assert_equal(statistic.merge(a, b), statistic.merge(b, a))
    assert_equal(statistic.merge(statistic.merge(a, b), c), statistic.merge(a, statistic.merge(b, c)))
    for array, old in zip(a, before, strict=True):
        np.testing.assert_array_equal(array, old)


@every
def test_an_empty_state_is_neutral(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(100, 5, 3)
    state = statistic.of(x, y)
    assert_equal(statistic.merge(state, statistic.init(5)), state, rtol=0)
    assert_equal(statistic.merge(statistic.init(5), state), state, rtol=0)
    assert_equal(statistic.update(statistic.of(x, y), x[:0], y[:0]), state, rtol=0)


@every
def test_the_order_of_samples_and_float32_do_not_matter(
    statistic: Statistic, classes: Classes, rng: np.random.Generator
) -> None:
    x, y = classes(500, 6, 4)
    x = x.astype(np.float32)
    order = rng.permutation(500)
    assert_equal(statistic.of(x[order], y[order]), statistic.of(x, y))
    numbers = [array for name, array in statistic.of(x, y)._asdict().items() if name != "resolution"]
    exact = [array for name, array in statistic.of(x.astype(np.float64), y)._asdict().items() if name != "resolution"]
    for left, right in zip(numbers, exact, strict=True):
        np.testing.assert_array_equal(left, right)


@every
def test_the_samples_are_not_changed(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(50, 4, 3)
    kept = x.copy(), y.copy()
    statistic.of(x, y)
    np.testing.assert_array_equal(x, kept[0])
    np.testing.assert_array_equal(y, kept[1])


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_not_finite_is_named(statistic: Statistic, classes: Classes, bad: float) -> None:
    x, y = classes(5000, 300, 3)
    x[4321, 17] = bad
    with pytest.raises(repanalysis.statistics.NonFiniteError) as caught:
        statistic.of(x, y)
    assert caught.value.row == 4321


@every
def test_state_bytes_are_those_of_the_arrays(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(100, 20, 7)
    assert sum(array.nbytes for array in statistic.of(x, y)) == pytest.approx(statistic.state_bytes(20, 7), rel=0.02)

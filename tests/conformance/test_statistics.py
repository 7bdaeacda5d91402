"""Laws that every registered statistic obeys: batching, merging and the order of samples do not matter."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import repanalysis.statistics  # registers every statistic
from probes.ids import id_keys
from repanalysis.statistics import ClassMoments, Groups, RowMoments, Rows, Samples, Statistic

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def specifications() -> list[Statistic]:
    """The test configurations of every registered statistic."""
    return [example for kind in Statistic.registered for example in kind.examples()]


def arrays(finished: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Every array of a finished state, by name, at any nesting."""
    if isinstance(finished, RowMoments):
        result = {
            name: getattr(finished, name)
            for name in ("classes", "counts", "mean", "scatter_trace", "x", "labels", "resolution")
        }
        return result | {"scatter": finished.scatter_sum(np.ones(len(finished.counts)))}
    if isinstance(finished, ClassMoments):
        return {}
    if isinstance(finished, tuple):
        names = getattr(finished, "_fields", map(str, range(len(finished))))
        pairs = zip(names, finished, strict=True)
        return {key: array for name, part in pairs for key, array in arrays(part, f"{prefix}{name}.").items()}
    return {prefix: np.asarray(finished)}


every_statistic = pytest.mark.parametrize("statistic", specifications(), ids=str)


def assert_equal(a: Any, b: Any, rtol: float = 1e-12) -> None:
    """States agree, relative to the largest entry of each array: an entry near 0 is a difference of larger ones."""
    left, right = arrays(a), arrays(b)
    assert left.keys() == right.keys()
    for name, array in left.items():
        scale = np.abs(array).max() if np.size(array) else 0.0
        np.testing.assert_allclose(array, right[name], rtol=rtol, atol=rtol * scale, err_msg=name)


def state_of(statistic: Statistic, x: np.ndarray, y: np.ndarray, rows: slice = slice(None)) -> Any:
    """The unfinished state of selected rows with their ids."""
    return statistic.update(statistic.init(x.shape[1]), x[rows], y[rows], np.arange(len(x))[rows])


@every_statistic
def test_statistics_are_registered(statistic: Statistic) -> None:
    assert hash(statistic) == hash(type(statistic)(**vars(statistic)))
    assert statistic.covers(statistic)
    assert repanalysis.statistics.Statistic is Statistic


@every_statistic
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=6), seed=st.integers(0, 9), offset=st.sampled_from([0.0, 1e3]))
def test_merging_any_split_gives_the_one_shot_state(statistic: Statistic, cuts: list[int], seed: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.choice(5, 300, p=[0.5, 0.3, 0.1, 0.08, 0.02])
    x = rng.normal(size=(300, 7)) + rng.normal(size=(5, 7))[y] + offset
    edges = [0, *sorted(cuts), 300]
    parts = [state_of(statistic, x, y, slice(a, b)) for a, b in pairwise(edges)]
    merged = statistic.init(7)
    for part in rng.permutation(len(parts)):
        merged = statistic.merge(merged, parts[part])
    assert_equal(statistic.finish(merged), statistic.of(x, y))


@every_statistic
def test_updating_in_batches_gives_the_one_shot_state(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(2000, 11, 6)
    x = x + 1e3
    expected = statistic.of(x, y)
    for size, classes_known in ((1, ()), (7, ()), (333, range(6)), (2000, range(6))):
        state = statistic.init(11, classes_known)
        for start in range(0, 2000, size):
            stop = min(2000, start + size)
            state = statistic.update(state, x[start:stop], y[start:stop], np.arange(start, stop))
        assert_equal(statistic.finish(state), expected)


@every_statistic
def test_merge_is_commutative_and_associative_and_changes_nothing(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(300, 5, 4)
    a, b, c = (state_of(statistic, x, y, part) for part in (slice(0, 90), slice(90, 91), slice(91, 300)))
    before = {name: array.copy() for name, array in arrays(a).items()}
    assert_equal(statistic.finish(statistic.merge(a, b)), statistic.finish(statistic.merge(b, a)))
    left, right = statistic.merge(statistic.merge(a, b), c), statistic.merge(a, statistic.merge(b, c))
    assert_equal(statistic.finish(left), statistic.finish(right))
    for name, array in arrays(a).items():
        np.testing.assert_array_equal(array, before[name])


@every_statistic
def test_an_empty_state_is_neutral(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(100, 5, 3)
    state, finish = state_of(statistic, x, y), statistic.finish
    assert_equal(finish(statistic.merge(state, statistic.init(5))), finish(state), rtol=0)
    assert_equal(finish(statistic.merge(statistic.init(5), state)), finish(state), rtol=0)
    assert_equal(finish(statistic.update(state_of(statistic, x, y), x[:0], y[:0], y[:0])), finish(state), rtol=0)


@every_statistic
def test_the_order_of_samples_and_float32_do_not_matter(
    statistic: Statistic, classes: Classes, rng: np.random.Generator
) -> None:
    x, y = classes(500, 6, 4)
    x = x.astype(np.float32)
    order = rng.permutation(500)
    assert_equal(statistic.of(x[order], y[order], order), statistic.of(x, y))
    numbers, exact = arrays(statistic.of(x, y)), arrays(statistic.of(x.astype(np.float64), y))
    for name in (name for name in numbers if not name.endswith("resolution.") and name != "resolution"):
        scale = np.abs(exact[name]).max() if exact[name].size else 0.0
        np.testing.assert_allclose(numbers[name], exact[name], rtol=1e-12, atol=1e-14 * scale, err_msg=name)


@every_statistic
def test_samples_are_not_changed(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(50, 4, 3)
    originals = x.copy(), y.copy()
    statistic.of(x, y)
    np.testing.assert_array_equal(x, originals[0])
    np.testing.assert_array_equal(y, originals[1])


@every_statistic
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_row_that_is_not_finite_is_named(statistic: Statistic, classes: Classes, bad: float) -> None:
    x, y = classes(5000, 300, 3)
    x[4321, 17] = bad
    with pytest.raises(repanalysis.statistics.NonFiniteError) as caught:
        statistic.of(x, y)
    assert caught.value.row == 4321


@every_statistic
def test_state_bytes_agree_with_the_arrays(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(100, 20, 7)
    assert statistic.state_bytes(20, 7) == pytest.approx(bytes_of(statistic, x, y), rel=0.05)


def bytes_of(statistic: Statistic, x: np.ndarray, y: np.ndarray) -> int:
    """Maximal memory of a state, as far as it can be measured from its arrays."""
    if isinstance(statistic, Rows):
        return 0  # depends on the number of samples and is tested separately
    if isinstance(statistic, Samples):
        return 2 * statistic.limit * (4 * 20 + 16)
    if isinstance(statistic, Groups):
        return (statistic.groups + 3) * bytes_of(statistic.inner, x, y)
    return sum(array.nbytes for array in statistic.of(x, y))


@every_statistic
def test_text_ids_are_equivalent_to_their_hash_keys(statistic: Statistic, classes: Classes) -> None:
    x, y = classes(300, 7, 4)
    texts = np.array([f"{i}.png" for i in range(300)])
    assert_equal(statistic.of(x, y, texts), statistic.of(x, y, id_keys(texts)), rtol=0)

"""ClassMoments against the two-pass formulas, and its documented properties."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.statistics import ClassMoments

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_agrees_with_the_two_pass_formulas(classes: Classes) -> None:
    x, y = classes(400, 9, 5)
    moments = ClassMoments().of(x, y)
    for index, label in enumerate(moments.classes):
        members = x[y == label]
        assert moments.counts[index] == len(members)
        np.testing.assert_allclose(moments.mean[index], members.mean(axis=0), rtol=1e-12)
        scatter = np.cov(members.T, bias=True) * len(members)
        np.testing.assert_allclose(np.tril(scatter), moments.scatter[index], rtol=1e-10, atol=1e-10)
        assert moments.scatter_trace[index] == pytest.approx(np.trace(scatter), rel=1e-12)


@pytest.mark.parametrize("class_weight", ["balanced", "empirical"])
def test_total_covariance_is_within_plus_between(classes: Classes, class_weight: str) -> None:
    x, y = classes(400, 6, 4)
    moments = ClassMoments().of(x, y)
    weights, means = moments.weights(class_weight), moments.centred_means(class_weight)  # type: ignore[arg-type]
    per_sample = (weights / moments.counts)[y]
    centred = x - per_sample @ x
    total = (centred * per_sample[:, None]).T @ centred
    within = moments.within(class_weight)  # type: ignore[arg-type]
    np.testing.assert_allclose(within + (means * weights[:, None]).T @ means, total, rtol=1e-12, atol=1e-13)


def test_an_offset_of_a_thousand_loses_no_precision(classes: Classes) -> None:
    x, y = classes(3000, 8, 3)
    x = np.round(x * 2**20) / 2**20  # so that x + 1024 is exact, and both states describe the same numbers
    original, shifted = ClassMoments().of(x, y), ClassMoments().of(x + 1024.0, y)
    scale = np.abs(original.scatter).max()
    np.testing.assert_allclose(shifted.scatter, original.scatter, rtol=1e-12, atol=1e-12 * scale)


def test_labels_may_be_any_integers_and_come_in_any_order() -> None:
    statistic = ClassMoments()
    state = statistic.update(statistic.init(1), np.array([[5.0]]), np.array([7]), np.array([0]))
    state = statistic.update(state, np.array([[1.0], [3.0]]), np.array([-2, -2]), np.array([1, 2]))
    assert state.classes.tolist() == [-2, 7]
    assert state.mean.ravel().tolist() == [2.0, 5.0]
    assert state.scatter_trace.tolist() == [2.0, 0.0]


def test_classes_without_samples_have_weight_0() -> None:
    statistic = ClassMoments()
    state = statistic.update(statistic.init(2, [0, 1, 2]), np.eye(2), np.array([0, 2]), np.array([0, 1]))
    assert state.k == 2
    assert state.weights().tolist() == [0.5, 0.0, 0.5]
    assert state.within().tolist() == np.zeros((2, 2)).tolist()


def test_sphere_normalizes_rows_and_leaves_zero_rows(classes: Classes) -> None:
    x, y = classes(200, 5, 3)
    x[3] = 0.0
    unit = x / np.where(np.linalg.norm(x, axis=1) > 0, np.linalg.norm(x, axis=1), 1)[:, None]
    normalized, expected = ClassMoments(normalize="sphere").of(x, y), ClassMoments().of(unit, y)
    np.testing.assert_allclose(normalized.scatter, expected.scatter, rtol=1e-12, atol=1e-14)


def test_traces_without_scatters_equal_those_of_the_scatters(classes: Classes) -> None:
    x, y = classes(200, 5, 3)
    full, light = ClassMoments().of(x, y), ClassMoments(scatter="none").of(x, y)
    assert light.scatter.size == 0
    np.testing.assert_allclose(full.scatter_trace, light.scatter_trace, rtol=1e-14)
    assert ClassMoments().covers(ClassMoments(scatter="none"))
    assert not ClassMoments(scatter="none").covers(ClassMoments())
    assert not ClassMoments(normalize="sphere").covers(ClassMoments())


def test_an_unknown_weighting_is_refused() -> None:
    moments = ClassMoments().of(np.eye(2), np.arange(2))
    with pytest.raises(Exception, match="class_weight"):  # in tests the type check comes first
        moments.weights("mixed")  # type: ignore[arg-type]

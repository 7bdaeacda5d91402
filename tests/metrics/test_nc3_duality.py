"""nc3_duality: 0 for weights that are the means, 2 for their opposite, reasons where the head does not fit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from repanalysis.metrics import Head
from repanalysis.metrics.nc3_duality import nc3_duality
from repanalysis.statistics import ClassMoments
from tests.metrics.geometries import isotropic, simplex


def test_dual_weights_give_0_and_opposite_weights_2(rng: np.random.Generator) -> None:
    means = simplex(4, 6, 2.0, rng)
    moments = ClassMoments().of(*isotropic(means + 3.0, 0.3, 1, rng))
    assert nc3_duality(moments, head=Head(7 * means, np.zeros(4))) == pytest.approx(0.0, abs=1e-7)
    assert nc3_duality(moments, head=Head(-means, np.zeros(4))) == pytest.approx(2.0, rel=1e-12)


def test_it_is_a_function_of_the_cosines_of_weights_and_means(rng: np.random.Generator) -> None:
    means, weights = simplex(4, 6, 2.0, rng), rng.normal(size=(4, 6))
    value = nc3_duality(ClassMoments().of(*isotropic(means + 3.0, 0.3, 1, rng)), head=Head(weights, np.zeros(4)))
    cosine = float((means * weights).sum() / np.linalg.norm(means) / np.linalg.norm(weights))
    assert value == pytest.approx(math.sqrt(2 - 2 * cosine), rel=1e-10)


def test_rows_are_matched_to_labels(rng: np.random.Generator) -> None:
    weight = rng.normal(size=(9, 3))
    y = np.array([2, 5, 8])
    means = weight[y] - weight[y].mean(axis=0)
    weight[y] = means
    assert nc3_duality(ClassMoments().of(means, y), head=Head(weight, np.zeros(9))) == pytest.approx(0.0, abs=1e-7)


def test_a_head_that_does_not_fit_is_undefined_with_the_reason(rng: np.random.Generator) -> None:
    moments = ClassMoments().of(rng.normal(size=(8, 3)), np.arange(8) % 4)
    assert "takes 5 features, and this layer has 3" in nc3_duality(moments, head=Head(np.ones((4, 5)), np.zeros(4))).note
    assert "labels go from 0 to 3" in nc3_duality(moments, head=Head(np.ones((2, 3)), np.zeros(2))).note
    assert "needs the head's weights" in nc3_duality(moments).note
    assert math.isnan(nc3_duality(moments))


def test_classes_in_another_order_than_the_rows_are_noted(rng: np.random.Generator) -> None:
    """Regression: folders 0 to 11 were ordered as text, which gave 1.354 for 0.321 without a note."""
    means = simplex(12, 20, 2.0, rng)
    moments = ClassMoments().of(*isotropic(means, 0.0, 1, rng))
    order = np.array(sorted(range(12), key=str))
    right, wrong = (nc3_duality(moments, head=Head(means[rows], np.zeros(12))) for rows in (np.arange(12), order))
    assert right.note == ""
    assert right < 1e-7 < 1 < wrong
    assert "with the rows of the head in another order it would be" in wrong.note
    untrained = nc3_duality(moments, head=Head(rng.normal(size=(12, 20)), np.zeros(12)))
    assert untrained.note == ""


def test_rows_that_match_no_class_are_undefined_with_the_reason(rng: np.random.Generator) -> None:
    value = nc3_duality(ClassMoments().of(np.eye(3), np.arange(3)), head=Head(np.eye(3), np.zeros(3), unmatched="for a reason"))
    assert math.isnan(value)
    assert value.note == "the classes are not matched to the rows of the head: for a reason"


def test_the_note_on_permuted_rows_states_the_distance_in_the_best_order(rng: np.random.Generator) -> None:
    means = simplex(4, 6, 2.0, rng)
    weights = means + 0.05 * rng.normal(size=means.shape)
    moments = ClassMoments().of(*isotropic(means, 0.3, 1, rng))
    exact = moments.centred_means()
    best = np.linalg.norm(weights / np.linalg.norm(weights) - exact / np.linalg.norm(exact))
    value = nc3_duality(moments, head=Head(weights[[1, 2, 3, 0]], np.zeros(4)))
    assert f"in another order it would be {best:.2g}:" in value.note
    assert nc3_duality(moments, head=Head(weights, np.zeros(4))).note == ""

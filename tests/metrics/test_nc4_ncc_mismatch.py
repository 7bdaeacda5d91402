"""nc4_ncc_mismatch: 0 for a nearest-centre head, the share of other predictions for a constant head."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from repanalysis.metrics import Head
from repanalysis.metrics.nc4_ncc_mismatch import nc4_ncc_mismatch
from repanalysis.statistics import Samples
from tests.metrics.fits import error, left_out

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def centres_head(x: np.ndarray, y: np.ndarray, training: np.ndarray) -> Head:
    """The linear classifier that predicts the nearest centre: w = mu, b = -|mu|^2 / 2."""
    centres = np.array([x[training & (y == c)].mean(axis=0) for c in range(y.max() + 1)])
    return Head(centres, -np.square(centres).sum(axis=1) / 2)


def test_a_nearest_centre_head_never_disagrees(classes: Classes) -> None:
    x, y = classes(400, 5, 4)
    samples = Samples().of(x, y)
    training = np.isin(np.arange(400), samples.ids[samples.training()])
    assert nc4_ncc_mismatch(samples, head=centres_head(x, y, training)) == 0.0


@pytest.mark.parametrize("constant", [1, 3])
def test_a_constant_head_disagrees_with_all_other_predictions(constant: int, classes: Classes) -> None:
    x, y = classes(400, 5, 4)
    samples = Samples().of(x, y)
    training = np.isin(np.arange(400), samples.ids[samples.training()])
    head = centres_head(x, y, training)
    nearest = np.argmax(x[~training] @ head.weight.T + head.bias, axis=1)
    value = nc4_ncc_mismatch(samples, head=Head(np.zeros((4, 5)), 9.0 * np.eye(4)[constant]))
    assert value == pytest.approx((nearest != constant).mean(), abs=1e-12)
    mismatches = []
    for rows in (samples.training(), *left_out(samples)):
        centres = np.array([samples.x[rows & (samples.labels == c)].mean(axis=0) for c in range(4)])
        mismatches.append(cdist(samples.x[~samples.training()], centres).argmin(axis=1) != constant)
    assert value.se == pytest.approx(error(mismatches[0], mismatches[1:]), rel=1e-9)


def test_an_unfit_head_is_undefined(classes: Classes) -> None:
    value = nc4_ncc_mismatch(Samples().of(*classes(100, 5, 4)), head=Head(np.zeros((4, 6)), np.zeros(4)))
    assert math.isnan(value)
    assert "takes 6 features" in value.note


def test_a_prediction_that_no_label_has_is_a_mismatch(rng: np.random.Generator) -> None:
    """The head has rows below, between and above the labels; only predictions of a label can agree."""
    x, y = rng.normal(size=(120, 4)), 2 * (np.arange(120) % 3) + 1  # labels 1, 3, 5 of a head of 8 classes
    weight, bias = rng.normal(size=(8, 4)), np.zeros(8)
    samples = Samples().of(x, y)
    value = nc4_ncc_mismatch(samples, head=Head(weight, bias))
    test = ~samples.training()
    train_x, train_y = samples.x[samples.training()], samples.labels[samples.training()]
    means = np.stack([train_x[train_y == label].mean(axis=0) for label in (1, 3, 5)])
    nearest = np.array([1, 3, 5])[np.linalg.norm(samples.x[test][:, None] - means, axis=2).argmin(axis=1)]
    predicted = (samples.x[test] @ weight.T).argmax(axis=1)
    assert {0, 7} & set(predicted.tolist())
    assert value == pytest.approx((predicted != nearest).mean())
    assert value.se > 0

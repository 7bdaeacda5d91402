"""Accuracy of a head against a loop, its standard error against the binomial, and the threshold for chance."""

from __future__ import annotations

import numpy as np
import pytest

from repanalysis.heads.scoring import above_chance, accuracy_of


def test_accuracy_is_the_share_of_rows_with_the_largest_score_at_their_class(rng: np.random.Generator) -> None:
    weights, x, y = rng.normal(size=(4, 6)), rng.normal(size=(200, 6)), rng.integers(4, size=200)
    hits = sum(max(range(4), key=lambda k: float(weights[k] @ row)) == label for row, label in zip(x, y, strict=True))
    share, error = accuracy_of(weights, x, y)
    assert share == hits / 200
    assert error == pytest.approx((share * (1 - share) / 200) ** 0.5, rel=0.05)


def test_the_standard_error_is_never_0() -> None:
    share, error = accuracy_of(np.eye(2), np.eye(2), np.arange(2))
    assert share == 1
    assert error > 0


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_above_chance_means_more_than_two_standard_errors(classes: int) -> None:
    bar = 1 / classes + 2 * 0.01
    assert not above_chance(bar, 0.01, classes)
    assert above_chance(np.nextafter(bar, 1), 0.01, classes)

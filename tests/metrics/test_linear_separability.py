"""linear_separability: separable classes give 1, mixed ones the accuracy of the best line, few samples a warning."""

from __future__ import annotations

import numpy as np

from repanalysis.metrics.linear_separability import linear_separability
from repanalysis.statistics import Samples


def test_classes_with_any_gap_are_separable(rng: np.random.Generator) -> None:
    x = rng.normal(size=(2000, 8))
    y = (x @ rng.normal(size=8) > 0).astype(int)
    value = linear_separability(Samples().of(x, y))
    assert value == 1.0
    assert value.note == ""


def test_one_flipped_label_is_not_separable(rng: np.random.Generator) -> None:
    x = np.linspace(-1, 1, 401)[:, None]
    y = (x[:, 0] > 0).astype(int)
    y[50] = 1
    assert 398 / 401 <= linear_separability(Samples().of(x, y)) <= 400 / 401  # cross-entropy does not count errors


def test_a_ring_around_a_disc_is_not_separable(rng: np.random.Generator) -> None:
    angle, y = rng.uniform(0, 2 * np.pi, 1000), np.arange(1000) % 2
    x = (1 + y)[:, None] * np.c_[np.cos(angle), np.sin(angle)]
    assert linear_separability(Samples().of(x, y)) < 0.7


def test_few_samples_in_many_dimensions_are_always_separable(rng: np.random.Generator) -> None:
    value = linear_separability(Samples().of(rng.normal(size=(40, 100)), rng.integers(0, 3, 40)))
    assert value == 1.0
    assert "always separable" in value.note
    assert np.isnan(value.se)
    assert linear_separability(Samples().of(np.arange(40.0)[:, None], np.arange(40) // 20)).se > 0.01

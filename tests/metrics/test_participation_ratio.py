"""participation_ratio: equal and unequal directions, plain eigenvalues, the known shrinkage of few samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics.participation_ratio import participation_ratio
from repanalysis.statistics import ClassMoments

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_agrees_with_the_plain_formula(classes: Classes) -> None:
    x, y = classes(300, 6, 4)
    values = participation_ratio(ClassMoments().of(x, y))
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    assert values[""] == pytest.approx(eigenvalues.sum() ** 2 / np.square(eigenvalues).sum(), rel=1e-10)
    assert values["relative"] == pytest.approx(values[""] / 6, rel=1e-12)
    within = sum(np.cov(x[y == c].T, bias=True) for c in range(4)) / 4
    assert values["within"] == pytest.approx(np.trace(within) ** 2 / np.trace(within @ within), rel=1e-10)


def test_unequal_variances_lower_it() -> None:
    x = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert participation_ratio(ClassMoments().of(x, np.zeros(4, int)))[""] == pytest.approx((9 + 1) ** 2 / (81 + 1), rel=1e-12)


def test_few_samples_fill_fewer_directions(rng: np.random.Generator) -> None:
    n, d = 400, 200
    value = participation_ratio(ClassMoments().of(rng.normal(size=(n, d)), np.zeros(n, int)))[""]
    assert value == pytest.approx(d / (1 + d / n), rel=0.02)

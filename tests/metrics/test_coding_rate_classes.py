"""coding_rate_classes: canonical values, the definition as oracle, and its place below coding_rate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics import get
from tests.metrics.rates import CANONICAL, plain, subspaces

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def rate(name: str, x: np.ndarray, y: np.ndarray, **parameters: object) -> float:
    metric = get(name, **parameters)
    return float(next(iter(metric(metric.needs.of(x, y)).values())))


@pytest.mark.parametrize("case", CANONICAL)
@pytest.mark.parametrize("normalization", ["frobenius", "sphere"])
def test_canonical_values(case: str, normalization: str) -> None:
    (dims, copies, d, eps_sq), (_, expected, _) = CANONICAL[case]
    x, y = subspaces(dims, copies, d)
    assert rate("coding_rate_classes", x, y, eps_sq=eps_sq, normalization=normalization) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("normalization", ["frobenius", "sphere"])
@pytest.mark.parametrize(("n", "d"), [(200, 7), (30, 60)])
def test_agrees_with_the_definition_on_the_n_side(classes: Classes, normalization: str, n: int, d: int) -> None:
    x, y = classes(n, d, 4)
    value = rate("coding_rate_classes", x, y, eps_sq=0.3, normalization=normalization)
    assert value == pytest.approx(plain(x, y, 0.3, normalization)[1], rel=1e-10)


def test_of_one_class_is_the_coding_rate(classes: Classes) -> None:
    x, _ = classes(100, 5, 3)
    y = np.zeros(100, np.int64)
    assert rate("coding_rate_classes", x, y) == pytest.approx(rate("coding_rate", x, y), rel=1e-14)


def test_merging_classes_never_lowers_it(classes: Classes) -> None:
    x, y = classes(300, 5, 4)
    assert rate("coding_rate_classes", x, y // 2, normalization="sphere") >= rate(
        "coding_rate_classes", x, y, normalization="sphere"
    )

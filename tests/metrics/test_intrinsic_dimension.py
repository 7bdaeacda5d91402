"""intrinsic_dimension: balls of known dimension, embedding, scikit-dimension where it is installed, duplicates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from repanalysis.metrics.intrinsic_dimension import intrinsic_dimension
from repanalysis.statistics import Samples


def ball(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Uniform in the unit ball of d dimensions."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True) * rng.uniform(size=(n, 1)) ** (1 / d)


def dimension(x: np.ndarray, **options: object) -> float:
    return intrinsic_dimension(Samples(limit=0).of(x, np.zeros(len(x), int)), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["twonn", "mle"])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_the_dimension_of_a_ball_is_invariant_to_embedding(method: str, d: int, rng: np.random.Generator) -> None:
    embedded = ball(4000, d) @ np.linalg.qr(rng.normal(size=(30, d)))[0].T + 100.0
    value = dimension(embedded, method=method)
    assert value == pytest.approx(d, rel=0.08)  # both are biased by the border, more so in higher d
    assert value == pytest.approx(dimension(ball(4000, d), method=method), rel=1e-6)


def test_twonn_is_the_line_through_plain_distance_ratios() -> None:
    x = ball(300, 3)
    table = np.sqrt(np.square(x[:, None] - x[None]).sum(axis=2)) + np.diag(np.full(300, np.inf))
    first, second = np.sort(table, axis=1)[:, :2].T
    ratios = np.sort(second / first)[:270]
    heights = -np.log(1 - np.arange(1, 271) / 300)
    assert dimension(x) == pytest.approx(float(np.linalg.lstsq(np.log(ratios)[:, None], heights, rcond=None)[0][0]), rel=1e-10)


def test_mle_is_the_plain_formula() -> None:
    x = ball(300, 3)
    table = np.sqrt(np.square(x[:, None] - x[None]).sum(axis=2)) + np.diag(np.full(300, np.inf))
    nearest = np.sort(table, axis=1)[:, :10]
    inverse = np.log(nearest[:, -1:] / nearest[:, :-1]).mean(axis=1)
    assert dimension(x, method="mle", k=10) == pytest.approx(1 / inverse.mean(), rel=1e-10)


def test_agrees_with_scikit_dimension() -> None:
    skdim = pytest.importorskip("skdim")
    x = ball(1000, 4)
    assert dimension(x) == pytest.approx(skdim.id.TwoNN().fit(x).dimension_, rel=1e-6)


def test_duplicates_are_left_out_and_counted() -> None:
    x = ball(1000, 2)
    doubled = np.concatenate([x, x[:100]])
    value = intrinsic_dimension(Samples(limit=0).of(doubled, np.zeros(1100, int)))
    assert value == pytest.approx(dimension(x), rel=1e-12)
    assert value.note == "100 duplicates are left out"


def test_the_standard_error_is_the_standard_deviation_over_data_sets() -> None:
    values = [intrinsic_dimension(Samples().of(ball(500, 3, seed), np.zeros(500, int))) for seed in range(60)]
    assert np.mean([value.se for value in values]) == pytest.approx(np.std(values, ddof=1), rel=0.4)


def test_equal_samples_and_lattices_are_undefined() -> None:
    assert math.isnan(dimension(np.ones((50, 3))))
    lattice = dimension(np.arange(100.0)[:, None] + np.zeros((1, 2)))
    assert math.isnan(lattice) or lattice > 0


@pytest.mark.parametrize(("n", "defined"), [(4, False), (5, True)])
def test_twonn_needs_five_different_samples(n: int, defined: bool, rng: np.random.Generator) -> None:
    value = intrinsic_dimension(Samples().of(np.concatenate([x := rng.normal(size=(n, 3)), x]), np.zeros(2 * n, int)))
    assert math.isfinite(value) == defined
    assert defined or value.note == "4 different samples are too few"


@pytest.mark.parametrize(("n", "defined"), [(6, False), (7, True)])
def test_the_likelihood_needs_k_other_samples(n: int, defined: bool, rng: np.random.Generator) -> None:
    value = intrinsic_dimension(Samples().of(rng.normal(size=(n, 3)), np.zeros(n, int)), method="mle", k=6)
    assert math.isfinite(value) == defined

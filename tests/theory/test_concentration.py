"""Concentration: contraction on any data, closed forms and tables of the specification, the bound, and its limits."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from repanalysis.metrics.within_class_variance import within_class_variance
from repanalysis.statistics import ClassMoments
from repanalysis.theory.concentration import (
    concentrated,
    concentrated_fisher,
    concentration_by_dimension,
    concentration_by_sparsity,
    concentration_by_threshold,
    soft_threshold,
    spread_bound,
    threshold_moments,
    universal_threshold,
)
from repanalysis.theory.frames import random_tight_frame


def test_threshold_0_is_the_identity_and_a_large_threshold_gives_0(rng: np.random.Generator) -> None:
    x, frame = rng.normal(size=(20, 4)), random_tight_frame(10, 4)
    np.testing.assert_allclose(concentrated(x, frame, 0.0), x, atol=1e-12)
    assert not concentrated(x, frame, float(np.abs(x @ frame.T).max())).any()


@pytest.mark.parametrize("threshold", [0.1, 1.0, 3.0])
def test_within_class_variance_never_increases(threshold: float, rng: np.random.Generator) -> None:
    y = np.arange(200) % 5
    x = rng.standard_t(2, size=(200, 6)) + rng.normal(size=(5, 6))[y]
    frame = random_tight_frame(15, 6)
    after = concentrated(x, frame, threshold)
    spreads = [ClassMoments().of(z, y).variances() for z in (x, after)]
    assert (spreads[1] <= spreads[0] * (1 + 1e-12)).all()
    distances = [np.linalg.norm(z[:100] - z[100:], axis=1) for z in (x, after)]
    assert (distances[1] <= distances[0] * (1 + 1e-12)).all()
    displacement = np.linalg.norm(after - x, axis=1)
    assert (displacement <= np.sqrt(np.square(np.minimum(np.abs(x @ frame.T), threshold)).sum(axis=1)) + 1e-12).all()  # C3


def test_second_moments_of_the_specification() -> None:
    expected = {0.5: 0.41928, 1.0: 0.15068, 1.5: 0.045694, 2.0: 0.011537, 3.0: 0.00040687}
    for threshold, value in expected.items():
        assert threshold_moments(0.0, threshold)[1] == pytest.approx(value, rel=5e-5)


@pytest.mark.parametrize(
    ("mean", "threshold", "deviation"), [(0.0, 1.0, 1.0), (2.0, 1.5, 1.0), (-1.0, 0.3, 2.5), (4.0, 1.0, 0.2)]
)
def test_moments_agree_with_numerical_integrals(mean: float, threshold: float, deviation: float) -> None:
    def integral(power: int) -> float:
        integrated = quad(
            lambda u: float(soft_threshold(np.array(u), threshold)) ** power * norm.pdf(u, mean, deviation),
            mean - 12 * deviation, mean + 12 * deviation, points=[-threshold, threshold], limit=500,
        )  # fmt: skip
        return float(integrated[0])

    first, variance = threshold_moments(mean, threshold, deviation)
    assert first == pytest.approx(integral(1), abs=1e-8)
    assert variance == pytest.approx(integral(2) - integral(1) ** 2, abs=1e-8)


@pytest.mark.parametrize(
    ("classes", "mean", "table"),
    [
        (10, 5.0, [(22.5, 10), (61.12, 2.356), (73.57, 1.101), (37.67, 0.964)]),
        (100, 5.0, [(24.75, 100), (99.52, 15.92), (416.5, 2.140), (399.2, 1.000)]),
        (2, 3.0, [(4.5, 2), (3.63, 1.111), (1.54, 0.763), (0.47, 0.341)]),  # not sparse: the Fisher ratio falls
    ],
)
def test_predictions_agree_with_the_reference_tables(classes: int, mean: float, table: list[tuple[float, float]]) -> None:
    for threshold, expected in enumerate(table):
        assert concentrated_fisher(classes, mean, threshold) == pytest.approx(expected, rel=2e-3, abs=5e-3)  # as printed


def test_measurements_agree_with_predictions() -> None:
    table = concentration_by_threshold(np.array([0.0, 1.0, 2.0]), n=200_000)
    np.testing.assert_allclose(table["measured"], table["predicted"], rtol=0.02)
    np.testing.assert_allclose(table["measured_variance"], table["predicted_variance"], rtol=0.02)


def test_the_bound_holds_in_one_coordinate_and_is_tight() -> None:
    """E (rho_t(m + z) - m)^2 <= (2 log p + 1) (1 / p + min(m^2, 1)) at t = sqrt(2 log p), over m and p."""
    worst = 0.0
    for p in (2, 4, 16, 256, 4096, 10**6):
        means = np.linspace(0, 12, 1201)
        first, variance = threshold_moments(means, universal_threshold(1.0, p))
        risk = variance + np.square(first - means)
        bound = (2 * np.log(p) + 1) * (1 / p + np.minimum(np.square(means), 1))
        assert (risk <= bound).all()
        worst = max(worst, float((risk / bound).max()))
    assert worst > 0.99


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_holds_in_redundant_frames(seed: int) -> None:
    rng = np.random.default_rng(seed)
    d, p, deviation = 32, 128, 0.7
    frame = random_tight_frame(p, d, seed=seed)
    mean = 5 * frame[0] / np.linalg.norm(frame[0])
    x = mean + deviation * rng.normal(size=(4000, d))
    s_p = deviation * np.sqrt(d / p)
    after = concentrated(x, frame, universal_threshold(s_p, p))
    assert np.square(after - mean).sum(axis=1).mean() <= spread_bound(frame @ mean, s_p)


def test_experiments_stay_below_their_bounds() -> None:
    for table in (concentration_by_sparsity(np.array([1, 4]), d=64), concentration_by_dimension(np.array([16, 64]))):
        assert (table["measured"] <= table["predicted"]).all()
        assert (table["measured"] > table["predicted"] / 4).all()


def test_the_metric_measures_the_contraction(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(100, 3)), np.arange(100) % 2
    before, after = (within_class_variance(ClassMoments().of(z, y))[""] for z in (x, soft_threshold(x, 0.5)))
    assert after < before

"""Separation: exact identities, P1 on any data, P2 by Monte Carlo, and a control at chance level."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.linalg import eigh
from scipy.stats import norm

from repanalysis.metrics.class_mean_separation import class_mean_separation
from repanalysis.metrics.fisher_ratio import fisher_ratio
from repanalysis.statistics import ClassMoments
from repanalysis.theory.frames import random_tight_frame
from repanalysis.theory.mixtures import Mixture, sparse_mixture
from repanalysis.theory.separation import (
    fisher_by_redundancy,
    mean_absolute,
    mean_separation,
    rectified,
    rectified_fisher,
    separation_by_contrast,
    separation_by_redundancy,
)


def roots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Generalised eigenvalues of (Sigma_B, Sigma_W) on the range of Sigma_W, descending."""
    moments = ClassMoments().of(x, y)
    values, vectors = eigh(moments.within())
    basis = vectors[:, values > 1e-10 * values[-1]] / np.sqrt(values[values > 1e-10 * values[-1]])
    means = moments.centred_means() @ basis
    return np.sort(eigh(means.T @ means / moments.k, eigvals_only=True))[::-1]


@pytest.mark.parametrize("seed", range(5))
def test_rectification_lowers_no_generalised_eigenvalue(seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = np.arange(300) % 4
    x = rng.exponential(size=(300, 5)) * rng.random(size=(4, 5))[y] + rng.normal(size=(4, 5))[y]
    after = rectified(x, random_tight_frame(8, 5, seed=seed))
    original_roots, rectified_roots = roots(x, y)[:3], roots(after, y)[:3]
    assert (rectified_roots >= original_roots * (1 - 1e-9)).all()
    traces = [fisher_ratio(ClassMoments().of(features, y))["trace"] for features in (x, after)]
    assert traces == pytest.approx([original_roots.sum(), rectified_roots.sum()], rel=1e-6)
    assert traces[1] >= traces[0]


def test_measured_ratios_of_exponential_classes_exceed_the_bound() -> None:
    table = fisher_by_redundancy(np.array([1, 4]), d=5, n=4000)
    assert (table["measured"] > 1.2 * table["predicted"]).all()


def test_with_a_ridge_the_inequality_holds_at_a_quarter_of_the_ridge(rng: np.random.Generator) -> None:
    """F_eps(x) <= F_{eps / 4}(Phi x), and with the same eps it can fail: here no coefficient changes its sign."""
    x, y = rng.normal(size=(200, 3)) + 20.0, np.arange(200) % 2
    x[:, 0] += y

    def ridged(z: np.ndarray, eps: float) -> float:
        moments = ClassMoments().of(z, y)
        means, within = moments.centred_means(), moments.within()
        return float(np.trace(np.linalg.solve(within + eps * np.eye(len(within)), means.T @ means)) / 2)

    after = rectified(x, np.eye(3))
    for eps in (0.01, 0.1, 1.0):
        assert ridged(x, eps) <= ridged(after, eps / 4) * (1 + 1e-9)
        assert ridged(after, eps) < ridged(x, eps)


def test_class_mean_separation_of_rectified_features_is_an_exact_identity(rng: np.random.Generator) -> None:
    y = np.arange(120) % 3
    x, frame = rng.standard_t(3, size=(120, 4)) + rng.normal(size=(3, 4))[y], random_tight_frame(9, 4)
    value = class_mean_separation(ClassMoments().of(rectified(x, frame), y))[""]
    parts = [class_mean_separation(ClassMoments().of(z, y))[""] for z in (x, np.abs(x @ frame.T))]
    assert value == pytest.approx(sum(parts) / 4, rel=1e-10)


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.3, 0.4), (-2.0, 3.0)])
def test_the_mean_of_the_modulus_agrees_with_the_integral(mean: float, deviation: float) -> None:
    expected = quad(lambda u: abs(u) * norm.pdf(u, mean, deviation), -40, 40, points=[0.0], limit=200)[0]
    assert mean_absolute(np.array(mean), np.array(deviation)) == pytest.approx(expected, rel=1e-8)


def test_closed_forms_of_the_specification() -> None:
    assert rectified_fisher(1.0, 3.0, d=5) == pytest.approx(1.7519, abs=5e-5)
    assert rectified_fisher(0.0, 1.0) == pytest.approx(0.87597, abs=5e-6)
    assert rectified_fisher(2.0, 2.0, d=100) == 0.0


def test_the_fisher_ratio_of_rectified_gaussians_agrees_with_monte_carlo() -> None:
    table = separation_by_contrast(np.array([2.0, 4.0]), d=5, n=400_000, seed=5)
    np.testing.assert_allclose(table["measured"], table["predicted"], rtol=0.01)
    assert (table["before"] < 1e-3).all()


def test_classes_of_equal_covariance_stay_at_chance() -> None:
    """The control: E F = d (K - 1) / (n - K - d - 1) without any difference between classes."""
    n, d = 4000, 6
    x, y = Mixture(np.zeros((3, d)), np.ones((3, d))).sample(n, seed=0)
    value = fisher_ratio(ClassMoments().of(rectified(x, np.eye(d)), y))["trace"]
    assert value < 3 * 2 * d * 2 / (n - 3 - 2 * d - 1)


def test_measured_separation_agrees_with_predictions_in_any_frame() -> None:
    table = separation_by_redundancy(np.array([1, 3]), d=6, n=400_000)
    np.testing.assert_allclose(table["measured"], table["predicted"], rtol=0.02)
    assert (table["predicted"] > 2 * table["before"]).all()
    mixture = sparse_mixture(K=3, d=6, radius=0.0, contrast=3.0)
    assert mean_separation(mixture, np.eye(6)) > 0
    assert mean_separation(mixture._replace(deviations=np.ones((3, 6))), np.eye(6)) == pytest.approx(0.0, abs=1e-15)

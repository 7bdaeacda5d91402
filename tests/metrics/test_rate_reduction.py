"""rate_reduction: canonical values, both its forms, and nonnegativity under cancellation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics import get
from repanalysis.metrics._gaussian_rate import _divergence, rates
from repanalysis.statistics import ClassMoments
from tests.metrics.rates import CANONICAL, plain, subspaces

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def reduction(x: np.ndarray, y: np.ndarray, **parameters: object) -> float:
    metric = get("rate_reduction", **parameters)
    return float(next(iter(metric(metric.needs.of(x, y)).values())))


@pytest.mark.parametrize("case", CANONICAL)
@pytest.mark.parametrize("normalization", ["frobenius", "sphere"])
def test_canonical_values(case: str, normalization: str) -> None:
    (dims, copies, d, eps_sq), (_, _, expected) = CANONICAL[case]
    x, y = subspaces(dims, copies, d)
    assert reduction(x, y, eps_sq=eps_sq, normalization=normalization) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("normalization", ["frobenius", "sphere"])
def test_agrees_with_the_definition(classes: Classes, normalization: str) -> None:
    x, y = classes(200, 7, 4)
    total, parts = plain(x, y, 0.3, normalization)
    assert reduction(x, y, eps_sq=0.3, normalization=normalization) == pytest.approx(total - parts, rel=1e-9)


def test_the_divergences_add_up_to_the_difference_of_rates(classes: Classes) -> None:
    x, y = classes(300, 6, 3)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    seconds = [x[y == c].T @ x[y == c] / (y == c).sum() for c in range(3)]
    shares = np.bincount(y) / 300
    combined = sum(g * second for g, second in zip(shares, seconds, strict=True))
    total = sum(g * _divergence(second, combined, 6 / 0.5) for g, second in zip(shares, seconds, strict=True))
    assert reduction(x, y, normalization="sphere") == pytest.approx(total, rel=1e-10)


def test_classes_z_and_minus_z_and_identical_classes_give_zero(rng: np.random.Generator) -> None:
    z = rng.normal(size=(50, 4))
    y = np.repeat([0, 1], 50)
    for twin in (z, -z):
        value = reduction(np.concatenate([z, twin]), y)
        assert 0 <= value < 1e-28


@pytest.mark.parametrize("gap", [1e-3, 1e-5, 1e-7])
def test_small_values_keep_their_digits(gap: float) -> None:
    """Two classes on one line, second moments 1 +- gap apart in direction: f is quadratic, so the value is ~ gap^2."""
    a, b = np.array([[1.0, 0.0]]), np.array([[math.cos(gap), math.sin(gap)]])
    value = reduction(np.concatenate([a, b]), np.array([0, 1]), eps_sq=0.5)
    # R = 1/2 log((1 + b) + b^2/4 sin^2(gap)), R_c = 1/2 log(1 + b), b = 4.
    assert value == pytest.approx(math.log1p(4.0 * math.sin(gap) ** 2 / 5.0) / 2, rel=1e-6)


def test_random_labels_have_the_documented_bias() -> None:
    rng = np.random.default_rng(2)
    n, d, k, eps_sq = 2100, 7, 3, 0.5
    values = []
    for _ in range(40):
        z = rng.normal(size=(n, d))
        values.append(reduction(z, np.arange(n) % k, eps_sq=eps_sq, normalization="sphere"))
    assert np.mean(values) == pytest.approx(d * (d - 1) * (k - 1) / (4 * n * (1 + eps_sq) ** 2), rel=0.15)


@pytest.mark.parametrize(
    ("n", "d", "k", "decay", "factor"), [(300, 60, 5, 0.0, 1.0), (600, 100, 4, 1.0, 1.0), (75, 60, 5, 0.0, 1.16)]
)
@pytest.mark.parametrize("normalization", ["frobenius", "sphere"])
def test_the_chance_level_is_the_value_under_random_labels(
    n: int, d: int, k: int, decay: float, factor: float, normalization: str
) -> None:
    """For isotropic and decaying spectra, within the documented range and at the documented factor beyond it."""
    rng = np.random.default_rng(6)
    scale, chance, measured = np.arange(1.0, d + 1) ** (-decay / 2), [], []
    for _ in range(10):
        statistic = get("rate_reduction", normalization=normalization).needs
        result = rates(statistic.of(rng.normal(size=(n, d)) * scale, np.arange(n) % k), 0.5, normalization)
        chance.append(result.chance)
        measured.append(result.reduction)
    assert np.mean(chance) == pytest.approx(factor * np.mean(measured), rel=0.1)


def test_pure_noise_is_noted_as_bias() -> None:
    """Regression: n = 75, d = 60, K = 5 gave 12.15 with an empty note."""
    rng = np.random.default_rng(0)
    for name in ("rate_reduction", "rate_reduction_normalized"):
        for value in get(name)(ClassMoments().of(rng.normal(size=(75, 60)), np.arange(75) % 5)).values():
            assert value.note == "about all of it is bias at n = 75; the null shows how much (null=20, --null 20)"
    planes = np.kron(np.eye(2), rng.normal(size=(1000, 3)))
    assert next(iter(get("rate_reduction")(ClassMoments().of(planes, np.repeat([0, 1], 1000))).values())).note == ""


def test_refining_labels_never_lowers_it(classes: Classes) -> None:
    x, y = classes(400, 5, 8)
    coarse = [reduction(x, y // parts, normalization="sphere") for parts in (8, 4, 2, 1) if len(np.unique(y // parts)) > 1]
    assert coarse == sorted(coarse)


def test_the_upper_bound_holds(classes: Classes) -> None:
    d = 6
    for eps_sq in (1e-3, 0.1, 1.0):
        bound = d / 2 * math.log1p(1 / eps_sq) - math.log1p(d / eps_sq) / 2
        assert reduction(*classes(300, d, 4), eps_sq=eps_sq) <= bound


def test_cached_rates_are_not_used_for_an_updated_state(classes: Classes) -> None:
    """A state updated in place keeps its array object, so a rate cached for that array must not be returned again."""
    x, y = classes(300, 5, 4)
    statistic = ClassMoments()
    state = statistic.update(statistic.init(5, range(4)), x[:100], y[:100], np.arange(100))
    early = rates(state, 0.5, "frobenius")
    state = statistic.update(state, x[100:], y[100:], np.arange(100, 300))
    assert rates(state, 0.5, "frobenius") != early
    assert rates(state, 0.5, "frobenius").whole == pytest.approx(rates(statistic.of(x, y), 0.5, "frobenius").whole, rel=1e-12)


@pytest.mark.parametrize("shift", [1e-3, 1e-5, 1e-6])
def test_a_reduction_far_below_the_rate_keeps_its_digits(shift: float) -> None:
    """Second moments diag(1/2 + s, 1/2 - s) and diag(1/2 - s, 1/2 + s): Delta R = -1/2 log(1 - (b s)^2 / (1 + b/2)^2)."""
    lengths = np.sqrt(2 * np.array([0.5 + shift, 0.5 - shift]))
    x = np.concatenate([np.diag(lengths), -np.diag(lengths), np.diag(lengths[::-1]), -np.diag(lengths[::-1])])
    expected = -0.5 * math.log1p(-((4 * shift / 3) ** 2))
    assert reduction(x, np.repeat([0, 1], 4), eps_sq=0.5) == pytest.approx(expected, rel=1e-7)


def test_one_class_has_no_reduction(rng: np.random.Generator) -> None:
    state = ClassMoments().of(rng.normal(size=(50, 3)), np.zeros(50, int))
    values = rates(state, 0.5, "frobenius")
    assert values.reduction == 0.0
    assert values.classes == pytest.approx(values.whole, rel=1e-12)

"""ridge_r2: closed forms, laws, scikit-learn's ridge on the same halves, and the error against repeated draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

from repanalysis.metrics.ridge_r2 import ridge_r2
from repanalysis.statistics import SampleSet, TargetSamples
from repanalysis.statistics.draws import JACKKNIFE_SEED, hashed

PENALTIES = 10.0 ** np.arange(-9, 2)


def linear(n: int, d: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of unequal variance, and targets of signal variance 1 plus noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * np.linspace(0.5, 2.0, d)
    w = rng.normal(size=d)
    signal = x @ w / np.sqrt(np.square(w * np.linspace(0.5, 2.0, d)).sum())
    return x, signal + noise * rng.normal(size=n)


def samples_of(x: np.ndarray, y: np.ndarray, limit: int = 0) -> SampleSet:
    samples: SampleSet = TargetSamples(limit=limit).of(x, y)
    return samples


def value(x: np.ndarray, y: np.ndarray, variant: str = "") -> float:
    return float(ridge_r2(samples_of(x, y))[variant])


def test_a_linear_target_has_r2_of_1() -> None:
    x, y = linear(400, 12, 0.0)
    values = ridge_r2(samples_of(x, 1e3 + 5 * y))
    assert values[""] == pytest.approx(1.0, abs=1e-9)
    assert values["train"] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
def test_noise_lowers_r2_by_its_share(noise: float) -> None:
    """R^2 = 1 / (1 + s^2), less about d / m of the noise share from fitting on m = n / 2 samples."""
    n, d = 6_000, 6
    value = ridge_r2(samples_of(*linear(n, d, noise)))[""]
    expected = 1 / (1 + noise**2) - d / (n / 2) * noise**2 / (1 + noise**2)
    assert abs(value - expected) < 3.5 * value.se
    assert value.se < 0.03


def test_independent_targets_have_r2_of_about_0(rng: np.random.Generator) -> None:
    values = [value(rng.normal(size=(300, 40)), rng.normal(size=300)) for _ in range(40)]
    assert max(values) < 0.1
    assert -0.2 < np.mean(values) <= 0.0, "a large penalty is chosen, so that little is lost"


@pytest.mark.parametrize(("n", "d"), [(300, 8), (80, 200)])
def test_rotations_shifts_and_scalings_change_nothing(n: int, d: int, rng: np.random.Generator) -> None:
    x, y = linear(n, d, 0.5)
    expected = ridge_r2(samples_of(x, y))
    rotated = 3.7 * x @ ortho_group(d, seed=1).rvs() + rng.normal(size=d)
    for features, targets in ((rotated, y), (x, -40.0 + 0.01 * y), (np.c_[x, np.zeros((n, 5))], y)):
        values = ridge_r2(samples_of(features, targets))
        for variant in ("", "train"):
            assert values[variant] == pytest.approx(expected[variant], rel=1e-8)
        assert values[""].se == pytest.approx(expected[""].se, rel=1e-6)


def best_alpha(x: np.ndarray, y: np.ndarray) -> float:
    """The penalty of the smallest leave-one-out error, one sample after the other."""
    trace, m = np.square(x - x.mean(axis=0)).sum(), len(x)
    errors = []
    for share in PENALTIES:
        residuals = []
        for i in range(m):
            others = np.arange(m) != i
            residuals.append(y[i] - Ridge(alpha=share * trace).fit(x[others], y[others]).predict(x[i : i + 1])[0])
        errors.append(np.square(residuals).mean())
    return float(PENALTIES[int(np.argmin(errors))] * trace)


@pytest.mark.parametrize(("n", "d", "noise"), [(120, 5, 0.5), (90, 60, 1.0), (60, 100, 0.2)])
def test_agrees_with_scikit_learns_ridge_with_leave_one_out(n: int, d: int, noise: float) -> None:
    samples = samples_of(*linear(n, d, noise))
    training, y = samples.training(), samples.labels[:, 0]
    alpha = best_alpha(samples.x[training], y[training])
    fitted = Ridge(alpha=alpha).fit(samples.x[training], y[training])
    values = ridge_r2(samples)
    assert values[""] == pytest.approx(r2_score(y[~training], fitted.predict(samples.x[~training])), rel=1e-9)
    assert values["train"] == pytest.approx(r2_score(y[training], fitted.predict(samples.x[training])), rel=1e-9)
    # The standard error by definition: the delta method on scored samples, and the jackknife of the fit less the scoring noise.
    asked = y[~training]
    total, squares = asked.var(), np.square(asked - fitted.predict(samples.x[~training]))
    shares = ((1 - values[""]) * np.square(asked - asked.mean()) - squares) / total
    group = hashed(samples.ids, JACKKNIFE_SEED) % np.uint64(10)
    changes = []
    for left_out in np.unique(group[training]):
        others = training & (group != left_out)
        refitted = Ridge(alpha=alpha).fit(samples.x[others], y[others]).predict(samples.x[~training])
        changes.append((squares - np.square(asked - refitted)) / total)
    e = np.array(changes) - np.mean(changes, axis=0)
    fit_variance = (np.square(e.mean(axis=1)) - e.var(axis=1, ddof=1) / len(asked)).sum() * (len(e) - 1) / len(e)
    assert values[""].se == pytest.approx(math.sqrt(shares.var(ddof=1) / len(asked) + max(0.0, fit_variance)), rel=1e-7)


def test_each_of_several_targets_is_regressed_separately() -> None:
    x, y = linear(400, 6, 0.5)
    rng = np.random.default_rng(1)
    targets = np.c_[y, rng.normal(size=400), x[:, 0]]
    targets[:50, 1] = np.nan
    values = ridge_r2(samples_of(x, targets), names=("signal", "noise", "train"))
    assert list(values) == ["", "train", "signal", "noise", "target train"]
    assert values["signal"] == value(x, y)
    assert values["noise"] == pytest.approx(value(x[50:], targets[50:, 1]), abs=0.1), "the halves go by the ids: not the same"
    subset = TargetSamples(limit=0).of(x[50:], targets[50:, 1], np.arange(50, 400))
    assert values["noise"] == pytest.approx(float(ridge_r2(subset)[""]), rel=1e-9)
    assert values[""] == pytest.approx(np.mean([values[name] for name in ("signal", "noise", "target train")]), rel=1e-12)
    assert list(ridge_r2(samples_of(x, targets))) == ["", "train", "0", "1", "2"]


def test_undefined_values_have_a_reason() -> None:
    x, y = linear(100, 3, 0.5)
    cases = {
        "the target is constant": (x, np.full(100, 1e8)),
        "every feature is constant": (np.full((100, 3), 0.1), y),
        "samples are too few": (x[:4], y[:4]),
    }
    for reason, (features, targets) in cases.items():
        result = ridge_r2(samples_of(features, targets))[""]
        assert math.isnan(result)
        assert reason in result.note
    result = ridge_r2(samples_of(x, np.c_[y, np.ones(100)]), names=("a", "b"))
    assert math.isnan(result[""])
    assert result[""].note == "b: the target is constant"
    assert math.isfinite(result["a"])


def test_the_confidence_interval_covers_the_expected_value() -> None:
    """Value +- 1.96 se contains the mean over draws in about 95 % of 200 draws; between 90 and 98 % pass."""
    draws = [ridge_r2(samples_of(*linear(200, 10, 1.0, seed)))[""] for seed in range(200)]
    # each draw has its own weights; the expected value is the same for all
    centre = np.mean([float(draw) for draw in draws])
    covered = np.mean([abs(draw - centre) < 1.96 * draw.se for draw in draws])
    assert 0.88 <= covered <= 0.99

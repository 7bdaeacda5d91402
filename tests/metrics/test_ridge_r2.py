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
    found: SampleSet = TargetSamples(limit=limit).of(x, y)
    return found


def value(x: np.ndarray, y: np.ndarray, variant: str = "") -> float:
    return float(ridge_r2(samples_of(x, y))[variant])


def test_a_linear_target_is_explained_wholly() -> None:
    x, y = linear(400, 12, 0.0)
    found = ridge_r2(samples_of(x, 1e3 + 5 * y))
    assert found[""] == pytest.approx(1.0, abs=1e-9)
    assert found["train"] == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("noise", [0.3, 1.0, 2.0])
def test_noise_leaves_its_share(noise: float) -> None:
    """R^2 = 1 / (1 + s^2), less about d / m of the noise's share, which m = n / 2 samples cost."""
    n, d = 6_000, 6
    found = ridge_r2(samples_of(*linear(n, d, noise)))[""]
    expected = 1 / (1 + noise**2) - d / (n / 2) * noise**2 / (1 + noise**2)
    assert abs(found - expected) < 3.5 * found.se
    assert found.se < 0.03


def test_targets_that_have_nothing_to_do_with_the_features_are_not_explained(rng: np.random.Generator) -> None:
    values = [value(rng.normal(size=(300, 40)), rng.normal(size=300)) for _ in range(40)]
    assert max(values) < 0.1
    assert -0.2 < np.mean(values) <= 0.0, "a large penalty is chosen, so that little is lost"


@pytest.mark.parametrize(("n", "d"), [(300, 8), (80, 200)])
def test_turning_shifting_and_scaling_change_nothing(n: int, d: int, rng: np.random.Generator) -> None:
    x, y = linear(n, d, 0.5)
    expected = ridge_r2(samples_of(x, y))
    turned = 3.7 * x @ ortho_group(d, seed=1).rvs() + rng.normal(size=d)
    for features, targets in ((turned, y), (x, -40.0 + 0.01 * y), (np.c_[x, np.zeros((n, 5))], y)):
        found = ridge_r2(samples_of(features, targets))
        for variant in ("", "train"):
            assert found[variant] == pytest.approx(expected[variant], rel=1e-8)
        assert found[""].se == pytest.approx(expected[""].se, rel=1e-6)


def best_alpha(x: np.ndarray, y: np.ndarray) -> float:
    """The penalty of the smallest leave-one-out error, one sample after the other."""
    trace, m = np.square(x - x.mean(axis=0)).sum(), len(x)
    errors = []
    for share in PENALTIES:
        residuals = []
        for i in range(m):
            rest = np.arange(m) != i
            residuals.append(y[i] - Ridge(alpha=share * trace).fit(x[rest], y[rest]).predict(x[i : i + 1])[0])
        errors.append(np.square(residuals).mean())
    return float(PENALTIES[int(np.argmin(errors))] * trace)


@pytest.mark.parametrize(("n", "d", "noise"), [(120, 5, 0.5), (90, 60, 1.0), (60, 100, 0.2)])
def test_is_scikit_learns_ridge_with_leave_one_out(n: int, d: int, noise: float) -> None:
    samples = samples_of(*linear(n, d, noise))
    chosen, y = samples.training(), samples.labels[:, 0]
    alpha = best_alpha(samples.x[chosen], y[chosen])
    fitted = Ridge(alpha=alpha).fit(samples.x[chosen], y[chosen])
    found = ridge_r2(samples)
    assert found[""] == pytest.approx(r2_score(y[~chosen], fitted.predict(samples.x[~chosen])), rel=1e-9)
    assert found["train"] == pytest.approx(r2_score(y[chosen], fitted.predict(samples.x[chosen])), rel=1e-9)
    # The error, word for word: the delta method on scored samples, and the jackknife of the fit less what scoring adds to it.
    asked = y[~chosen]
    total, squares = asked.var(), np.square(asked - fitted.predict(samples.x[~chosen]))
    shares = ((1 - found[""]) * np.square(asked - asked.mean()) - squares) / total
    group = hashed(samples.ids, JACKKNIFE_SEED) % np.uint64(10)
    changes = []
    for each in np.unique(group[chosen]):
        rest = chosen & (group != each)
        again = Ridge(alpha=alpha).fit(samples.x[rest], y[rest]).predict(samples.x[~chosen])
        changes.append((squares - np.square(asked - again)) / total)
    e = np.array(changes) - np.mean(changes, axis=0)
    spread = (np.square(e.mean(axis=1)) - e.var(axis=1, ddof=1) / len(asked)).sum() * (len(e) - 1) / len(e)
    assert found[""].se == pytest.approx(math.sqrt(shares.var(ddof=1) / len(asked) + max(0.0, spread)), rel=1e-7)


def test_several_targets_are_read_out_one_by_one() -> None:
    x, y = linear(400, 6, 0.5)
    rng = np.random.default_rng(1)
    targets = np.c_[y, rng.normal(size=400), x[:, 0]]
    targets[:50, 1] = np.nan
    found = ridge_r2(samples_of(x, targets), names=("signal", "noise", "train"))
    assert list(found) == ["", "train", "signal", "noise", "target train"]
    assert found["signal"] == value(x, y)
    assert found["noise"] == pytest.approx(value(x[50:], targets[50:, 1]), abs=0.1), "the halves go by the ids: not the same"
    kept = TargetSamples(limit=0).of(x[50:], targets[50:, 1], np.arange(50, 400))
    assert found["noise"] == pytest.approx(float(ridge_r2(kept)[""]), rel=1e-9)
    assert found[""] == pytest.approx(np.mean([found[name] for name in ("signal", "noise", "target train")]), rel=1e-12)
    assert list(ridge_r2(samples_of(x, targets))) == ["", "train", "0", "1", "2"]


def test_what_is_undefined_says_why() -> None:
    x, y = linear(100, 3, 0.5)
    cases = {
        "the target is constant": (x, np.full(100, 1e8)),
        "every feature is constant": (np.full((100, 3), 0.1), y),
        "samples are too few": (x[:4], y[:4]),
    }
    for reason, (features, targets) in cases.items():
        found = ridge_r2(samples_of(features, targets))[""]
        assert math.isnan(found)
        assert reason in found.note
    found = ridge_r2(samples_of(x, np.c_[y, np.ones(100)]), names=("a", "b"))
    assert math.isnan(found[""])
    assert found[""].note == "b: the target is constant"
    assert math.isfinite(found["a"])


def test_the_error_covers() -> None:
    """Value +- 1.96 se holds the mean over draws in about 95 % of them: as many as 200 draws tell, between 90 and 98 %."""
    draws = [ridge_r2(samples_of(*linear(200, 10, 1.0, seed)))[""] for seed in range(200)]
    # each draw has weights of its own, under which the expected value is the same
    centre = np.mean([float(draw) for draw in draws])
    covered = np.mean([abs(draw - centre) < 1.96 * draw.se for draw in draws])
    assert 0.88 <= covered <= 0.99

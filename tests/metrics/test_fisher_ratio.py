"""fisher_ratio: closed forms, invariances, two oracles, and singular covariances."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from probes import UsageError
from repanalysis import metrics
from repanalysis.metrics.fisher_ratio import fisher_ratio
from repanalysis.statistics import ClassMoments

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def ratio(x: np.ndarray, y: np.ndarray, **options: str) -> dict[str, float]:
    return fisher_ratio(ClassMoments().of(x, y), **options)  # type: ignore[arg-type]


def ratio_of(moments: ClassMoments, **options: object) -> Any:
    return fisher_ratio(moments, **options)  # type: ignore[arg-type]


def isotropic(means: np.ndarray, s: float, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Classes whose sample covariance is exactly s^2 I: every class is a rotated copy of +- s sqrt(d) e_j."""
    k, d = means.shape
    star = np.concatenate([np.eye(d), -np.eye(d)]) * s * math.sqrt(d)
    x = np.concatenate([mean + np.tile(star @ np.linalg.qr(rng.normal(size=(d, d)))[0], (n, 1)) for mean in means])
    return x, np.repeat(np.arange(k), 2 * d * n)


def test_isotropic_classes_have_the_closed_form(rng: np.random.Generator) -> None:
    means = rng.normal(size=(5, 7))
    x, y = isotropic(means, 0.3, 2, rng)
    between = np.square(means - means.mean(axis=0)).sum() / 5
    values = ratio(x, y)
    assert values[""] == pytest.approx(between / (5 * 0.3**2), rel=1e-12)
    assert values["trace"] == pytest.approx(between / 0.3**2, rel=1e-12)
    assert values["pinv"] == values[""]


def test_two_balanced_classes_give_a_quarter_of_the_mahalanobis_distance(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 5)), np.arange(400) % 2
    x[y == 1] += rng.normal(size=5)
    within = (np.cov(x[y == 0].T, bias=True) + np.cov(x[y == 1].T, bias=True)) / 2
    difference = x[y == 1].mean(axis=0) - x[y == 0].mean(axis=0)
    assert ratio(x, y)["trace"] == pytest.approx(difference @ np.linalg.solve(within, difference) / 4, rel=1e-10)


@pytest.mark.parametrize("class_weight", ["balanced", "empirical"])
def test_is_the_sum_of_generalised_eigenvalues(classes: Classes, class_weight: str) -> None:
    x, y = classes(500, 8, 5)
    labels, count = np.unique(y, return_counts=True)
    weights = np.full(5, 0.2) if class_weight == "balanced" else count / 500
    means = np.array([x[y == label].mean(axis=0) for label in labels])
    within = sum(w * np.cov(x[y == label].T, bias=True) for w, label in zip(weights, labels, strict=True))
    centred = means - weights @ means
    between = centred.T @ (centred * weights[:, None])
    assert ratio(x, y, class_weight=class_weight)["trace"] == pytest.approx(
        eigh(between, within, eigvals_only=True).sum(), rel=1e-9
    )


def test_agrees_with_scikit_learn(classes: Classes) -> None:
    """LDA's discriminants are uncorrelated within classes: F_tr is the sum of their variance ratios."""
    x, y = classes(600, 6, 4)
    z = LinearDiscriminantAnalysis(solver="svd").fit(x, y).transform(x)
    means = np.array([z[y == c].mean(axis=0) for c in range(4)])
    between = np.bincount(y) / 600 @ np.square(means - z.mean(axis=0))
    within = np.square(z - means[y]).mean(axis=0)
    assert ratio(x, y, class_weight="empirical")["trace"] == pytest.approx((between / within).sum(), rel=1e-9)


@pytest.mark.parametrize("shift", [0.0, 0.6])
def test_the_bias_is_that_of_the_documentation(shift: float) -> None:
    """E[trace] = (d (K-1) + n F) / (n - K - d - 1), within four standard errors over 600 draws."""
    rng = np.random.default_rng(3)
    d, k, n = 6, 4, 200
    means = shift * rng.normal(size=(k, d))
    truth = np.square(means - means.mean(axis=0)).sum() / k
    y = np.arange(n) % k
    draws = [ratio(rng.normal(size=(n, d)) + means[y], y)["trace"] for _ in range(600)]
    expected = (d * (k - 1) + n * truth) / (n - k - d - 1)
    assert np.mean(draws) == pytest.approx(expected, abs=4 * np.std(draws) / math.sqrt(600))


@pytest.mark.parametrize("counts", [(40, 40, 40), (20, 30, 70)])
@pytest.mark.parametrize("class_weight", ["balanced", "empirical"])
def test_debiased_estimate_is_unbiased(counts: tuple[int, int, int], class_weight: str) -> None:
    """Trace, a class and a pair within four standard errors over 400 draws, at n = 120 and d = 30, where half is bias."""
    rng = np.random.default_rng(4)
    y, d = np.repeat([0, 1, 2], counts), 30
    means, shape = 0.4 * rng.normal(size=(3, d)), rng.normal(size=(d, d))
    weights = np.full(3, 1 / 3) if class_weight == "balanced" else np.array(counts) / 120
    centred = means - weights @ means
    truth = [weights @ np.square(centred).sum(axis=1), np.square(centred[0]).sum(), np.square(means[0] - means[2]).sum()]
    draws = []
    for _ in range(400):
        moments = ClassMoments().of((rng.normal(size=(120, d)) + means[y]) @ shape, y)
        options = {"class_weight": class_weight, "debiased": True}
        one_class, one_pair = (fisher_ratio(moments, per=per, **options) for per in ("class", "pair"))  # type: ignore[arg-type]
        draws.append([ratio_of(moments, **options)["trace"], one_class["class=0"], one_pair["pair=0/2"]])
    error = np.std(draws, axis=0) / math.sqrt(400)
    np.testing.assert_array_less(np.abs(np.mean(draws, axis=0) - truth), 4 * error)
    assert ratio_of(moments)["trace"] > 1.5 * truth[0]


def test_pure_noise_is_noted_as_bias(rng: np.random.Generator) -> None:
    """Regression: n = 75, d = 60, K = 5 gave 5.28 with an empty note."""
    moments = ClassMoments().of(rng.normal(size=(75, 60)), np.arange(75) % 5)
    assert ratio_of(moments)[""].note.startswith("about all of it is bias at n = 75; debiased=true")
    assert abs(ratio_of(moments, debiased=True)[""]) < 0.5
    assert ratio_of(ClassMoments().of(rng.normal(size=(9000, 6)) + 2 * np.eye(6)[np.arange(9000) % 5], np.arange(9000) % 5))[
        ""
    ].note == ""  # fmt: skip


@pytest.mark.parametrize("n", [64, 30])
@pytest.mark.parametrize("per", ["all", "class", "pair"])
def test_debiased_is_undefined_where_the_bias_has_no_expectation(n: int, per: str, rng: np.random.Generator) -> None:
    values = ratio_of(ClassMoments().of(rng.normal(size=(n, 60)), np.arange(n) % 4), debiased=True, per=per)
    assert all(math.isnan(value) and "no expectation" in value.note for value in values.values())


def test_debiasing_requires_the_sample_covariance() -> None:
    for options in ({"ridge": 0.1}, {"estimator": "ledoit_wolf"}):
        with pytest.raises(UsageError, match="omit ridge and estimator"):
            _ = metrics.get("fisher_ratio", debiased=True, **options).needs


def test_constant_and_repeated_features_change_nothing(classes: Classes) -> None:
    x, y = classes(300, 5, 4)
    padded = np.c_[x, np.zeros(300), np.full(300, 7.3), x[:, 0], x @ np.ones(5)]
    values = fisher_ratio(ClassMoments().of(padded, y))
    assert values[""] == pytest.approx(ratio(x, y)[""], rel=1e-8)
    assert values[""].note == "on the range of the within-class covariance, rank 5 of 9; class means lie in it"


def test_features_that_depend_on_each_other_up_to_float32_rounding_separate_nothing(classes: Classes) -> None:
    """Regression: pooled convolutions of one channel span 9 directions; rounding counted as 16 more, 4 % of the value."""
    x, y = classes(900, 5, 4)
    wide = (x.astype(np.float32) @ np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)).astype(np.float32)
    values = fisher_ratio(ClassMoments().of(wide, y))
    assert values[""] == pytest.approx(ratio(x, y)[""], rel=1e-3)
    assert "rank 5 of 40" in values[""].note


def test_more_features_than_samples_separate_perfectly(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(30, 50)), np.arange(30) % 3
    values = fisher_ratio(ClassMoments().of(x, y))
    assert values[""] == math.inf
    assert "rank 27 of 50" in values[""].note
    centred = x - np.array([x[y == c].mean(axis=0) for c in range(3)])[y]
    scale = x.std(axis=0)
    means = np.array([x[y == c].mean(axis=0) for c in range(3)]) - x.mean(axis=0)
    within, between = centred.T @ centred / 30, means.T @ means / 3
    inverse = np.linalg.pinv(within / np.outer(scale, scale), rcond=1e-10, hermitian=True)
    assert values["pinv"] == pytest.approx(np.trace(inverse @ (between / np.outer(scale, scale))) / 3, rel=1e-8)


def test_collapsed_classes_are_infinitely_separated() -> None:
    values = fisher_ratio(ClassMoments().of(np.repeat(np.eye(3), 5, axis=0), np.repeat(np.arange(3), 5)))
    assert values[""] == math.inf
    assert values["pinv"] == 0.0
    assert "100.00% of the between-class variance" in values["pinv"].note


def test_coincident_means_give_zero() -> None:
    star = np.concatenate([np.eye(3), -np.eye(3)])
    assert ratio(np.concatenate([star, 2 * star]), np.repeat([0, 1], 6))[""] == 0.0


def test_units_of_features_do_not_matter(classes: Classes) -> None:
    x, y = classes(400, 5, 3)
    assert ratio(x * np.array([1e-9, 1e-3, 1.0, 1e4, 1e9]), y)[""] == pytest.approx(ratio(x, y)[""], rel=1e-9)


def test_a_linear_reduction_never_raises_it(classes: Classes, rng: np.random.Generator) -> None:
    x, y = classes(400, 8, 4)
    full = ratio(x, y)[""]
    for width in range(1, 8):
        assert ratio(x @ rng.normal(size=(8, width)), y)[""] <= full * (1 + 1e-12)


def plain_ratio(x: np.ndarray, y: np.ndarray, within: np.ndarray, weight: str) -> float:
    """1/K Tr(Sigma^-1 Sigma_B) of a given within-class covariance, as a sum over classes."""
    labels, counts = np.unique(y, return_counts=True)
    share = np.full(len(labels), 1 / len(labels)) if weight == "balanced" else counts / len(y)
    means = np.stack([x[y == label].mean(0) for label in labels])
    centred = means - share @ means
    return float(sum(p * v @ np.linalg.solve(within, v) for p, v in zip(share, centred, strict=True)) / len(labels))


def plain_within(x: np.ndarray, y: np.ndarray, weight: str) -> np.ndarray:
    labels, counts = np.unique(y, return_counts=True)
    share = np.full(len(labels), 1 / len(labels)) if weight == "balanced" else counts / len(y)
    return np.asarray(sum(p * np.cov(x[y == label].T, ddof=0) for p, label in zip(share, labels, strict=True)))


@pytest.mark.parametrize("weight", ["balanced", "empirical"])
@pytest.mark.parametrize("shape", [(300, 6), (40, 60)], ids=["n > d", "n < d"])
@pytest.mark.parametrize("ridge", [1e-3, 0.1, 3.0])
def test_a_ridge_is_a_fraction_of_the_mean_variance(
    classes: Classes, weight: str, shape: tuple[int, int], ridge: float
) -> None:
    x, y = classes(shape[0], shape[1], 4)
    x *= np.linspace(0.5, 3.0, shape[1])
    within = plain_within(x, y, weight)
    within += ridge * np.trace(within) / shape[1] * np.eye(shape[1])
    values = metrics.get("fisher_ratio", ridge=ridge, class_weight=weight)(ClassMoments().of(x, y))
    expected = plain_ratio(x, y, within, weight)
    for variant, value in values.items():
        assert value == pytest.approx(expected * (4 if variant.startswith("trace") else 1), rel=1e-9), variant


@pytest.mark.parametrize("weight", ["balanced", "empirical"])
@pytest.mark.parametrize("shape", [(300, 6), (40, 60)], ids=["n > d", "n < d"])
def test_ledoit_wolf_shrinkage_agrees_with_scikit_learn(classes: Classes, weight: str, shape: tuple[int, int]) -> None:
    """Rows centred on their class means, each weighted so that their second moment is Sigma_W."""
    x, y = classes(shape[0], shape[1], 4)
    metric = metrics.get("fisher_ratio", estimator="ledoit_wolf", class_weight=weight)
    labels, counts = np.unique(y, return_counts=True)
    share = np.full(len(labels), 1 / len(labels)) if weight == "balanced" else counts / len(y)
    rows = np.concatenate(
        [
            (x[y == label] - x[y == label].mean(0)) * np.sqrt(p * len(y) / n)
            for label, p, n in zip(labels, share, counts, strict=True)
        ]
    )
    shrunk, shrinkage = ledoit_wolf(rows, assume_centered=True)
    assert 0 < shrinkage < 1
    expected = plain_ratio(x, y, shrunk, weight)
    values = metric(metric.needs.of(x, y))
    for variant, value in values.items():
        assert value == pytest.approx(expected * (4 if variant.startswith("trace") else 1), rel=1e-8), variant


@pytest.mark.parametrize("per", ["class", "pair"])
def test_perfectly_separated_classes_and_pairs_are_named(per: str) -> None:
    """Two classes differ in a direction without within-class variance, two others do not."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = np.c_[rng.normal(size=(90, 2)) + np.array([0.0, 3.0, 6.0])[y][:, None], (y == 2).astype(float)]
    values = metrics.get("fisher_ratio", per=per)(ClassMoments().of(x, y))
    if per == "pair":
        infinite = {variant.partition(",")[0] for variant, value in values.items() if np.isinf(value)}
        assert infinite == {"pair=0/2", "pair=1/2"}
        assert all(value.note for value in values.values() if np.isinf(value))
    else:
        assert all(np.isinf(value) for value in values.values())  # the common mean lies outside as well


def test_constant_features_change_nothing_and_only_constant_features_are_undefined(classes: Classes) -> None:
    x, y = classes(200, 4, 3)
    padded = np.insert(x, [0, 2], 7.0, axis=1)
    metric = metrics.get("fisher_ratio")
    before, after = metric(ClassMoments().of(x, y)), metric(ClassMoments().of(padded, y))
    for variant in before:
        assert after[variant] == pytest.approx(before[variant], rel=1e-10)
    assert "rank 4 of 6" in after[""].note
    constant = metric(ClassMoments().of(np.ones((200, 3)), y))
    assert all(np.isnan(value) and value.note == "every feature is constant" for value in constant.values())


def test_the_note_on_bias_is_given_for_the_exact_estimator_alone() -> None:
    """With a ridge or with shrinkage, the inverse is not that of a Wishart matrix, and its bias is unknown."""
    x, y = np.random.default_rng(0).normal(size=(60, 12)), np.arange(60) % 3
    assert "debiased=true" in fisher_ratio(ClassMoments().of(x, y)).get("").note
    assert "debiased=true" not in fisher_ratio(ClassMoments().of(x, y), ridge=0.1)[""].note
    shrunk = metrics.get("fisher_ratio", estimator="ledoit_wolf")
    assert all("debiased=true" not in value.note for value in shrunk(shrunk.needs.of(x, y)).values())


@pytest.mark.parametrize(("per_class", "k", "d"), [(20, 3, 5), (12, 5, 2), (30, 2, 1)])
def test_the_debiased_trace_of_equal_classes_is_a_plain_formula(
    per_class: int, k: int, d: int, rng: np.random.Generator
) -> None:
    """E[trace] = n / (n - K - d - 1) (truth + d (K - 1) / n) for Gaussian classes of one covariance, solved for the truth."""
    n, y = per_class * k, np.arange(per_class * k) % k
    x = rng.normal(size=(n, d)) + y[:, None]
    means = np.stack([x[y == c].mean(axis=0) for c in range(k)])
    within = (x - means[y]).T @ (x - means[y]) / n
    between = (means - x.mean(axis=0)).T @ (means - x.mean(axis=0)) / k
    trace = float(np.trace(np.linalg.solve(within, between)))
    value = fisher_ratio(ClassMoments().of(x, y), debiased=True)["trace"]
    assert value == pytest.approx((n - k - d - 1) / n * trace - d * (k - 1) / n, rel=1e-9)


def test_the_reason_for_no_debiased_value_names_the_number_of_samples_needed(rng: np.random.Generator) -> None:
    state = ClassMoments().of(rng.normal(size=(20, 15)), np.arange(20) % 4)
    undefined = {per: fisher_ratio(state, debiased=True, per=per) for per in ("all", "class", "pair")}  # type: ignore[arg-type]
    for per, values in undefined.items():
        assert list(values) == list(fisher_ratio(state, per=per))  # type: ignore[arg-type]
        assert all(math.isnan(value) and "n = 20 is not above K + rank + 1 = 20" in value.note for value in values.values())


def test_collapsed_classes_separate_perfectly_whatever_the_ridge() -> None:
    """Without within-class variance there is no range to project on: the pseudo-inverse gives 0, the ratio inf."""
    values = fisher_ratio(ClassMoments().of(np.repeat(np.eye(3), 4, axis=0), np.repeat(np.arange(3), 4)), ridge=0.1)
    assert [float(value) for value in values.values()] == [math.inf, math.inf, 0.0]

"""Jackknife standard errors: closed forms, and coverage over independent data sets. Permutation tests."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

import probes
from probes import Batch
from repanalysis import analyze
from repanalysis.analyses.uncertainty import few_groups, jackknife, permutation_test, permuted
from repanalysis.metrics import Structure, get, names


def test_equal_groups_give_the_formula_of_the_delete_a_group_jackknife(rng: np.random.Generator) -> None:
    x = rng.normal(size=60)
    left_out = [np.delete(x, slice(6 * j, 6 * j + 6)).mean() for j in range(10)]
    expected = math.sqrt(9 / 10 * np.square(np.array(left_out) - np.mean(left_out)).sum())
    assert jackknife(x.mean(), left_out, [6] * 10) == pytest.approx(expected, rel=1e-12)


def test_the_jackknife_is_centred_on_the_mean_of_the_replicates(rng: np.random.Generator) -> None:
    """Equal groups: se^2 = (G - 1)/G sum_j (theta_j - mean theta)^2, whatever the value of all samples."""
    x = rng.exponential(size=60)
    left_out = [np.log(np.delete(x, slice(6 * j, 6 * j + 6)).var()) for j in range(10)]
    expected = math.sqrt(9 / 10 * np.square(np.array(left_out) - np.mean(left_out)).sum())
    for value in (np.log(x.var()), 0.0, 5.0):
        assert jackknife(float(value), left_out, [6] * 10) == pytest.approx(expected, rel=1e-9)


def test_unequal_groups_weight_pseudo_values_by_group_size(rng: np.random.Generator) -> None:
    """Busing et al.: the centre is the mean of the pseudo-values weighted by m_j, and each counts 1 / (h_j - 1)."""
    sizes, x = [3, 5, 8, 12, 4, 8], rng.exponential(size=40)
    parts = np.split(x, np.cumsum(sizes)[:-1])
    left_out = [float(np.concatenate(parts[:j] + parts[j + 1 :]).std()) for j in range(6)]
    pseudo = [40 / m * x.std() - (40 / m - 1) * theta for m, theta in zip(sizes, left_out, strict=True)]
    centre = np.average(pseudo, weights=sizes)
    expected = sum((p - centre) ** 2 / (40 / m - 1) for p, m in zip(pseudo, sizes, strict=True)) / 6
    assert jackknife(float(x.std()), left_out, sizes) ** 2 == pytest.approx(expected, rel=1e-9)


def test_unequal_groups_of_a_mean_are_unbiased(rng: np.random.Generator) -> None:
    sizes = [3, 5, 8, 12, 4, 8]
    edges = np.cumsum([0, *sizes])
    variances = []
    for _ in range(3000):
        x = rng.normal(size=40)
        left_out = [np.delete(x, slice(a, b)).mean() for a, b in pairwise(edges)]
        variances.append(jackknife(x.mean(), left_out, sizes) ** 2)
    assert np.mean(variances) == pytest.approx(1 / 40, rel=0.06)


def test_the_standard_error_of_non_finite_values_is_nan() -> None:
    assert math.isnan(jackknife(1.0, [1.0, math.nan], [5, 5]))
    assert math.isnan(jackknife(math.inf, [1.0, 2.0], [5, 5]))
    assert math.isnan(jackknife(1.0, [1.0], [5]))


@pytest.mark.parametrize("metric", ["fisher_ratio", "nc1", "rate_reduction", "within_class_variance", "participation_ratio"])
def test_standard_errors_match_the_standard_deviation_over_data_sets(metric: str) -> None:
    values, errors = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        y = np.arange(400) % 3
        x = rng.normal(size=(400, 4)) + 2 * np.eye(3, 4)[y]
        batch = Batch(ids=np.arange(400) + 1000 * seed, layers={"x": x}, labels=y)
        row = analyze([batch], metric, progress=False).select(variant="").frame
        values.append(row["value"].item())
        errors.append(row["se"].item())
    sd = np.std(values, ddof=1) * few_groups(10)
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(sd, rel=0.35)


def test_permutations_keep_the_number_of_each_class_and_depend_on_the_draw() -> None:
    labels = np.repeat([0, 1, 5], [30, 20, 10])
    first, second = permuted(labels, 0, 0), permuted(labels, 0, 1)
    assert np.bincount(first).tolist() == np.bincount(labels).tolist()
    assert (first != second).any()
    np.testing.assert_array_equal(first, permuted(labels, 0, 0))


def test_a_null_with_undefined_draws_is_undefined() -> None:
    null = permutation_test(1.0, [0.5, math.nan])
    assert math.isnan(null.mean)
    assert math.isnan(null.sd)
    assert math.isnan(null.p)
    assert "not finite" in null.note


def test_infinite_values_and_draws_are_ordered_like_finite_ones() -> None:
    """Perfect separation exceeds all finite draws and ties with draws of perfect separation."""
    assert permutation_test(math.inf, [1.0, 2.0, 3.0]).p == 1 / 4
    assert permutation_test(math.inf, [1.0, math.inf, 3.0]).p == 2 / 4
    assert math.isnan(permutation_test(math.inf, [1.0, math.inf, 3.0]).mean)


@pytest.mark.parametrize(("structure", "p"), [("up", 3 / 5), ("down", 4 / 5), ("either", 1.0)])
def test_values_that_are_equal_up_to_rounding_are_ties(structure: Structure, p: float) -> None:
    """0.1 + 0.2 is not 0.3 in binary; one draw is above, two are below and one equals the value."""
    assert permutation_test(0.3, [0.1 + 0.2, 0.4, 0.2, 0.1], structure).p == pytest.approx(p)
    assert permutation_test(0.1 + 0.2, [0.3, 0.4, 0.2, 0.1], structure).p == pytest.approx(p)


@pytest.mark.parametrize("structure", ["up", "down", "either"])
@pytest.mark.parametrize("dimensionless", [True, False])
def test_draws_equal_to_the_value_count_as_ties(structure: Structure, dimensionless: bool) -> None:
    """Also at 0, where the rounding tolerance is 0."""
    for value in (0.0, 1.0, -1.0):
        null = permutation_test(value, [value] * 4, structure, dimensionless=dimensionless)
        assert null.p == 1.0
        assert null.mean == value
    assert permutation_test(0.0, [0.0, 1.0, -1.0], structure, dimensionless=dimensionless).p == (
        1.0 if structure == "either" else 3 / 4
    )


def test_a_single_draw_has_no_standard_deviation() -> None:
    null = permutation_test(1.0, [0.5])
    assert (null.mean, null.p) == (0.5, 1 / 2)
    assert math.isnan(null.sd)


def test_the_standard_deviation_of_two_draws_is_their_distance_over_sqrt_2() -> None:
    assert permutation_test(1.0, [2.0, 5.0]).sd == pytest.approx(3 / math.sqrt(2))


@pytest.mark.parametrize(("groups", "quantile"), [(2, 12.7062), (10, 2.2622), (31, 2.0423)])
def test_few_groups_use_students_t_with_one_degree_of_freedom_less(groups: int, quantile: float) -> None:
    """Quantiles of Student's t at 0.975, from printed tables."""
    assert 1.96 * few_groups(groups) == pytest.approx(quantile, rel=1e-4)
    assert math.isnan(few_groups(1))


def test_values_near_0_are_ties_only_if_dimensionless() -> None:
    draws = [2e-17, 5e-17, 0.0]
    assert permutation_test(3e-17, draws, "down", dimensionless=True).p == 1.0
    assert permutation_test(3e-17, draws, "down").p == 3 / 4


def test_without_a_direction_the_test_is_two_sided() -> None:
    draws = list(np.arange(99.0))
    assert permutation_test(1000.0, draws, "either").p == permutation_test(-1000.0, draws, "either").p == 2 / 100
    assert permutation_test(1000.0, draws, "up").p == permutation_test(-1000.0, draws, "down").p == 1 / 100
    assert permutation_test(1000.0, draws, "down").p == 1.0
    assert permutation_test(49.0, draws, "either").p == 1.0


def _labelled() -> list[str]:
    return [name for name in names() if get(name).min_classes or get(name).needs_targets]


def test_every_labelled_metric_declares_the_direction_of_more_structure() -> None:
    assert {name for name in _labelled() if get(name).structure == "either"} == set()
    assert {name for name in names() if name not in _labelled() and get(name).structure != "either"} == set()
    assert get("linear_probe_accuracy", solver="ridge").tail("train,solver=ridge") == "up"
    assert get("linear_probe_accuracy").tail("penalty") == "either"


def _simplex(n: int, seed: int, scale: float) -> tuple[probes.Source, tuple[np.ndarray, np.ndarray]]:
    """Six Gaussian classes whose means are the corners of a simplex, and the head of neural collapse."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 6)
    means = np.eye(6, 8) - np.r_[np.full(6, 1 / 6), 0.0, 0.0]
    x = scale * means[y] + rng.normal(size=(n, 8))
    targets = means[y][:, :2]
    return probes.from_arrays({"x": x}, ids=np.arange(n) + 1000 * seed, labels=y, targets=targets), (means, np.zeros(6))


def test_structure_has_a_small_p_in_the_declared_direction() -> None:
    source, head = _simplex(180, 0, 12.0)
    rows = analyze(source, _labelled(), null=39, groups=0, head=head, progress=False).frame
    null = rows[rows["perturbation"] != ""].set_index(["metric", "variant"])
    assert set(rows["metric"]) == set(_labelled())
    declared = null[null["tail"] != "either"]
    assert len(declared) >= 25
    undefined = declared["p"].isna()  # filters that serve no random label
    assert set(declared[undefined].index.get_level_values("metric")) <= {"filter_clusters"}
    assert (declared[~undefined]["p"] <= 2 / 40).all(), declared[declared["p"] > 2 / 40]["p"].to_dict()
    assert rows[rows["perturbation"] == ""]["p"].isna().all()
    assert (rows[rows["perturbation"] == ""]["tail"] == "").all()


def test_p_is_uniform_if_value_and_draws_are_exchangeable(rng: np.random.Generator) -> None:
    """P(p <= j/20) = j/20 exactly, in either tail; without a direction, for even j."""
    x = rng.normal(size=(4000, 20))
    for structure, step in (("up", 1), ("down", 1), ("either", 2)):
        p = np.array([permutation_test(float(row[0]), row[1:], structure).p for row in x])  # type: ignore[arg-type]
        for j in range(step, 20, step):
            assert (p <= j / 20 + 1e-9).mean() == pytest.approx(j / 20, abs=4 * math.sqrt(0.25 / 4000))


@pytest.mark.slow
def test_p_is_uniform_without_structure() -> None:
    """The mean of p over 60 data sets is 0.5 + 1/2(B + 1), up to four standard errors; ties can only raise it."""
    p_values: dict[tuple[str, str], list[float]] = {}
    for seed in range(60):
        source, head = _simplex(60, seed, 0.0)
        rows = analyze(source, _labelled(), null=9, groups=0, head=head, progress=False).frame
        for row in rows[rows["perturbation"] != ""].itertuples():
            p_values.setdefault((row.metric, row.variant), []).append(row.p)
    error = math.sqrt(1 / 12 / 60)
    for key, values in p_values.items():
        p = np.array(values)[np.isfinite(values)]
        if len(p) < 50:
            continue
        assert p.mean() > 0.55 - 4 * error, key
        assert (p <= 0.1).mean() < 0.1 + 4 * math.sqrt(0.09 / 60), key
        if key[0] in ("fisher_ratio", "nc1", "nc1_cdnv", "within_class_variance", "rate_reduction", "coding_rate_classes"):
            assert p.mean() < 0.55 + 4 * error, key

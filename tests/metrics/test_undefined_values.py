"""Metrics of moments at the edges: one class, equal samples, equal means, collapse; each with its value and reason."""

from __future__ import annotations

import math

import numpy as np
import pytest

import probes
from repanalysis.analyses.geometry.engine import analyze
from repanalysis.metrics import Head, get
from repanalysis.metrics._bias import between_noise, bias_note
from repanalysis.statistics import ClassMoments

ONE_CLASS = np.arange(8.0).reshape(4, 2), np.zeros(4, int)
EQUAL = np.ones((6, 2)), np.arange(6) % 3
EQUAL_MEANS = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, -2.0], [0.0, 2.0]]), np.array([0, 0, 1, 1])
COLLAPSED = np.repeat(np.eye(3), 4, axis=0), np.repeat(np.arange(3), 4)
NOTHING = np.zeros((0, 3)), np.zeros(0, int)

ALIKE, NO_MEANS, NO_SPREAD = "all samples are equal", "all class means are equal", "the within-class variance is 0"
CASES = [
    *[("one class", ONE_CLASS, name, variant, math.nan, "needs two classes") for name, variant in [
        ("class_mean_separation", ""), ("class_mean_separation", "min"), ("class_mean_separation", "relative"),
        ("class_mean_separation", "debiased"), ("between_class_variance", ""), ("between_class_variance", "relative"),
        ("fisher_trace_ratio", ""), ("nc1", ""), ("nc1_cdnv", ""), ("nc1_cdnv", "max"), ("nc1_quotient", ""),
        ("nc2_equiangular", ""), ("nc2_equiangular", "std"), ("nc2_equinorm", ""), ("nc3_duality", ""),
    ]],
    *[("equal samples", EQUAL, name, variant, math.nan, ALIKE) for name, variant in [
        ("class_mean_separation", "relative"), ("between_class_variance", "relative"), ("within_class_variance", "relative"),
        ("fisher_trace_ratio", ""), ("nc1", ""), ("nc1_quotient", ""), ("effective_rank", ""), ("effective_rank", "variance"),
        ("spectrum", "component=1"),
    ]],
    ("equal samples", EQUAL, "class_mean_separation", "", 0.0, ""),
    ("equal samples", EQUAL, "within_class_variance", "", 0.0, ""),
    ("equal samples", EQUAL, "nc1_cdnv", "", math.nan, "the samples of two classes are all equal"),
    ("equal samples", EQUAL, "nc2_equinorm", "", math.nan, NO_MEANS),
    ("equal samples", EQUAL, "nc2_equiangular", "std", math.nan, NO_MEANS),
    ("equal means", EQUAL_MEANS, "nc1", "", math.inf, NO_MEANS),
    ("equal means", EQUAL_MEANS, "nc1_quotient", "", math.inf, NO_MEANS),
    ("equal means", EQUAL_MEANS, "nc1_cdnv", "max", math.inf, "two classes have the same mean"),
    ("equal means", EQUAL_MEANS, "fisher_trace_ratio", "", 0.0, ""),
    ("equal means", EQUAL_MEANS, "nc2_equinorm", "", math.nan, NO_MEANS),
    ("collapsed", COLLAPSED, "fisher_trace_ratio", "", math.inf, NO_SPREAD),
    ("collapsed", COLLAPSED, "class_mean_separation", "relative", math.inf, NO_SPREAD),
    ("collapsed", COLLAPSED, "nc1", "", 0.0, ""),
    ("collapsed", COLLAPSED, "nc1_quotient", "", 0.0, ""),
    ("collapsed", COLLAPSED, "nc1_cdnv", "max", 0.0, ""),
    *[("nothing", NOTHING, name, variant, math.nan, "no samples") for name, variant in [
        ("within_class_variance", ""), ("within_class_variance", "relative"), ("effective_rank", "variance"),
        ("coding_rate", ""), ("coding_rate", "upper bound"), ("coding_rate_classes", ""),
    ]],
]  # fmt: skip


@pytest.mark.parametrize(("case", "data", "name", "variant", "value", "note"), CASES, ids=[
    f"{case[2]} {case[3]} {case[0]}" for case in CASES
])  # fmt: skip
def test_every_edge_case_has_its_value_and_reason(
    case: str, data: tuple[np.ndarray, np.ndarray], name: str, variant: str, value: float, note: str
) -> None:
    parameters = {"head": Head(np.eye(3, 2), np.zeros(3))} if name == "nc3_duality" else {}
    metric = get(name, **parameters)
    result = metric(metric.needs.of(*data))[variant]
    assert result == pytest.approx(value, abs=1e-12, nan_ok=True)
    assert result.note == note


@pytest.mark.parametrize("class_weight", ["balanced", "empirical"])
def test_noise_of_means_is_pi_times_1_minus_pi_times_the_variance_of_a_mean(class_weight: str) -> None:
    """v_c / n_c with v_c of ddof 1: classes of 2 and 6 samples, variances 2 and 3/5."""
    x, y = np.array([[-1.0], [1.0], *[[0.5], [-0.5]] * 2, [1.0], [-1.0]]), np.repeat([0, 1], [2, 6])
    moments = ClassMoments().of(x, y)
    pi = np.array([0.5, 0.5]) if class_weight == "balanced" else np.array([0.25, 0.75])
    expected = (pi * (1 - pi)) @ np.array([2 / 2, 0.6 / 6])
    assert between_noise(moments, class_weight) == pytest.approx(expected, rel=1e-12)  # type: ignore[arg-type]
    assert math.isnan(between_noise(ClassMoments().of(np.eye(3), np.array([0, 0, 1])), class_weight))  # type: ignore[arg-type]


def test_bias_is_noted_above_10_percent_and_called_all_from_95_percent() -> None:
    assert [bias_note(bias, 1.0, 9, "x") for bias in (0.0, 0.1, -1.0)] == ["", "", ""]
    for bias, share in ((0.11, "11%"), (0.94, "94%"), (0.95, "all"), (3.0, "all")):
        assert bias_note(bias, 1.0, 9, "x") == f"about {share} of it is bias at n = 9; x"
        assert bias_note(10 * bias, 10.0, 9, "x") == bias_note(bias, 1.0, 9, "x")
    assert bias_note(1.0, 0.0, 9, "x") == bias_note(1.0, math.inf, 9, "x") == bias_note(math.nan, 1.0, 9, "x") == ""


@pytest.mark.parametrize(
    "name", ["coding_rate", "effective_rank", "intrinsic_dimension", "participation_ratio", "power_law_exponent", "spectrum"]
)
def test_metrics_without_classes_are_defined_without_labels(name: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(200, 30))
    table = analyze(probes.from_arrays({"layer": x}), metrics=[name], null=0, groups=0, progress=False)
    assert len(table.frame)
    assert np.isfinite(table.frame["value"]).all()


def test_well_separated_means_have_no_note_of_bias(rng: np.random.Generator) -> None:
    y = np.arange(200) % 4
    noise = rng.normal(size=(200, 5))
    metric = get("class_mean_separation")
    assert metric(metric.needs.of(noise + 50 * np.eye(5)[y], y))[""].note == ""
    assert "of it is bias at n = 200; the variant debiased removes it" in metric(metric.needs.of(noise, y))[""].note


def test_a_ridge_counts_features_whose_variance_is_within_rounding() -> None:
    """With a ridge nothing is singular, and a feature of float16 near 1000 (spacing 0.5) counts as it does in float64."""
    y = np.arange(40) % 2
    x = np.stack([np.sin(np.arange(40.0)), 1000 + 0.5 * y], axis=1).astype(np.float16)
    metric = get("fisher_ratio", ridge=0.5)
    values = [metric(metric.needs.of(z, y))["trace,ridge=0.5"] for z in (x, x.astype(np.float64))]
    assert values[0] == pytest.approx(values[1], rel=1e-9)


@pytest.mark.parametrize("name", ["filter_clusters", "nc3_duality", "nc4_ncc_mismatch"])
def test_metrics_of_heads_name_what_is_missing(name: str, rng: np.random.Generator) -> None:
    acts = probes.from_arrays({"layer": rng.normal(size=(40, 3))}, labels=np.arange(40) % 2)
    frame = analyze(acts, metrics=[name], null=0, groups=0, progress=False).frame
    assert frame.empty or (frame["value"].isna() & (frame["note"] != "")).all()


@pytest.mark.parametrize(
    "name",
    [
        *("between_class_variance", "class_mean_separation", "coding_rate_classes", "fisher_ratio", "fisher_trace_ratio"),
        *("knn_accuracy", "lda_accuracy", "linear_probe_accuracy", "nc1", "nc1_cdnv", "nc1_quotient", "nc2_equiangular"),
        *("nc2_equinorm", "ncc_accuracy", "rate_reduction", "rate_reduction_normalized", "within_class_variance"),
    ],
)
def test_metrics_of_classes_are_defined_for_two_classes(name: str, rng: np.random.Generator) -> None:
    y = np.arange(200) % 2
    acts = probes.from_arrays({"layer": rng.normal(size=(200, 4)) + y[:, None]}, labels=y)
    frame = analyze(acts, metrics=[name], null=0, groups=0, progress=False).frame
    assert np.isfinite(frame.loc[frame["variant"] == "", "value"]).all()
    assert np.isfinite(frame["value"]).any()

"""The planned statistic for given data: moments, grouped moments, rows, or a reason for none."""

from __future__ import annotations

import numpy as np
import pytest

import probes
from probes import LayerInfo, LeftOutWarning
from repanalysis import analyze, metrics
from repanalysis.analyses.geometry.states import first_layer_of_dtypes, plan_statistics, resolution_of_layer
from repanalysis.metrics import Metric, Value
from repanalysis.statistics import ClassMoments, Groups, Rows, Samples, SampleSet, Statistic
from repanalysis.statistics.rounding import EXACT, resolution_of

SMOOTH = [metrics.get(name) for name in metrics.names() if metrics.get(name).has_jackknife_se]
FULL, MEANS = ClassMoments(), ClassMoments(scatter="none")


def test_few_classes_get_moments_in_groups() -> None:
    plan = plan_statistics(SMOOTH, 64, 10, 50_000, groups=10, budget=2 << 30)
    assert plan.statistics == (Groups(FULL, 10),)
    assert not plan.refused


def test_without_standard_errors_moments_are_not_grouped() -> None:
    assert plan_statistics(SMOOTH, 64, 10, 50_000, groups=0, budget=2 << 30).statistics == (FULL,)
    assert plan_statistics([metrics.get("nc2_equinorm")], 64, 10, None, groups=0, budget=2 << 30).statistics == (MEANS,)


def test_many_classes_get_rows_where_rows_need_less_memory() -> None:
    assert plan_statistics(SMOOTH, 512, 1000, 50_000, groups=10, budget=2 << 30).statistics == (Rows(),)


def test_a_layer_too_wide_for_groups_notes_that_there_are_no_standard_errors() -> None:
    plan = plan_statistics(SMOOTH, 2048, 10, 50_000, groups=10, budget=2 << 30)
    assert plan.statistics == (FULL,)
    assert "needs 4.1 GiB of state" in plan.no_error


def test_a_stream_too_wide_for_moments_gets_class_means_and_a_reason() -> None:
    plan = plan_statistics(SMOOTH, 2048, 1000, None, groups=10, budget=2 << 30)
    assert plan.statistics == (Groups(MEANS, 10),)
    assert "31.3 GiB" in plan.refused[FULL]


@pytest.mark.parametrize("n", [None, 10_000])
def test_metrics_of_samples_always_get_their_statistic(n: int | None) -> None:
    needed = [metrics.get("knn_accuracy"), metrics.get("nc1", class_weight="empirical")]
    plan = plan_statistics(needed, 16, 3, n, groups=10, budget=2 << 30)
    assert set(plan.statistics) == {Samples(limit=5000), Groups(FULL, 10)}


def test_no_standard_error_where_a_metric_is_undefined_without_a_group() -> None:
    """Regression: pinv = 68.75 had a standard error of 2848: without a tenth of the samples classes separate perfectly."""
    rng = np.random.default_rng(0)
    y = np.arange(100) % 5
    source = probes.from_arrays({"layer": rng.normal(size=(100, 93))}, labels=y)
    frame = analyze(source, "fisher_ratio", progress=False).frame
    assert np.isfinite(frame["value"]).all()
    assert frame["se"].isna().all()
    assert frame["note"].str.contains("no standard error: without a tenth of the samples").all()


def _infinite(state: object) -> Value:
    return Value("inf", "beyond all bounds", se=0.5)


@pytest.mark.parametrize("needs", [Samples(limit=0), ClassMoments()], ids=["own error", "jackknife"])
@pytest.mark.parametrize("groups", [0, 10])
def test_an_infinite_value_has_no_standard_error(needs: Statistic, groups: int) -> None:
    """Even if the metric gives an error: a plot would draw a band about infinity."""
    endless = Metric("endless", _infinite, lambda **_: needs, 0, frozenset())
    source = probes.from_arrays({"layer": np.random.default_rng(0).normal(size=(40, 3))}, labels=np.arange(40) % 2)
    row = analyze(source, [endless], groups=groups, progress=False).frame.iloc[0]
    assert row["value"] == np.inf
    assert np.isnan(row["se"])
    assert row["note"].startswith("beyond all bounds")


def _ids_by_powers(state: SampleSet) -> float:
    """Sum of 2^id, which encodes the set of ids a metric was given; negative if an id does not match its row."""
    ids_match = (state.x[:, 0] == state.ids).all()
    return float(np.exp2(state.ids).sum()) * (1.0 if ids_match else -1.0)


SUBSETS = [
    ({}, range(12)),
    ({"split": "b"}, range(6, 12)),
    ({"classes": [2]}, [2, 6, 10]),
    ({"split": "b", "classes": [1, 2]}, [6, 9, 10]),
    ({"ignore_labels": [0, 3]}, [1, 2, 5, 6, 9, 10]),
]


@pytest.mark.parametrize(("options", "ids"), SUBSETS)
def test_ids_stay_with_their_rows(options: dict[str, object], ids: range | list[int]) -> None:
    """Samples are drawn and split by id, so the rows of a subset must keep their ids."""
    which = Metric("which", _ids_by_powers, lambda **_: Samples(limit=0), 1, frozenset(), by_class=True)
    order = np.random.default_rng(0).permutation(12)
    source = probes.from_arrays(
        {"layer": order[:, None].astype(float)}, ids=order, labels=order % 4, split=np.where(order < 6, "a", "b")
    )
    row = analyze(source, [which], progress=False, **options).frame.iloc[0]  # type: ignore[arg-type]
    assert row["value"] == sum(2**i for i in ids)
    assert row["n"] == len(ids)


@pytest.mark.parametrize(("options", "ids"), SUBSETS)
def test_a_non_finite_sample_is_named_by_its_id(options: dict[str, object], ids: range | list[int]) -> None:
    x = np.ones((12, 2))
    x[ids[-1], 1] = np.nan
    labels, split = np.arange(12) % 4, np.repeat(["a", "b"], 6)
    source = probes.from_arrays({"good": np.eye(12), "bad": x}, ids=np.arange(12) + 100, labels=labels, split=split)
    with pytest.warns(LeftOutWarning, match=f"holds nan at sample id {ids[-1] + 100}, the only such sample"):
        analyze(source, "within_class_variance", progress=False, **options)  # type: ignore[arg-type]


def test_the_resolution_depends_on_types_of_this_and_earlier_layers() -> None:
    """bfloat16 from layer 1 on: layer 0 is exact to float32, every later layer has the rounding of layer 1."""
    types = ["float32", "bfloat16", "float32"]
    layers = [
        LayerInfo(name=f"l{i}", order=i, depth=1.0, dims=("d",), dtype_source=dtype_source)
        for i, dtype_source in enumerate(types)
    ]
    first = first_layer_of_dtypes(reversed(layers))
    assert sorted(first) == [("bfloat16", 1), ("float32", 0)]
    for layer, expected in zip(layers, ["float32", "bfloat16", "bfloat16"], strict=True):
        np.testing.assert_array_equal(resolution_of_layer(first, layer), np.maximum(EXACT, resolution_of(expected)))

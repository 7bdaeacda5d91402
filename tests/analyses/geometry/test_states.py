"""The statistic that is planned for given data: moments, their groups, the rows, or a reason for none."""

from __future__ import annotations

import numpy as np
import pytest

import probes
from repanalysis import analyze, metrics
from repanalysis.analyses.geometry.states import plan_statistics
from repanalysis.statistics import ClassMoments, Groups, Rows, Samples

SMOOTH = [metrics.get(name) for name in metrics.names() if metrics.get(name).smooth]
FULL, MEANS = ClassMoments(), ClassMoments(scatter="none")


def test_few_classes_get_moments_in_groups() -> None:
    plan = plan_statistics(SMOOTH, 64, 10, 50_000, groups=10, budget=2 << 30)
    assert plan.statistics == (Groups(FULL, 10),)
    assert not plan.refused


def test_without_standard_errors_moments_are_not_grouped() -> None:
    assert plan_statistics(SMOOTH, 64, 10, 50_000, groups=0, budget=2 << 30).statistics == (FULL,)
    assert plan_statistics([metrics.get("nc2_equinorm")], 64, 10, None, groups=0, budget=2 << 30).statistics == (MEANS,)


def test_many_classes_get_rows_where_these_take_less_memory() -> None:
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
    """Regression: a pinv of 68.75 had an error of 2848, because classes separate perfectly without a tenth of the samples."""
    rng = np.random.default_rng(0)
    y = np.arange(100) % 5
    source = probes.from_arrays({"layer": rng.normal(size=(100, 93))}, labels=y)
    frame = analyze(source, "fisher_ratio", progress=False).frame
    assert np.isfinite(frame["value"]).all()
    assert frame["se"].isna().all()
    assert frame["note"].str.contains("no standard error: without a tenth of the samples").all()

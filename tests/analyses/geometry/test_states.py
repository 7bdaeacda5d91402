"""Which statistic serves which data: moments, their groups, the rows, or a reason."""

from __future__ import annotations

import numpy as np
import pytest

import probes
from repanalysis import analyze, metrics
from repanalysis.analyses.geometry.states import planned
from repanalysis.statistics import ClassMoments, Groups, Rows, Samples

SMOOTH = [metrics.get(name) for name in metrics.names() if metrics.get(name).has_jackknife_se]
FULL, MEANS = ClassMoments(), ClassMoments(scatter="none")


def test_few_classes_keep_moments_in_groups() -> None:
    plan = planned(SMOOTH, 64, 10, 50_000, groups=10, budget=2 << 30)
    assert plan.kept == (Groups(FULL, 10),)
    assert not plan.refused


def test_without_standard_errors_there_is_one_state() -> None:
    assert planned(SMOOTH, 64, 10, 50_000, groups=0, budget=2 << 30).kept == (FULL,)
    assert planned([metrics.get("nc2_equinorm")], 64, 10, None, groups=0, budget=2 << 30).kept == (MEANS,)


def test_many_classes_keep_rows_where_these_weigh_less() -> None:
    assert planned(SMOOTH, 512, 1000, 50_000, groups=10, budget=2 << 30).kept == (Rows(),)


def test_a_layer_too_wide_for_groups_says_that_there_are_no_errors() -> None:
    plan = planned(SMOOTH, 2048, 10, 50_000, groups=10, budget=2 << 30)
    assert plan.kept == (FULL,)
    assert "needs 4.1 GiB of state" in plan.no_error


def test_a_stream_too_wide_keeps_means_and_the_reason() -> None:
    plan = planned(SMOOTH, 2048, 1000, None, groups=10, budget=2 << 30)
    assert plan.kept == (Groups(MEANS, 10),)
    assert "31.3 GiB" in plan.refused[FULL]


@pytest.mark.parametrize("n", [None, 10_000])
def test_samples_are_always_kept(n: int | None) -> None:
    chosen = [metrics.get("knn_accuracy"), metrics.get("nc1", class_weight="empirical")]
    plan = planned(chosen, 16, 3, n, groups=10, budget=2 << 30)
    assert set(plan.kept) == {Samples(limit=5000), Groups(FULL, 10)}


def test_no_error_where_a_metric_is_undefined_without_a_group() -> None:
    """A story: a pinv of 68.75 had an error of 2848, because without a tenth of the samples they separate perfectly."""
    rng = np.random.default_rng(0)
    y = np.arange(100) % 5
    source = probes.from_arrays({"layer": rng.normal(size=(100, 93))}, labels=y)
    frame = analyze(source, "fisher_ratio", progress=False).frame
    assert np.isfinite(frame["value"]).all()
    assert frame["se"].isna().all()
    assert frame["note"].str.contains("no standard error: without a tenth of the samples").all()

"""What `@metric` accepts, and how a metric is named."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import probes
from probes import DataError, UsageError
from repanalysis import analyze, metrics
from repanalysis.metrics import metric
from repanalysis.metrics.fisher_ratio import fisher_ratio
from repanalysis.statistics import ClassMoments


@pytest.mark.parametrize("structure", ["lower", {"": "up", "b": "higher"}])
def test_an_unknown_direction_of_structure_is_refused_where_the_metric_is_declared(structure: Any) -> None:
    with pytest.raises(UsageError, match="lower|higher"):
        inspect.unwrap(metric)(needs=ClassMoments(), structure=structure)  # without the tests' check of types


def test_an_unknown_invariance_is_refused_where_the_metric_is_declared() -> None:
    with pytest.raises(UsageError, match=r"invariance.*shear.*translation"):
        metric(needs=ClassMoments(), invariant=["shear"])


def test_name_function_and_metric_are_the_same_alone_and_in_a_list() -> None:
    rng = np.random.default_rng(0)
    source = probes.from_arrays({"a": rng.normal(size=(60, 4))}, labels=np.arange(60) % 3)
    expected = analyze(source, "fisher_ratio").frame
    for request in (fisher_ratio, [fisher_ratio], metrics.get("fisher_ratio"), ["fisher_ratio"]):
        table = analyze(source, request)
        assert table.frame.equals(expected)
        assert "fisher_ratio" in str(table.provenance)


def test_a_function_that_is_not_a_metric_is_refused() -> None:
    source = probes.from_arrays({"a": np.eye(4)}, labels=np.arange(4) % 2)
    with pytest.raises(UsageError, match="'sum' is not a metric: decorate"):
        analyze(source, np.sum)


def test_missing_labels_are_refused_without_a_file_since_they_would_count_as_a_class() -> None:
    x, y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 3 - 1
    with pytest.raises(DataError, match=r"7 of 20 labels are -1.*y\[y != -1\]"):
        ClassMoments().of(x, y)
    assert ClassMoments().of(x[y != -1], y[y != -1]).k == 2

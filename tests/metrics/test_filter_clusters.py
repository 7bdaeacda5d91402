"""The metric equals the statistics of class means; a head for feature maps of another size gives no value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from repanalysis.heads.clusters import clusters_of
from repanalysis.heads.head import Head
from repanalysis.metrics.filter_clusters import filter_clusters
from repanalysis.statistics import ClassMoments

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


def test_the_metric_equals_the_statistics_of_class_means(classes: Classes) -> None:
    x, y = classes(300, 8, 5)
    head = Head(np.random.default_rng(0).normal(size=(5, 8)), np.zeros(5))
    values = filter_clusters(ClassMoments(scatter="none").of(x, y), head=head)
    means = np.stack([x[y == label].mean(0) for label in range(5)])
    expected = clusters_of(means[:, :, None], head.weight[:, :, None]).summary()
    assert float(values["clusters per filter"]) == expected["clusters"]
    assert float(values["SNR"]) == expected["snr_pair"]


def test_a_head_on_spatial_positions_gives_no_value() -> None:
    moments = ClassMoments().of(np.random.default_rng(0).normal(size=(60, 32)), np.arange(60) % 3)
    assert np.isnan(filter_clusters(moments, head=Head(np.eye(3, 32), np.zeros(3)).at(32, (8, 8, 8)))["SNR"])


def test_a_head_without_clusters_has_undefined_measures_with_the_reason() -> None:
    """Equal weights of all classes are 0 once they are centred."""
    rng = np.random.default_rng(0)
    moments = ClassMoments().of(rng.normal(size=(40, 3)), np.arange(40) % 4)
    values = filter_clusters(moments, head=Head(np.ones((4, 3)), np.zeros(4)))
    undefined = [variant for variant, value in values.items() if np.isnan(value)]
    assert values["empty filters"] == 3
    assert 0 < len(undefined) < len(values)
    for variant, value in values.items():
        assert (value.note == "no filter has a cluster") == (variant in undefined), variant
    defined = filter_clusters(moments, head=Head(rng.normal(size=(4, 3)), np.zeros(4)))
    assert not any("no filter has a cluster" in value.note for value in defined.values() if np.isfinite(value))

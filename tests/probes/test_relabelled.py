"""Other labels for the same activations: everything else is that of the source."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import probes
from probes import Batch, DataError
from probes.labels import Annotations
from probes.relabelled import Relabelled

X = np.random.default_rng(0).normal(size=(10, 3)).astype("f4")


@pytest.fixture
def store(tmp_path: Path) -> probes.Store:
    with probes.create(tmp_path / "x.h5", attrs={"model": "m"}, class_names=["a", "b"]) as writer:
        writer.append(Batch(np.arange(10) + 5, {"fc": X}, np.arange(10) % 2, np.full(10, "test")))
    return probes.Store(tmp_path / "x.h5")


def test_labels_are_replaced_and_everything_else_is_kept(store: probes.Store) -> None:
    labels = np.arange(10) % 3
    relabelled = Relabelled(store, Annotations(labels, class_names=["r", "g", "b"]), store.attrs | {"labels": "mine"})
    assert relabelled.labels is not None
    assert (relabelled.labels.tolist(), relabelled.class_names) == (labels.tolist(), ["r", "g", "b"])
    assert (relabelled.targets, relabelled.layers, relabelled.name, len(relabelled)) == (None, ["fc"], store.name, 10)
    np.testing.assert_array_equal(relabelled["fc"], X)
    np.testing.assert_array_equal(relabelled.take("fc", np.array([7, 2])), X[[7, 2]])
    np.testing.assert_array_equal(relabelled.ids, store.ids)
    assert relabelled.split is not None
    assert set(relabelled.split) == {"test"}
    for source in (relabelled, pickle.loads(pickle.dumps(relabelled))):
        batches = list(source.iter(size=4))
        np.testing.assert_array_equal(np.concatenate([batch.labels for batch in batches]), labels)
        np.testing.assert_array_equal(np.concatenate([batch.layers["fc"] for batch in batches]), X)
    relabelled.close()


def test_targets_are_added_to_the_labels(store: probes.Store) -> None:
    targets = np.arange(20.0).reshape(10, 2)
    relabelled = Relabelled(store, Annotations(targets=targets, target_names=("a", "b")), store.attrs)
    assert relabelled.labels is not None
    assert (relabelled.labels.tolist(), relabelled.class_names, relabelled.target_names) == (
        store.labels.tolist(),
        ["a", "b"],
        ("a", "b"),
    )  # type: ignore[union-attr]
    (batch,) = relabelled.iter()
    np.testing.assert_array_equal(batch.targets, targets)
    assert batch.target_names == ("a", "b")


def test_labels_must_be_as_many_as_samples(store: probes.Store) -> None:
    with pytest.raises(DataError, match="There are 9 labels for the 10 samples of .*x.h5; each needs one"):
        Relabelled(store, Annotations(np.zeros(9, int)), {})

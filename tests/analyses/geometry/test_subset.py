"""Subsets of samples: splits, classes by label and name, superclasses, and errors for unknown names."""

from __future__ import annotations

import numpy as np
import pytest

from probes import DataError, UsageError
from repanalysis.analyses.geometry.subset import Subset, subset_of

LABELS, SPLITS, NAMES = np.array([0, 1, 2, 2, 1]), np.array(["train", "test", "test", "train", "test"]), ["cat", "dog", "car"]


def selected_rows(subset: Subset) -> tuple[list[bool] | None, list[int]]:
    mask, labels = subset.apply(LABELS, SPLITS)
    assert labels is not None
    return None if mask is None else mask.tolist(), labels.tolist()


def test_without_a_selection_all_samples_are_used() -> None:
    assert selected_rows(subset_of(LABELS, SPLITS, NAMES)[0]) == (None, [0, 1, 2, 2, 1])


def test_a_split_and_classes_by_label_and_name() -> None:
    assert selected_rows(subset_of(LABELS, SPLITS, NAMES, split="test")[0]) == ([False, True, True, False, True], [1, 2, 1])
    subset = subset_of(LABELS, SPLITS, NAMES, classes=["cat", 2])[0]
    assert selected_rows(subset) == ([True, False, True, True, False], [0, 2, 2])
    mask = subset_of(LABELS, SPLITS, NAMES, split="train", classes=["car"])[0]
    assert selected_rows(mask) == ([False, False, False, True, False], [2])


def test_superclasses_are_numbered_in_their_order() -> None:
    subset, names = subset_of(LABELS, SPLITS, NAMES, superclasses={"vehicle": ["car"], "animal": ["dog", 0]})
    assert names == ["vehicle", "animal"]
    assert selected_rows(subset) == ([True] * 5, [1, 1, 0, 0, 1])
    fewer, _ = subset_of(
        LABELS, SPLITS, NAMES, superclasses={"animal": ["dog", "cat"], "vehicle": ["car"]}, classes=["cat", "car"]
    )
    assert selected_rows(fewer) == ([True, False, True, True, False], [0, 1, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "tset"}, "Unknown split 'tset'. Did you mean 'test'?"),
        ({"classes": ["dgo"]}, "Unknown class 'dgo'. Did you mean 'dog'?"),
        ({"classes": [7]}, "No sample is of class 7; there are 0, 1, 2."),
        ({"superclasses": {"a": ["cat"], "b": [0]}}, "Class 0 belongs to two superclasses."),
    ],
)
def test_an_unknown_split_or_class_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        subset_of(LABELS, SPLITS, NAMES, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_selecting_by_splits_or_labels_that_are_not_recorded_is_refused() -> None:
    with pytest.raises(DataError, match="have no splits"):
        subset_of(LABELS, None, NAMES, split="test")
    with pytest.raises(DataError, match="have no labels"):
        subset_of(None, None, None, classes=[1])

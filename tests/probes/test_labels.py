"""Annotations of samples have the same meaning in every container."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import probes
from probes import DataError, UsageError
from probes.labels import Annotations, annotated, as_labels, class_order, label_key

WHOLE = np.array([2, 0, 1, 2])
NAMES = ["cow", "ant", "bee", "cow"]  # sorted: ant, bee, cow

CLASSES: dict[str, Any] = {
    **{dtype: WHOLE.astype(dtype) for dtype in ("i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">i4")},
    "list": WHOLE.tolist(),
    "tuple of numpy integers": tuple(np.int16(label) for label in WHOLE),
    "column": WHOLE[:, None],
    "object of int": WHOLE.astype(object),
    "tensor": torch.tensor(WHOLE),
    "list of tensors": list(torch.tensor(WHOLE)),
    "one-hot float": np.eye(3)[WHOLE],
    "one-hot integer": np.eye(3, dtype=int)[WHOLE],
    "one-hot bool": np.eye(3, dtype=bool)[WHOLE],
    "one-hot tensor": torch.eye(3)[WHOLE],
    "one-hot table": pd.get_dummies(pd.Series(NAMES)),
    "text": np.array(NAMES),
    "bytes": np.array(NAMES, "S"),
    "text column": np.array(NAMES)[:, None],
    "object of str": np.array(NAMES, object),
    "list of str": NAMES,
    "Series of int": pd.Series(WHOLE, index=[9, 8, 7, 6]),
    "Series of Int64": pd.Series(WHOLE, dtype="Int64"),
    "Series of text": pd.Series(NAMES),
    "Series of string": pd.Series(NAMES, dtype="string"),
    "Categorical": pd.Categorical(NAMES),
    "Series of category": pd.Series(NAMES, dtype="category"),
    "Categorical of integers": pd.Categorical(WHOLE),
    "table of one column": pd.DataFrame({"label": WHOLE}),
    "masked": np.ma.array(WHOLE, mask=False),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_of_any_kind_are_the_same_classes(kind: str) -> None:
    result = annotated(CLASSES[kind])
    assert result.labels is not None
    assert result.labels.dtype == np.int64
    assert result.labels.tolist() == WHOLE.tolist()
    assert result.targets is None
    assert result.note == ""
    if any(word in kind for word in ("text", "str", "bytes", "table", "categ", "Categ")) and "integers" not in kind:
        assert result.class_names == (["ant", "bee", "cow"] if kind != "table of one column" else None)
    source = probes.from_arrays({"x": np.eye(4)}, labels=CLASSES[kind])
    assert source.labels is not None
    assert source.labels.tolist() == WHOLE.tolist()


def test_booleans_are_0_and_1() -> None:
    assert annotated([True, False]).labels.tolist() == [1, 0]  # type: ignore[union-attr]


def test_a_category_keeps_its_order() -> None:
    result = annotated(pd.Categorical(["low", "high", None], categories=["low", "mid", "high"], ordered=True))
    assert result.labels is not None
    assert (result.labels.tolist(), result.class_names) == ([0, 2, -1], ["low", "mid", "high"])


MISSING: dict[str, Any] = {
    "-1": [0, -1, 2],
    "-100": np.array([0, -100, 2]),
    "None": [0, None, 2],
    "NaN": [0.0, np.nan, 2.0],
    "object with NaN": np.array([0, np.nan, 2], object),
    "pd.NA": pd.Series([0, pd.NA, 2], dtype="Int64"),
    "masked": np.ma.array([0, 7, 2], mask=[0, 1, 0]),
}


@pytest.mark.filterwarnings("ignore:The labels are floats")
@pytest.mark.parametrize("kind", MISSING)
def test_a_sample_may_have_no_label(kind: str) -> None:
    result = annotated(MISSING[kind])
    assert result.labels is not None
    assert result.labels.tolist() == [0, -1, 2]


def test_texts_may_be_missing() -> None:
    for values in (["b", "", "a"], np.array(["b", None, "a"], object), ["b", np.nan, "a"], pd.Series(["b", None, "a"])):
        result = annotated(values)
        assert result.labels is not None
        assert (result.labels.tolist(), result.class_names) == ([1, -1, 0], ["a", "b"])
    assert annotated(["0", "-1", "10", "9"]).labels.tolist() == [0, -1, 2, 1]  # type: ignore[union-attr]
    named = annotated(["nan", "pita"], class_names=["nan", "pita"])
    assert named.labels.tolist() == [0, 1], "a class may be called nan"  # type: ignore[union-attr]


def test_further_labels_may_be_ignored() -> None:
    assert annotated([0, 255, 3], ignore=[255]).labels.tolist() == [0, -1, 3]  # type: ignore[union-attr]
    assert as_labels(np.array([-1, 1]), ignore=[-1]).tolist() == [-1, 1]
    assert annotated([-1, 1], ignore=[-1]).labels.tolist() == [-1, 1]  # type: ignore[union-attr]


TARGETS: dict[str, Any] = {
    **{dtype: np.array([0.9, 2.0, -1.0], dtype) for dtype in ("f2", "f4", "f8", ">f8")},
    "list": [0.9, 2, -1],
    "object": np.array([0.9, 2, -1], object),
    "Series": pd.Series([0.9, 2.0, -1.0]),
    "Float64": pd.Series([0.9, 2.0, -1.0], dtype="Float64"),
    "tensor": torch.tensor([0.9, 2.0, -1.0], dtype=torch.float64, requires_grad=True),
    "bfloat16": torch.tensor([0.9, 2.0, -1.0], dtype=torch.bfloat16),
    "column": np.array([[0.9], [2.0], [-1.0]]),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_floats_are_targets_and_never_truncated(kind: str) -> None:
    result = annotated(TARGETS[kind])
    assert result.labels is None
    assert result.targets is not None
    assert (result.targets.dtype, result.targets.shape) == (np.float64, (3, 1))
    np.testing.assert_allclose(result.targets[:, 0], [0.9, 2, -1], rtol=0.01)


def test_several_columns_are_several_targets_with_their_names() -> None:
    result = annotated(pd.DataFrame({"age": [1.5, np.nan], "height": [1.0, 2.0]}))
    np.testing.assert_array_equal(result.targets, [[1.5, 1.0], [np.nan, 2.0]])
    assert result.target_names == ("age", "height")
    continuous = annotated(pd.DataFrame({"age": [20, 30], "rank": [1, 2]}), continuous=True)
    np.testing.assert_array_equal(continuous.targets, [[20, 1], [30, 2]])
    source = probes.from_arrays({"x": np.eye(2)}, labels=[0, 1], targets=[3, 4])
    assert source.labels is not None
    assert source.targets is not None
    assert (source.labels.tolist(), source.targets.tolist()) == ([0, 1], [[3.0], [4.0]])


def test_integral_floats_are_classes_with_a_note() -> None:
    result = annotated([0.0, 3.0, np.nan])
    assert result.labels is not None
    assert result.labels.tolist() == [0, 3, -1]
    assert result.note.endswith("are taken for 2 classes; if they are quantities, give them as targets.")
    with pytest.warns(UserWarning, match="taken for 2 classes"):
        probes.from_arrays({"x": np.eye(2)}, labels=[0.0, 1.0])
    assert annotated([0.0, 2.0**60]).targets is not None, "beyond the whole numbers that a float counts"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.zeros((2, 3, 4)), r"have shape \(2, 3, 4\); one value a sample"),
        (np.zeros((2, 0)), r"have shape \(2, 0\)"),
        (3, r"have shape \(\)"),
        ([[1, 2], [3, 4]], r"have shape \(2, 2\): 2 columns of integers that are not one-hot"),
        ([[True, True], [False, True]], "2 columns of booleans"),
        ([["a", "b"], ["c", "d"]], "2 columns of text"),
        ([0, -7], r"hold -7: classes are 0, 1, .*--ignore-label=-7"),
        ([-1, 1, -1], "are -1 and 1 alone, and -1 means that a sample has no label: number the classes 0 and 1"),
        ([-1.0, 1.0], "are -1 and 1 alone"),
        (["a", 1], "hold int and str; give integers, text or floats"),
        (np.array([1j]), "are of type complex128"),
        (np.array(["2020-01-01"], "M8[D]"), "are of type datetime64"),
        ([0.5, np.inf], "hold inf"),
        ([np.nan, np.nan], "are all absent"),
        ([None, None], "are all absent"),
        (["", ""], "are all absent"),
        ([[0, 1], [1]], "is not an array|have shape"),
        (np.array([2**63], "u8"), "go up to 9223372036854775808, which is not a class"),
        ([{"a": 1}], "hold dict"),
    ],
)
def test_other_annotations_have_one_sentence_errors(values: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        annotated(values)


def test_numeric_class_names_are_sorted_numerically() -> None:
    assert class_order(str(number) for number in range(12)) == [str(number) for number in range(12)]
    assert class_order(["002", "10", "1"]) == ["1", "002", "10"]
    assert class_order(["10", "9", "a"]) == ["10", "9", "a"]
    assert annotated(["10", "2"]).class_names == ["2", "10"]


@pytest.mark.parametrize(
    "name",
    ["y", "Y", "label", "labels", "LABELS", "target", "targets", "train_labels", "y_train", "test_targets", "labels_val"],
)
def test_labels_are_found_under_any_usual_name(name: str) -> None:
    assert label_key(["fc", name, "relu"]) == name


def test_two_candidates_for_labels_are_ambiguous() -> None:
    with pytest.raises(UsageError, match="x.npz has 'y' and 'labels', and each may hold the labels: leave one, or name it"):
        label_key(["y", "fc", "labels"], where="x.npz")
    assert label_key(["fc", "layer.labels", "y2", "label_smoothing"]) is None
    assert label_key(["y_train", "y_test"], split="test") == "y_test"
    assert label_key(["train_labels", "test_labels"], split="training") == "train_labels"


def test_rows_of_annotations_are_selected() -> None:
    part = Annotations(np.arange(3), np.arange(6.0).reshape(3, 2)).rows(np.array([2, 0]))
    assert part.labels is not None
    assert part.targets is not None
    assert (part.labels.tolist(), part.targets.tolist()) == ([2, 0], [[4.0, 5.0], [0.0, 1.0]])

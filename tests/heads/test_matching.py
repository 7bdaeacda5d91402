"""Matching classes to rows of a head: by name, number, index or order; refused where the match is ambiguous."""

from __future__ import annotations

import re

import numpy as np
import pytest

from repanalysis.heads.matching import attribute, by_class, matched, relabelled

IMAGENET = [["n1", "tench, Tinca tinca", "tench", "Tinca tinca"], ["n2", "goldfish"], ["n3", "crane"], ["n4", "crane"]]
DIGITS = [str(digit) for digit in range(12)]


@pytest.mark.parametrize(
    ("names", "count", "rows", "head", "expected"),
    [
        (None, 3, 3, None, [0, 1, 2]),
        (None, 3, 3, [], [0, 1, 2]),
        (None, 4, 4, IMAGENET, [0, 1, 2, 3]),
        (DIGITS, 12, 12, None, list(range(12))),
        (["00", "01", "02"], 3, 3, None, [0, 1, 2]),
        (["1", "2", "10"], 3, 3, None, [0, 1, 2]),
        (["0", "2", "5"], 3, 3, None, [0, 1, 2]),
        (["0", "2", "5"], 3, 6, None, [0, 2, 5]),
        (["0", "217", "482"], 3, 1000, [], [0, 217, 482]),
        (["cat", "dog"], 2, 2, None, [0, 1]),
        (["low", "high"], 2, 2, None, [0, 1]),
        (["goldfish", "n1"], 2, 4, IMAGENET, [1, 0]),
        (["Tinca_tinca", "Goldfish", "n4"], 3, 4, IMAGENET, [0, 1, 3]),
        (["n4", "n3", "n2", "n1"], 4, 4, IMAGENET, [3, 2, 1, 0]),
        (["7", "3"], 2, 2, [["3"], ["7"]], [1, 0]),
    ],
)
def test_classes_are_matched_to_rows(
    names: list[str] | None, count: int, rows: int, head: list[list[str]] | None, expected: list[int]
) -> None:
    match, explanation = matched(names, count, rows, head)
    assert match is not None, explanation
    assert match.tolist() == expected


@pytest.mark.parametrize(
    ("names", "count", "rows", "head", "reason"),
    [
        (None, 10, 1000, None, "the data have 10 classes and the head 1000 rows; --head-classes FILE"),
        (None, 10, 1000, IMAGENET, "the data have 10 classes and the head 1000 rows"),
        (["cat", "dog"], 2, 3, None, "the data have 2 classes and the head 3 rows"),
        (["cat", "dog"], 2, 2, [], "the row names of this pretrained head are unknown, so 'cat' can't be matched"),
        (["n1", "cat"], 2, 4, IMAGENET, "1 of 2 classes have no row in the head .cat."),
        (["crane"], 1, 4, IMAGENET, "a name belongs to several rows .crane."),
        (["n1", "tench"], 2, 4, IMAGENET, "two classes belong to the same row"),
        (["1", "01"], 2, 2, None, "two classes have the same number"),
        (sorted(DIGITS), 12, 12, None, r"named by numbers but not in numerical order \(0, 1, 10, 11, ...\)"),
        (["0", "1", "2"], 3, 1000, [], "the data have 3 classes and the head 1000 rows"),
        (["1", "2", "3"], 3, 10, None, "the data have 3 classes and the head 10 rows"),
        (["0", "2", "50"], 3, 10, None, "the data have 3 classes and the head 10 rows"),
        (["ILSVRC2012_ID 0001", "ILSVRC2012_ID 0002"], 2, 2, None, "ids of the ILSVRC devkit.*meta.mat"),
    ],
)
def test_ambiguous_matches_are_refused(
    names: list[str] | None, count: int, rows: int, head: list[list[str]] | None, reason: str
) -> None:
    match, why = matched(names, count, rows, head)
    assert match is None
    assert re.search(reason, why), why


def test_rows_of_a_head_are_reordered_by_class() -> None:
    weight, bias = np.arange(8.0).reshape(4, 2), np.arange(4.0)
    labels = np.array([0, 1, 1])
    head = by_class((weight, bias), {"head_rows": "[3, 1]"}, ["a", "b"], labels)
    np.testing.assert_array_equal(head.weight, weight[[3, 1]])
    np.testing.assert_array_equal(head.bias, [3.0, 1.0])
    assert head.unmatched == ""
    assert by_class((weight, bias), {"head_rows": "unmatched: because"}, ["a", "b"], labels).unmatched == "because"
    assert by_class((weight, bias), {"head_rows": "[9, 1]"}, ["a", "b"], labels).unmatched.startswith("the rows that the file")
    assert by_class((weight, bias), {}, None, np.arange(4)).weight.shape == (4, 2)
    assert "2 classes and the head 4 rows" in by_class((weight, bias), {}, None, labels).unmatched


def test_a_match_is_stored_in_the_file() -> None:
    for rows in (np.array([3, 1, 0, 2]), np.arange(4)):
        head = by_class((np.eye(4), np.zeros(4)), {"head_rows": attribute(rows, "by name")}, list("abcd"), np.arange(4))
        np.testing.assert_array_equal(head.weight, np.eye(4)[rows])
    stored = attribute(np.arange(30_000)[::-1], "by name")
    assert stored.startswith("unmatched: there are too many classes")


def test_changed_labels_of_a_pretrained_network_are_not_matched() -> None:
    attrs = relabelled({"head_rows": "[1, 0]"})
    assert "are unknown" in by_class((np.eye(2), np.zeros(2)), attrs, ["a", "b"], np.arange(2)).unmatched
    assert by_class((np.eye(2), np.zeros(2)), attrs, None, np.arange(2)).unmatched == "", "integers are indices"
    assert "head_rows" not in relabelled({"model": "m"})

"""Matches the classes of the data to the rows of a network's last linear layer, or says why they can't be matched.

The rows of a head are in the order of the classes that the network was trained on; labels are in the order of the data set.
They are matched

    by name       if the names of the rows are known: WordNet ids, or one of a row's readable names;
    by index      if labels are plain integers, as many as rows;
    by number     if the classes are named by numbers, in numerical order ("10" after "9");
    by order      if classes are named, as many as rows, and the network is not a pretrained one: sorted, as image folders are.

Anything else would be a guess, and comparing a head with permuted classes gives a meaningless number.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from repanalysis.heads.head import Head

__all__ = ["HeadNames", "attribute", "by_class", "matched", "relabelled"]

HeadNames = Sequence[Sequence[str]]  # the names of every row; empty: the order of rows is unknown
Rows = Int64[np.ndarray, " C"]

_ILSVRC = re.compile(r"ILSVRC2012_ID [0-9]+")  # ids of the devkit, whose order is not that of any network
_PRETRAINED = "pretrained"  # stored in a file if its labels are not the classes of its head
_MAX_LENGTH = 60_000  # characters that an HDF5 attribute can hold
_ADVICE = "--head-classes FILE names the rows, one a line"


def matched(
    class_names: Sequence[str] | None, count: int, rows: int, head_names: HeadNames | None = None
) -> tuple[Rows | None, str]:
    """The head's row of each class and how it was matched; or None and the reason.

    Parameters
    ----------
    class_names : sequence of str or None
        Name of class 0, 1, ... of the data; None where labels are plain integers.
    count : int
        Number of classes in the data.
    rows : int
        Number of rows of the head.
    head_names : sequence of sequence of str, optional
        Names of every row. Empty: a pretrained network whose row names are unknown. None: any other network.

    Examples
    --------
    >>> matched(["0", "2", "10"], 3, 12)[0].tolist(), matched(["cat", "dog"], 2, 2)[0].tolist()
    ([0, 2, 10], [0, 1])
    >>> matched(["dog", "cat"], 2, 3, [["cat", "n01"], ["dog", "n02"], ["cow", "n03"]])[0].tolist()
    [1, 0]
    >>> matched(["dog", "cat"], 2, 1000)
    (None, 'the data have 2 classes and the head 1000 rows; --head-classes FILE names the rows, one a line')
    """
    differ = f"the data have {count} classes and the head {rows} rows; {_ADVICE}"
    numbers = _numbers(class_names)
    head_words = {name for names in head_names or () for name in names}
    if class_names is not None and head_words and (numbers is None or head_words.issuperset(class_names)):
        return _by_name(class_names, head_names or ())
    if numbers is not None:
        return _by_number(numbers, rows, differ)
    if reason := _unordered(class_names, pretrained=head_names is not None):
        return None, reason
    if count != rows:
        return None, differ
    how = "by index" if class_names is None else "by order of the names"
    return np.arange(rows), how if class_names is None or list(class_names) == sorted(class_names) else "by the order given"


def attribute(rows: Rows | None, how: str) -> str:
    """The text that a file stores for a match.

    Examples
    --------
    >>> attribute(np.array([3, 1]), "by name"), attribute(np.arange(2), "by name"), attribute(None, "2 classes, 9 rows")
    ('[3, 1]', 'index', 'unmatched: 2 classes, 9 rows')
    """
    if rows is None:
        return f"unmatched: {how}"
    if np.array_equal(rows, np.arange(len(rows))):
        return "index"
    text = json.dumps(rows.tolist())
    return text if len(text) < _MAX_LENGTH else "unmatched: there are too many classes to list them in the file"


def relabelled(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes for a file whose labels are replaced; the stored match belongs to its own labels and is dropped."""
    return dict(attrs) | ({"head_rows": _PRETRAINED} if "head_rows" in attrs else {})


def by_class(
    head: tuple[Any, Any], attrs: Mapping[str, Any], class_names: Sequence[str] | None, labels: NDArray[np.int64]
) -> Head:
    """A recorded head whose row c belongs to class c, or one with the reason why it can't be matched.

    Parameters
    ----------
    head : (weight, bias)
        (K, d) and (K,).
    attrs : mapping
        Attributes of the file, or of the run that would write it.
    class_names : sequence of str or None
        Name of class 0, 1, ...
    labels : (n,) int64 array
        Labels of the samples.
    """
    weight, bias = (np.asarray(part, np.float64) for part in head)
    count = int(labels.max(initial=-1)) + 1 if class_names is None else len(class_names)
    rows, how = _recorded(attrs, class_names, count, len(weight))
    return Head(weight, bias, unmatched=how) if rows is None else Head(weight[rows], bias[rows])


def _recorded(attrs: Mapping[str, Any], class_names: Sequence[str] | None, count: int, rows: int) -> tuple[Rows | None, str]:
    """The match that a file stores, or one from the names of its classes."""
    text = str(attrs.get("head_rows", ""))
    if text.startswith("unmatched: "):
        return None, text.removeprefix("unmatched: ")
    if text == _PRETRAINED:
        return matched(class_names, count, rows, [])
    if text == "index":
        return np.arange(len(class_names) if class_names is not None else rows), "by name"
    if text:
        listed = np.array(json.loads(text), np.int64)
        if listed.ndim == 1 and len(listed) >= count and listed.min(initial=0) >= 0 and listed.max(initial=0) < rows:
            return listed, "by name"
        return None, "the rows that the file lists do not exist in the head"
    return matched(class_names, count, rows)


def _unordered(class_names: Sequence[str] | None, *, pretrained: bool) -> str:
    """Why the order of named classes can't be that of the rows; empty if it may be."""
    if any(_ILSVRC.fullmatch(name) for name in class_names or ()):
        return "the classes are ids of the ILSVRC devkit, whose order is not that of the head; put its meta.mat beside the list"
    if class_names is not None and pretrained:
        return f"the row names of this pretrained head are unknown, so {class_names[0]!r} can't be matched; {_ADVICE}"
    return ""


def _numbers(names: Sequence[str] | None) -> list[int] | None:
    """Names as numbers, or None if one is not a number."""
    if not names or not all(re.fullmatch(r"[0-9]+", name) for name in names):
        return None
    return [int(name) for name in names]


def _by_number(numbers: Sequence[int], rows: int, differ: str) -> tuple[Rows | None, str]:
    """A match of classes that are named by numbers."""
    if len(set(numbers)) < len(numbers):
        return None, "two classes have the same number"
    if list(numbers) != sorted(numbers):
        shown = ", ".join(map(str, numbers[:4]))
        return None, (
            f"the classes are named by numbers but not in numerical order ({shown}, ...): the head may follow either order; "
            f"extract again, or {_ADVICE}"
        )
    if len(numbers) == rows:
        return np.arange(rows), "by number"
    gaps = numbers[-1] - numbers[0] + 1 > len(numbers)
    return (np.array(numbers, np.int64), "by number") if gaps and numbers[-1] < rows else (None, differ)


def _by_name(classes: Sequence[str], head_names: HeadNames) -> tuple[Rows | None, str]:
    """A match of classes by the names of rows."""
    rows_by_name: dict[str, set[int]] = {}
    for row, names in enumerate(head_names):
        for name in names:
            rows_by_name.setdefault(_normalized(name), set()).add(row)
    rows_of = [rows_by_name.get(_normalized(name), set()) for name in classes]
    unknown = [name for name, matches in zip(classes, rows_of, strict=True) if not matches]
    ambiguous = [name for name, matches in zip(classes, rows_of, strict=True) if len(matches) > 1]
    if unknown or ambiguous:
        what = (
            f"{len(unknown)} of {len(classes)} classes have no row in the head" if unknown else "a name belongs to several rows"
        )
        return None, f"{what} ({', '.join((unknown or ambiguous)[:3])}); {_ADVICE}"
    rows = [next(iter(matches)) for matches in rows_of]
    if len(set(rows)) < len(rows):
        return None, "two classes belong to the same row of the head"
    return np.array(rows, np.int64), "by name"


def _normalized(name: str) -> str:
    """A name in lower case, with spaces for punctuation."""
    return re.sub(r"[\W_]+", " ", name).strip().casefold()

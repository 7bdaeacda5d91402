"""Which row of a network's last linear layer each class of the data means; or why that can't be said.

A head's rows are in the order of the classes that the network was trained on. Labels of data are numbered by whoever made the
data. They are matched

    by name       where the names of the rows are known: WordNet ids, or one of a row's readable names;
    by index      where labels are plain integers, as many as rows;
    by number     where the classes are named by numbers: these count, and class "10" comes after "9";
    by order      where classes are named, as many as rows, and the network is no pretrained one: sorted, as image folders are.

What is left would be a guess, and a head that is compared with permuted classes gives a number that means nothing.
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

HeadNames = Sequence[Sequence[str]]  # the names of every row; empty: rows have an order, but nobody knows which
Rows = Int64[np.ndarray, " C"]

_ILSVRC = re.compile(r"ILSVRC2012_ID [0-9]+")  # ids of the devkit, which are in no order of a network's
_PRETRAINED = "pretrained"  # what a file says of the rows of a head whose classes its own labels are not
_LONGEST = 60_000  # what an attribute of a file holds
_ADVICE = "--head-classes FILE names the rows, one a line"


def matched(
    class_names: Sequence[str] | None, count: int, rows: int, head_names: HeadNames | None = None
) -> tuple[Rows | None, str]:
    """The row of the head that each class means, and how it was found; None, and the reason, where none can be said.

    Parameters
    ----------
    class_names : sequence of str or None
        Name of class 0, 1, ... of the data; None where labels are plain integers.
    count : int
        How many classes the data have.
    rows : int
        Rows of the head.
    head_names : sequence of sequence of str, optional
        Names of every row. Empty: the network is a pretrained one whose rows nobody names. None: any other network.

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
    """What a file keeps of a match.

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
    return text if len(text) < _LONGEST else "unmatched: the classes are too many to be listed in the file"


def relabelled(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of a file whose labels are replaced: the match of classes and rows was that of its own labels."""
    return dict(attrs) | ({"head_rows": _PRETRAINED} if "head_rows" in attrs else {})


def by_class(
    head: tuple[Any, Any], attrs: Mapping[str, Any], class_names: Sequence[str] | None, labels: NDArray[np.int64]
) -> Head:
    """A recorded head with row c belonging to class c; or one that says why it can't be matched.

    Parameters
    ----------
    head : (weight, bias)
        (K, d) and (K,).
    attrs : mapping
        Of the file, or of the run that would write it.
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
    """The match of a file of activations: the one that it keeps, or else what its classes say."""
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
        return None, "the rows that the file names are none of the head's"
    return matched(class_names, count, rows)


def _unordered(class_names: Sequence[str] | None, *, pretrained: bool) -> str:
    """Why the order of named classes can't be that of the rows; empty where it may be."""
    if any(_ILSVRC.fullmatch(name) for name in class_names or ()):
        return "the classes are ids of the ILSVRC devkit, whose order is no network's; put its meta.mat beside the list"
    if class_names is not None and pretrained:
        return f"nobody names the rows of this pretrained head, so {class_names[0]!r} can't be found in it; {_ADVICE}"
    return ""


def _numbers(names: Sequence[str] | None) -> list[int] | None:
    """Names as numbers, where all are."""
    if not names or not all(re.fullmatch(r"[0-9]+", name) for name in names):
        return None
    return [int(name) for name in names]


def _by_number(numbers: Sequence[int], rows: int, differ: str) -> tuple[Rows | None, str]:
    """Classes that are named by numbers."""
    if len(set(numbers)) < len(numbers):
        return None, "two classes are named by one number"
    if list(numbers) != sorted(numbers):
        shown = ", ".join(map(str, numbers[:4]))
        return None, (
            f"the classes are named by numbers, and numbered in another order ({shown}, ...): the head may follow either; "
            f"extract again, or {_ADVICE}"
        )
    if len(numbers) == rows:
        return np.arange(rows), "by number"
    gaps = numbers[-1] - numbers[0] + 1 > len(numbers)
    return (np.array(numbers, np.int64), "by number") if gaps and numbers[-1] < rows else (None, differ)


def _by_name(classes: Sequence[str], head_names: HeadNames) -> tuple[Rows | None, str]:
    """Classes whose names are those of rows."""
    places: dict[str, set[int]] = {}
    for row, names in enumerate(head_names):
        for name in names:
            places.setdefault(_plain(name), set()).add(row)
    rows_of = [places.get(_plain(name), set()) for name in classes]
    unknown = [name for name, at in zip(classes, rows_of, strict=True) if not at]
    several = [name for name, at in zip(classes, rows_of, strict=True) if len(at) > 1]
    if unknown or several:
        what = f"{len(unknown)} of {len(classes)} classes are none of its rows" if unknown else "a name means several rows"
        return None, f"{what} ({', '.join((unknown or several)[:3])}); {_ADVICE}"
    rows = [next(iter(at)) for at in rows_of]
    if len(set(rows)) < len(rows):
        return None, "two classes mean one row of the head"
    return np.array(rows, np.int64), "by name"


def _plain(name: str) -> str:
    """A name without what spellings differ in."""
    return re.sub(r"[\W_]+", " ", name).strip().casefold()

"""What stands beside samples: a class of each, or continuous targets; never the one cut to the other.

    integers, text, booleans             classes; text is numbered in the order of `class_order`
    (n, K) with exactly one 1 a row      classes: one-hot
    floats that are all whole            classes, with a note
    other floats, (n,) or (n, t)         continuous targets
    -1, -100, NaN, None, ""              missing: the label is -1, the target is NaN

What is neither is refused with a sentence. Every way in takes this one: files, arrays in memory, loaders and data sets.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from probes.errors import DataError, UsageError

__all__ = [
    "IGNORED", "LABEL_NAMES", "MISSING", "Annotations", "annotated", "as_labels", "class_order", "label_key", "label_keys",
    "split_of",
]  # fmt: skip

MISSING = -1  # the label of a sample without one
IGNORED = (-1, -100)  # what others write for it; -100 is torch's
_EXACT = 2.0**53  # whole floats beyond are not integers any more
_ABSENT = ("", "nan")  # texts that stand for nothing
LABEL_NAMES = ("y", "label", "labels", "target", "targets", "class", "cls")
_SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval")


@dataclass(frozen=True, eq=False)
class Annotations:
    """What is known of n samples.

    Attributes
    ----------
    labels : (n,) int64 array or None
        Classes; -1 where a sample has none.
    targets : (n, t) float64 array or None
        Continuous targets; NaN where a sample has none.
    class_names : list of str or None
        Name of class 0, 1, ...
    target_names : tuple of str
        Names of the columns of `targets`; empty where they have none.
    note : str
        How the values were read, where they could have been read otherwise.
    """

    labels: Int64[np.ndarray, " n"] | None = None
    targets: Float64[np.ndarray, "n t"] | None = None
    class_names: list[str] | None = None
    target_names: tuple[str, ...] = ()
    note: str = ""

    def rows(self, rows: NDArray[np.int64] | slice) -> Annotations:
        """Those of some samples."""
        labels = None if self.labels is None else self.labels[rows]
        targets = None if self.targets is None else self.targets[rows]
        return Annotations(labels, targets, self.class_names, self.target_names, self.note)


def annotated(
    values: Any,
    *,
    what: str = "The labels",
    ignore: Collection[int] = (),
    continuous: bool = False,
    class_names: Sequence[str] | None = None,
    whole: bool = True,
) -> Annotations:
    """Read a column of labels or targets, whatever holds it.

    Parameters
    ----------
    values : object
        Array, tensor, list, pandas Series, Categorical or DataFrame: (n,), (n, 1), one-hot (n, K), or targets (n, t).
    what : str
        What messages call it.
    ignore : collection of int
        Labels that mean "none", besides -1 and -100.
    continuous : bool, default False
        Take numbers for targets, whatever they look like.
    class_names : sequence of str, optional
        Name of class 0, 1, ..., by which text is numbered.
    whole : bool, default True
        Whether these are the labels of all samples; a batch of them does not say whether -1 stands for a class.

    Raises
    ------
    DataError
        If the values are neither, or -1 may be a class or none.

    Examples
    --------
    >>> annotated(["dog", "cat", "dog"]).labels.tolist(), annotated([[0.0, 1.0], [1.0, 0.0]]).labels.tolist()
    ([1, 0, 1], [1, 0])
    >>> annotated([0.9, float("nan")]).targets.tolist(), annotated([2, -100]).labels.tolist()
    ([[0.9], [nan]], [2, -1])
    """
    array, columns, categories = _column(values, what)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or array.shape[1:] == (0,):
        raise DataError(f"{what} have shape {array.shape}; one value a sample is needed, or one-hot rows (n, K).")
    if array.dtype.kind not in "iubfU":
        raise DataError(f"{what} are of type {array.dtype}; integers, text, one-hot rows or numbers are needed.")
    if whole and array.size and _is_absent(array).all():
        raise DataError(f"{what} are all absent (NaN, None or empty).")
    if continuous:
        return _targets(array, columns, what)
    if array.ndim == 2 and array.dtype.kind != "U" and _is_one_hot(array):
        return Annotations(np.argmax(array, axis=1), class_names=_names(class_names or columns))
    if array.ndim == 2 and array.dtype.kind == "f":
        return _targets(array, columns, what)
    if array.ndim == 2:
        raise DataError(
            f"{what} have shape {array.shape}: {array.shape[1]} columns of {_kind(array)} that are not one-hot (one 1 a row). "
            f"Choose one column, or give floats if they are targets."
        )
    if array.dtype.kind == "U":
        return _of_text(array, class_names or categories, what)
    if whole and MISSING not in ignore and np.array_equal(np.unique(array[~_is_nan(array)]), [-1, 1]):
        raise DataError(
            f"{what} are -1 and 1 alone, and -1 means that a sample has no label: number the classes 0 and 1, or say "
            f"--ignore-label=-1 (ignore_labels=[-1]) if it has none."
        )
    if array.dtype.kind == "f":
        return _of_floats(array, columns, what, ignore, class_names)
    names = _names(class_names or categories)
    return Annotations(as_labels(array, what=what, ignore=ignore), class_names=names)


def as_labels(values: NDArray[Any], *, what: str = "The labels", ignore: Collection[int] = ()) -> Int64[np.ndarray, " n"]:
    """Integers as classes 0, 1, ..., and -1 for those that mean "none".

    Raises
    ------
    DataError
        If one is negative otherwise, or too large.

    Examples
    --------
    >>> as_labels(np.array([3, -100, 255]), ignore=[255]).tolist()
    [3, -1, -1]
    """
    if values.dtype.kind == "u" and values.size and values.max() > np.iinfo(np.int64).max:
        raise DataError(f"{what} go up to {values.max()}, which is not a class.")
    labels = np.where(np.isin(values, [*IGNORED, *ignore]), MISSING, values.astype(np.int64))
    if labels.min(initial=0) < MISSING:
        worst = int(labels[labels < MISSING][0])
        raise DataError(
            f"{what} hold {worst}: classes are 0, 1, ..., and -1 and -100 mean none. If {worst} means none, say so with "
            f"--ignore-label={worst} (ignore_labels=[{worst}]); otherwise number the classes from 0."
        )
    return labels


def class_order(names: Iterable[str]) -> list[str]:
    """Names of classes in the order in which they are numbered: all-numeric ones count, others go as text.

    Examples
    --------
    >>> class_order(["10", "9", "0"]), class_order(["b10", "b9", "a"])
    (['0', '9', '10'], ['a', 'b10', 'b9'])
    """
    different = set(names)
    if all(re.fullmatch(r"[0-9]+", name) for name in different):
        return sorted(different, key=lambda name: (int(name), name))
    return sorted(different)


def label_key(
    names: Iterable[str], *, split: str | None = None, where: str = "The file", advice: str = ", or name it: --labels FILE:{}"
) -> str | None:
    """Which of the arrays or columns of a file holds the labels, by name; None if none does.

    `y`, `label(s)`, `target(s)`, `class` and `cls`, in any case, alone or with a split before or after: `train_labels`,
    `y_test`; in a group, `beside/labels`.

    Parameters
    ----------
    names : iterable of str
        What the file has.
    split : str, optional
        The split that is looked for; its own names come before those without a split.
    where : str
        What messages call the file.
    advice : str
        What else can be done where there are several.

    Raises
    ------
    UsageError
        If there are several.

    Examples
    --------
    >>> label_key(["x", "Targets"]), label_key(["x", "train_labels", "y_test"], split="test"), label_key(["fc", "relu"])
    ('Targets', 'y_test', None)
    """
    matches = [(name, of) for name in names if (of := split_of(name, LABEL_NAMES)) is not None]
    own = [name for name, of in matches if split is not None and of == _alias(split)]
    plain = [name for name, of in matches if of == ""]
    other = [name for name, of in matches if of] if split is None else []
    for candidates in (own, plain, other):
        if len(candidates) > 1:
            listed = " and ".join(map(repr, candidates[:3]))
            raise UsageError(f"{where} has {listed}, and each may hold the labels: leave one{advice.format(candidates[0])}.")
        if candidates:
            return candidates[0]
    return None


def _alias(split: str) -> str:
    """A split's name without its longer forms."""
    return {"training": "train", "testing": "test", "valid": "val", "validation": "val"}.get(split.lower(), split.lower())


def label_keys(names: Iterable[str], split: str | None) -> list[str]:
    """The arrays that may hold the labels of a split; of None, those that name no split."""
    return [name for name in names if split_of(name, LABEL_NAMES) == _alias(split or "")]


def split_of(name: str, stems: Collection[str]) -> str | None:
    """The split that an array belongs to, "" if it names none; None if it is called by none of the stems.

    Examples
    --------
    >>> [split_of(name, ["x", "images"]) for name in ("x", "x_val", "train_images", "fc")]
    ['', 'val', 'train', None]
    """
    name = name.lower().rpartition("/")[2]
    head, _, tail = name.partition("_")
    if name in stems:
        return ""
    if tail in stems and head in _SPLITS:
        return _alias(head)
    is_split = tail in _SPLITS or (tail and head in ("x", "y"))
    return _alias(tail) if head in stems and is_split else None


def _column(values: Any, what: str) -> tuple[NDArray[Any], list[str] | None, list[str] | None]:
    """Values as an array of numbers or text, names of its columns, and of its categories, whose codes it then holds."""
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(values, pandas.DataFrame):
        named = [str(name) for name in values.columns] if values.columns.dtype.kind not in "iu" else None
        parts = [_column(values.iloc[:, index], what)[0] for index in range(values.shape[1])]
        return np.stack(parts, axis=1), named, None
    if pandas is not None and isinstance(getattr(values, "dtype", None), pandas.CategoricalDtype):
        categories, codes = list(values.dtype.categories), np.asarray(getattr(values, "cat", values).codes, np.int64)
        if all(isinstance(name, str) for name in categories):
            return codes, None, [str(name) for name in categories]
        values = np.array([None if code < 0 else categories[code] for code in codes], object)
    if hasattr(values, "detach"):  # a tensor, on any device
        values = values.detach().cpu()
        values = values.float() if "bfloat16" in str(values.dtype) else values
    if isinstance(values, np.ma.MaskedArray):
        hidden, values = np.ma.getmaskarray(values), np.array(values.data, object)
        values[hidden] = None
    if isinstance(values, list | tuple):
        values = [item.item() if getattr(item, "ndim", None) == 0 and hasattr(item, "item") else item for item in values]
        if any(item is None for item in values) or len({type(item) is str for item in values}) > 1:
            values = np.array([*values, ()], object)[:-1]  # numpy would make text of numbers beside text
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DataError(f"{what} are a {type(values).__name__} that is not an array ({error}).") from None
    if array.dtype == object or array.dtype.kind == "T":
        array = _of_objects(array.astype(object), what)
    return (np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array), None, None


def _of_objects(array: NDArray[Any], what: str) -> NDArray[Any]:
    """An array of objects as one of text, integers or floats, in which what is absent is "" , -1 or NaN."""
    flat = [item.decode() if isinstance(item, bytes) else item for item in array.reshape(-1).tolist()]
    absent = [item is None or type(item).__name__ in ("NAType", "NaTType") or item != item for item in flat]  # noqa: PLR0124  # NaN
    present = [item for item, gone in zip(flat, absent, strict=True) if not gone]
    kinds: tuple[tuple[Any, Any, Any], ...] = (
        (str, str, ""), (bool | np.bool_ | int | np.integer, np.int64, MISSING), (int | float | np.number, np.float64, np.nan),
    )  # fmt: skip
    for kind, dtype, nothing in kinds:
        if all(isinstance(item, kind) for item in present) and (present or dtype is np.float64):
            values = [nothing if gone else item for item, gone in zip(flat, absent, strict=True)]
            return np.array(values, dtype).reshape(array.shape)
    mixed = sorted({type(item).__name__ for item in present})
    raise DataError(f"{what} hold {' and '.join(mixed)}; give integers, text or floats.")


def _is_one_hot(array: NDArray[Any]) -> bool:
    """Whether every row has one 1, and zeros otherwise."""
    ones = array == 1
    return bool(len(array) and (ones.sum(axis=1) == 1).all() and ((array == 0) | ones).all())


def _of_text(array: NDArray[Any], names: Sequence[str] | None, what: str) -> Annotations:
    """Text as classes."""
    absent = np.isin(array, [text for text in _ABSENT if text not in (names or ())])
    present = sorted(set(array[~absent].tolist()))
    if all(re.fullmatch(r"-?[0-9]+", name) for name in present):
        absent |= np.isin(array, [str(value) for value in IGNORED])
        present = [name for name in present if int(name) not in IGNORED]
    classes = list(names) if names is not None else class_order(present)
    if unknown := [name for name in present if name not in classes]:
        raise DataError(f"{what} hold {unknown[0]!r}, which is none of the class names ({', '.join(classes[:5])}, ...).")
    place = {name: index for index, name in enumerate(classes)}
    labels = np.array([MISSING if gone else place[name] for name, gone in zip(array.tolist(), absent, strict=True)], np.int64)
    return Annotations(labels, class_names=classes)


def _of_floats(
    array: NDArray[Any], columns: list[str] | None, what: str, ignore: Collection[int], names: Sequence[str] | None
) -> Annotations:
    """Floats: classes if all are whole, else continuous targets."""
    finite = _checked(array, what)
    if not np.array_equal(finite, np.trunc(finite)) or np.abs(finite).max(initial=0.0) >= _EXACT:
        return _targets(array, columns, what)
    labels = as_labels(np.where(_is_nan(array), MISSING, array), what=what, ignore=ignore)
    count = len(np.unique(labels[labels >= 0]))
    note = f"{what} are floats, all whole: they are taken for {count} classes; if they are quantities, give them as targets."
    return Annotations(labels, class_names=_names(names), note=note)


def _targets(array: NDArray[Any], columns: Sequence[str] | None, what: str) -> Annotations:
    """Numbers as targets."""
    if array.dtype.kind == "U":
        raise DataError(f"{what} are text; targets are numbers.")
    _checked(array, what)
    targets = array.astype(np.float64)
    return Annotations(targets=targets.reshape(len(targets), -1), target_names=tuple(columns or ()))


def _checked(array: NDArray[Any], what: str) -> NDArray[Any]:
    """The values that are no NaN; raises where one is infinite."""
    present = array[~_is_nan(array)]
    if not np.isfinite(present).all():
        raise DataError(f"{what} hold inf; leave those samples out, or give NaN for them.")
    return present


def _is_absent(array: NDArray[Any]) -> NDArray[np.bool_]:
    return np.isin(array, _ABSENT) if array.dtype.kind == "U" else _is_nan(array)


def _is_nan(array: NDArray[Any]) -> NDArray[np.bool_]:
    return np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, bool)


def _names(names: Sequence[str] | None) -> list[str] | None:
    return None if names is None else [str(name) for name in names]


def _kind(array: NDArray[Any]) -> str:
    return {"U": "text", "b": "booleans"}.get(array.dtype.kind, "integers")

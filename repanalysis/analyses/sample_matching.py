"""The samples that two sources share: those of equal id, unless there is evidence that equal ids are different samples.

Contradicting labels are such evidence. So are different names of data sets or splits, where an id is a position in one of them
or a name below a folder: position 17 of the training images is not position 17 of the test images, and both may hold a
`cat/17.png`. If ids are positions, labels that agree and are not sorted by class are evidence that the samples are the same. If
ids are names, which often contain the class, agreeing labels are no evidence.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import ArrivalOrderWarning, DataError
from probes.ids import are_texts
from probes.source import Source

__all__ = ["shared_ids"]

_MIN_SHARED = 4
_ADVICE = "If they are the same samples nevertheless, pass same_samples=True (--same-samples)."
_ARCHIVES = re.compile(r"(\.tar(\.\w+)?|\.tgz)$")


def shared_ids(first: Source, second: Source, *, same_samples: bool = False) -> NDArray[Any]:
    """Ids of the samples that both sources hold, sorted.

    Parameters
    ----------
    first, second : Source
        Activations.
    same_samples : bool, default False
        Whether to treat equal ids as the same samples, even if labels or names of data sets and splits differ.

    Raises
    ------
    DataError
        If the sources share fewer than 4 ids, or equal ids are, or may be, different samples.

    Warns
    -----
    ArrivalOrderWarning
        If samples are identified only by the order in which the loader yielded them.

    Examples
    --------
    >>> from probes import from_arrays
    >>> a = from_arrays({"x": np.eye(5)}, ids=["a", "b", "c", "d", "e"])
    >>> b = from_arrays({"x": np.eye(5)}, ids=["e", "d", "c", "b", "z"])
    >>> shared_ids(a, b).tolist()
    ['b', 'c', 'd', 'e']
    """
    ids_a, ids_b = first.ids, second.ids
    names = f"{first.name} and {second.name}"
    if are_texts(ids_a) != are_texts(ids_b):
        texts, numbers = (first, second) if are_texts(ids_a) else (second, first)
        raise DataError(
            f"The ids of {texts.name} are names, and those of {numbers.name} are numbers, as in files of older versions. "
            f"Extract both from the same data."
        )
    row_of = {sample: row for row, sample in enumerate(ids_b.tolist())}
    shared = sorted((sample, row, row_of[sample]) for row, sample in enumerate(ids_a.tolist()) if sample in row_of)
    rows_a, rows_b = (np.array([entry[side] for entry in shared], np.int64) for side in (1, 2))
    ids = ids_a[rows_a]
    if len(ids) < _MIN_SHARED:
        raise DataError(
            f"{names} share {len(ids)} sample ids; at least {_MIN_SHARED} are needed. Extract both from the same data."
        )
    if same_samples or second is first:
        return ids
    labels_agree = _refuse_contradictions(first, second, ids, rows_a, rows_b)
    if reason := _reason_to_doubt(first, second, rows_a, rows_b):
        message = f"{names} share {len(ids)} sample ids, but {reason}: equal ids may be different samples."
        if not labels_agree:
            raise DataError(f"{message} {_ADVICE}")
        warnings.warn(f"{message} Their labels agree.", ArrivalOrderWarning, stacklevel=5)
    elif by_arrival := [source.name for source in (first, second) if _id_origin(source) == "arrival"]:
        warnings.warn(
            f"The sample ids of {' and '.join(by_arrival)} are the order in which samples came: equal ids are the same samples "
            f"only if both loaders yield the same samples in the same order.",
            ArrivalOrderWarning,
            stacklevel=5,
        )
    return ids


def _refuse_contradictions(
    first: Source, second: Source, ids: NDArray[Any], rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]
) -> bool:
    """Whether equal labels are evidence that samples of equal id are the same.

    Raises
    ------
    DataError
        If samples of equal id have different labels.
    """
    labels_a, labels_b = first.labels, second.labels
    if labels_a is None or labels_b is None:
        return False
    labels_a, labels_b = labels_a[rows_a], labels_b[rows_b]
    labelled = (labels_a >= 0) & (labels_b >= 0)
    differ = labelled & (labels_a != labels_b)
    if differ.any():
        names_a, names_b = _class_names_of(first, labels_a), _class_names_of(second, labels_b)
        if names_a is not None and names_b is not None:  # the same classes may have other numbers
            differ &= names_a != names_b
    if differ.any():
        row = int(np.flatnonzero(differ)[0])
        labels = [_label_text(source, part[row]) for source, part in ((first, labels_a), (second, labels_b))]
        raise DataError(
            f"{int(differ.sum())} of {len(ids)} samples of equal id have another label in {second.name} than in {first.name} "
            f"({ids[row].item()!r}: {labels[0]} and {labels[1]}): they are not the same samples. Extract both "
            f"from the same data; give ids if a loader shuffles and yields none. {_ADVICE}"
        )
    present = labels_a[labelled]
    k = len(np.unique(present))
    return k > 1 and int(np.count_nonzero(np.diff(present))) >= k  # sorted by class, any data with equal class sizes agree


def _class_names_of(source: Source, labels: NDArray[np.int64]) -> NDArray[Any] | None:
    """Class names of the labels; None if a label has no name."""
    names = source.class_names
    if names is None or not len(labels) or int(labels.max()) >= len(names):
        return None
    return np.asarray(names, dtype=np.str_)[labels]


def _label_text(source: Source, label: int) -> str:
    names = source.class_names
    return str(label) if names is None or label >= len(names) else repr(names[label])


def _id_origin(source: Source) -> str:
    """Origin of the ids; derived from their type for arrays and older files, which do not record it."""
    return str(source.attrs.get("ids_from") or ("name" if are_texts(source.ids) else "index"))


def _reason_to_doubt(first: Source, second: Source, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]) -> str:
    """Why equal ids may be different samples; empty if there is no evidence."""
    origins = {_id_origin(first), _id_origin(second)}
    datasets = [str(source.attrs.get("dataset", "")) if "format_version" in source.attrs else "" for source in (first, second)]
    positions = bool(origins & {"index", "arrival"})
    if all(datasets) and datasets[0] != datasets[1]:
        if positions:
            return f"they are positions in {datasets[0]} and in {datasets[1]}"
        if origins & {"name", "key"} and _base_name(datasets[0]) != _base_name(datasets[1]):
            return f"they are names or keys in {datasets[0]} and in {datasets[1]}"
    split_a, split_b = first.split, second.split
    if positions and split_a is not None and split_b is not None and (differ := split_a[rows_a] != split_b[rows_b]).any():
        row = int(np.flatnonzero(differ)[0])
        return f"they are positions in the splits {split_a[rows_a][row].item()!r} and {split_b[rows_b][row].item()!r}"
    return ""


def _base_name(dataset: str) -> str:
    """Name of a data set without its path and extension: `x` for `imagefolder:/a/x.tar.gz`."""
    return _ARCHIVES.sub("", dataset.replace("\\", "/").rstrip("/").rpartition("/")[2].rpartition(":")[2])

"""Which samples two sources share: those of equal id, unless something says that equal ids are different samples.

Labels that contradict say it. So do data sets or splits of different names, where an id is a position in one of them, or a
name below a folder: position 17 of the training images is not position 17 of the test images, and both may hold a `cat/17.png`.
For positions, labels that agree and are not in the order of the classes are evidence that samples are the same; for names,
which often hold the class, there is none.
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

_FEWEST = 4
_OVERRULE = "If they are the same samples all the same, say so (same_samples=True, --same-samples)."
_ARCHIVES = re.compile(r"(\.tar(\.\w+)?|\.tgz)$")


def shared_ids(first: Source, second: Source, *, same_samples: bool = False) -> NDArray[Any]:
    """Ids that both hold, sorted.

    Parameters
    ----------
    first, second : Source
        Activations.
    same_samples : bool, default False
        Whether equal ids are the same samples, whatever labels, data sets and splits say.

    Raises
    ------
    DataError
        If they share fewer than 4 ids, or equal ids are not, or may not be, the same samples.

    Warns
    -----
    ArrivalOrderWarning
        If only the order in which samples came says which they are.

    Examples
    --------
    >>> from probes import from_arrays
    >>> a = from_arrays({"x": np.eye(5)}, ids=["a", "b", "c", "d", "e"])
    >>> b = from_arrays({"x": np.eye(5)}, ids=["e", "d", "c", "b", "z"])
    >>> shared_ids(a, b).tolist()
    ['b', 'c', 'd', 'e']
    """
    ours, theirs = first.ids, second.ids
    names = f"{first.name} and {second.name}"
    if are_texts(ours) != are_texts(theirs):
        texts, numbers = (first, second) if are_texts(ours) else (second, first)
        raise DataError(
            f"The samples of {texts.name} have names, and those of {numbers.name} have numbers, as in files of older "
            f"versions: extract both from the same data."
        )
    row_of = {sample: row for row, sample in enumerate(theirs.tolist())}
    both = sorted((sample, row, row_of[sample]) for row, sample in enumerate(ours.tolist()) if sample in row_of)
    rows_a, rows_b = (np.array([entry[side] for entry in both], np.int64) for side in (1, 2))
    ids = ours[rows_a]
    if len(ids) < _FEWEST:
        raise DataError(f"{names} share {len(ids)} sample ids; at least {_FEWEST} are needed. Extract both from the same data.")
    if same_samples or second is first:
        return ids
    agreed = _refuse_contradictions(first, second, ids, rows_a, rows_b)
    if reason := _doubt(first, second, rows_a, rows_b):
        sentence = f"{names} share {len(ids)} sample ids, but {reason}: equal ids may be different samples."
        if not agreed:
            raise DataError(f"{sentence} {_OVERRULE}")
        warnings.warn(f"{sentence} Their labels agree.", ArrivalOrderWarning, stacklevel=5)
    elif arrived := [source.name for source in (first, second) if _origin(source) == "arrival"]:
        warnings.warn(
            f"The sample ids of {' and '.join(arrived)} are the order in which samples came: they are the same samples only if "
            f"both loaders gave the same ones in the same order.",
            ArrivalOrderWarning,
            stacklevel=5,
        )
    return ids


def _refuse_contradictions(
    first: Source, second: Source, ids: NDArray[Any], rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]
) -> bool:
    """Raise where samples of equal id have different labels; whether equal labels say that samples are the same."""
    labels_a, labels_b = first.labels, second.labels
    if labels_a is None or labels_b is None:
        return False
    labels_a, labels_b = labels_a[rows_a], labels_b[rows_b]
    labelled = (labels_a >= 0) & (labels_b >= 0)
    differ = labelled & (labels_a != labels_b)
    if differ.any():
        ours, theirs = _named(first, labels_a), _named(second, labels_b)
        if ours is not None and theirs is not None:  # the same classes may be numbered otherwise
            differ &= ours != theirs
    if differ.any():
        row = int(np.flatnonzero(differ)[0])
        labels = [_shown(source, part[row]) for source, part in ((first, labels_a), (second, labels_b))]
        raise DataError(
            f"{int(differ.sum())} of {len(ids)} samples of equal id have another label in {second.name} than in {first.name} "
            f"({ids[row].item()!r}: {labels[0]} and {labels[1]}): they are not the same samples. Extract both "
            f"from the same data; where a loader gives no ids and shuffles, give ids. {_OVERRULE}"
        )
    present = labels_a[labelled]
    k = len(np.unique(present))
    return k > 1 and int(np.count_nonzero(np.diff(present))) >= k  # in the order of classes, any data of equal sizes agree


def _named(source: Source, labels: NDArray[np.int64]) -> NDArray[Any] | None:
    """Names of labels; None where some have none."""
    names = source.class_names
    if names is None or not len(labels) or int(labels.max()) >= len(names):
        return None
    return np.asarray(names, dtype=np.str_)[labels]


def _shown(source: Source, label: int) -> str:
    names = source.class_names
    return str(label) if names is None or label >= len(names) else repr(names[label])


def _origin(source: Source) -> str:
    """Where ids come from; of older files and of arrays, which do not say it, their kind tells."""
    return str(source.attrs.get("ids_from") or ("name" if are_texts(source.ids) else "index"))


def _doubt(first: Source, second: Source, rows_a: NDArray[np.int64], rows_b: NDArray[np.int64]) -> str:
    """Why equal ids may be different samples; empty where nothing says so."""
    origins = {_origin(first), _origin(second)}
    datasets = [str(source.attrs.get("dataset", "")) if "format_version" in source.attrs else "" for source in (first, second)]
    positions = bool(origins & {"index", "arrival"})
    if all(datasets) and datasets[0] != datasets[1]:
        if positions:
            return f"they are positions in {datasets[0]} and in {datasets[1]}"
        if origins & {"name", "key"} and _last(datasets[0]) != _last(datasets[1]):
            return f"they are names or keys in {datasets[0]} and in {datasets[1]}"
    ours, theirs = first.split, second.split
    if positions and ours is not None and theirs is not None and (differ := ours[rows_a] != theirs[rows_b]).any():
        row = int(np.flatnonzero(differ)[0])
        return f"they are positions in the splits {ours[rows_a][row].item()!r} and {theirs[rows_b][row].item()!r}"
    return ""


def _last(dataset: str) -> str:
    """What a data set is called wherever it lies: `imagefolder:/a/x.tar.gz` is `x`."""
    return _ARCHIVES.sub("", dataset.replace("\\", "/").rstrip("/").rpartition("/")[2].rpartition(":")[2])

"""Interpretation of a file's arrays as layers, labels, ids and splits; the number of samples; the order of layers.

- Labels, ids and splits are recognized by name: labels by `probes.labels.label_key`, ids by `id`, `ids`, `index` or
  `sample_id`,
  splits by `split`, names of classes by `class_names`. `target` or `targets` are continuous targets if another array has a name
  of labels.
- The samples are along the first axis. Their number n is the most frequent length of the arrays. If two lengths are equally
  frequent, n is that of labels and ids; if these do not decide, the file is refused.
- Arrays of another length, or that hold no numbers, are skipped with the reason and a warning. Labels, ids or splits of another
  length are an error.
- Layers are in the order of the file if it stores one, otherwise in the natural order of their names (layer2 before layer10).
  `layer_order` in the provenance states which.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.batch import LayerInfo
from probes.errors import DataError, FormatError, UsageError
from probes.features.rows import Rows, unfit
from probes.labels import LABEL_NAMES, label_key, split_of

__all__ = ["Content", "Layout", "info_of", "is_annotation", "laid_out"]

_TARGETS = ("target", "targets")
_IDS = ("id", "ids", "index", "sample_id", "sample_ids")
_SPLITS = ("split", "splits")
_NAMES = ("class_names",)
_TARGET_NAMES = ("target_name", "target_names")
_DATA_SET = re.compile(r"(?i)[xy]_(train|test|val|valid|dev)|(train|test|val|valid|dev)_[xy]")
_PARAMETER = re.compile(r"(.*[./])?(weight|bias|running_mean|running_var|num_batches_tracked)")
_TUPLES = ("dims", "source_shape", "source_dims")


@dataclass(frozen=True)
class Content:
    """The content of a file.

    Attributes
    ----------
    arrays : mapping of str to Rows
        Arrays that may be layers, or labels, targets, ids, splits or names, in the order of the file.
    columns : mapping of str to array
        `labels`, `targets`, `target_names`, `ids`, `split` or `class_names`, if the file's format identifies them; otherwise
        they are found among `arrays` by name.
    info : mapping of str to LayerInfo
        Descriptions of layers that the file contains.
    attrs : mapping
        Provenance that the file contains.
    ordered : bool
        Whether the file stores the order in which its arrays were written.
    skipped : mapping of str to str
        Arrays that can't be used, each with the reason.
    """

    arrays: Mapping[str, Rows]
    columns: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, LayerInfo] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    ordered: bool = True
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """Layers in order, the labels, targets, ids, splits and names of the n samples, and the skipped arrays."""

    n: int
    rows: Mapping[str, Rows]
    info: Mapping[str, LayerInfo]
    columns: Mapping[str, NDArray[Any]]
    skipped: Mapping[str, str]
    order: str


def is_annotation(name: str) -> bool:
    """Whether an array of that name holds labels, targets, ids, splits or names, and so is not a layer."""
    annotation_names = (*_IDS, *_SPLITS, *_NAMES, *_TARGET_NAMES)
    return split_of(name, LABEL_NAMES) is not None or _last(name).lower() in annotation_names


def laid_out(content: Content, path: Path) -> Layout:
    """Separate layers from labels, targets, ids, splits and names; see the module.

    Raises
    ------
    UsageError, DataError, FormatError
        If several arrays may be the labels or the ids, lengths differ, no array can be a layer, or the file holds a data set or
        the weights of a network.
    """
    where = str(path)
    if sets := [name for name in content.arrays if _DATA_SET.fullmatch(_last(name))]:
        raise DataError(f"{where} holds a data set ({', '.join(sets[:4])}), not features: `extract --data npz:{where}`.")
    parameters = [name for name in content.arrays if _PARAMETER.fullmatch(name)]
    if 2 * len(parameters) > len(content.arrays):
        raise DataError(
            f"{where} holds the weights of a network ({parameters[0]}, ...), not features: `extract MODEL --weights {where}`."
        )
    columns = _annotations(content, where)
    skipped = dict(content.skipped)
    candidates: dict[str, Rows] = {}
    for name, rows in content.arrays.items():
        if is_annotation(name):
            continue
        if reason := unfit(rows):
            skipped[name] = reason
        else:
            candidates[name] = rows
    lengths: dict[str, int] = {}
    for key in ("labels", "targets", "ids", "split"):
        if key in columns and np.ndim(columns[key]):
            lengths[key] = len(columns[key])
    n = _samples({name: rows.shape[0] for name, rows in candidates.items()}, lengths, where, skipped)
    for key, length in lengths.items():
        if length != n:
            raise DataError(f"{where} has {n:,} rows of features and {length:,} {key}; each sample needs one.")
    layers = {name: rows for name, rows in candidates.items() if rows.shape[0] == n}
    skipped |= {name: _misfit(rows, n) for name, rows in candidates.items() if name not in layers}
    order = "as written" if content.ordered else "natural order of the names: the file keeps none"
    names = list(layers) if content.ordered else sorted(layers, key=_natural)
    if layers.keys() <= content.info.keys():
        order, names = "as described", sorted(layers, key=lambda name: content.info[name].order)
    info = {name: content.info.get(name) or _info(name, layers[name], place, len(names)) for place, name in enumerate(names)}
    return Layout(n, {name: layers[name] for name in names}, info, columns, skipped, order)


def _misfit(rows: Rows, n: int) -> str:
    """Why an array can't be a layer of n samples."""
    advice = ""
    if n in rows.shape:
        advice = f"; its axis {rows.shape.index(n)} has: if that one counts the samples, transpose it"
    return f"its first axis has {rows.shape[0]:,} entries, not {n:,}, as samples have{advice}"


def _annotations(content: Content, where: str) -> dict[str, Any]:
    """Labels, targets, ids, splits and names, by these keys."""
    columns = dict(content.columns)
    label_names = [name for name in content.arrays if split_of(name, LABEL_NAMES) is not None]
    targets = [name for name in label_names if _last(name).lower() in _TARGETS]
    names: dict[str, str | None] = {}
    for key, candidates in (("ids", _IDS), ("split", _SPLITS), ("class_names", _NAMES), ("target_names", _TARGET_NAMES)):
        names[key] = _only_match(content.arrays, candidates, key, where)
    has_target_names = "target_names" in columns or names["target_names"] is not None
    if len(targets) == 1 and (len(label_names) > 1 or "labels" in columns or has_target_names):
        names["targets"] = targets[0]
        label_names.remove(targets[0])
    names["labels"] = label_key(label_names, where=where, advice="")
    return {key: np.asarray(content.arrays[name][:]) for key, name in names.items() if name is not None} | columns


def _samples(lengths: Mapping[str, int], annotation_lengths: Mapping[str, int], where: str, skipped: Mapping[str, str]) -> int:
    """The number of samples, from the lengths of layers, and of labels, targets, ids and splits if these do not decide."""
    if not lengths:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:3])
        raise DataError(f"{where} holds no array that can be a layer{f' ({reasons})' if reasons else ''}.")
    votes = Counter(lengths.values())
    most = max(votes.values())
    winners = [length for length, count in votes.items() if count == most]
    if len(winners) > 1:
        preferred = set(annotation_lengths.values())
        winners = [length for length in winners if length in preferred] or winners
    if len(winners) > 1:
        examples = ", ".join(f"{name}: {length:,}" for name, length in list(lengths.items())[:4])
        raise DataError(
            f"{where} does not say how many samples there are: its arrays have different numbers of rows ({examples}). Keep "
            f"those of one row per sample, or add their labels or ids."
        )
    if not winners[0]:
        raise DataError(f"{where} holds no samples: its arrays have no rows.")
    return winners[0]


def _only_match(names: Iterable[str], candidates: Iterable[str], kind: str, where: str) -> str | None:
    """The one name that is among the candidates, None without any; raises `UsageError` if there are several."""
    matches = [name for name in names if _last(name).lower() in candidates]
    if len(matches) > 1:
        raise UsageError(f"{where} has {' and '.join(map(repr, matches[:3]))}, and each may hold the {kind}: leave one.")
    return matches[0] if matches else None


def _last(name: str) -> str:
    """A name without its groups."""
    return name.rpartition("/")[2]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts numbers within names by value.

    Examples
    --------
    >>> sorted(["layer10", "layer2", "fc"], key=_natural)
    ['fc', 'layer2', 'layer10']
    """
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _info(name: str, rows: Rows, place: int, count: int) -> LayerInfo:
    """The default description of a layer that the file does not describe."""
    shape = tuple(int(size) for size in rows.shape[1:])
    dims = ("sample", "channel", *(f"axis{axis}" for axis in range(2, len(shape) + 1)))
    dtype = rows.dtype if isinstance(rows.dtype, str) else np.dtype(rows.dtype).name
    return LayerInfo(
        name, place, (place + 1) / count, dims[: max(2, len(shape) + 1)], source_shape=shape or (1,), dtype_source=dtype
    )


def info_of(fields: Mapping[str, Any], where: str) -> LayerInfo:
    """The `LayerInfo` from its fields, as `probes.export` writes them.

    Raises
    ------
    FormatError
        If they are invalid.
    """
    try:
        values = {key: np.asarray(value).item() for key, value in fields.items() if key in LayerInfo.__dataclass_fields__}
        values |= {key: tuple(json.loads(values[key])) for key in _TUPLES if key in values}
        return LayerInfo(**values)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{where} contains an invalid description of a layer ({error}).") from error

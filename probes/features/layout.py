"""What the arrays of a file are: layers, labels, ids, splits; which axis counts the samples; in which order layers come.

- Labels are what is called so (`probes.labels.label_key`), ids `id`, `ids`, `index`, `sample_id`; splits `split`; `class_names`
  are names. Where something else is called labels, `target` or `targets` are continuous targets.
- The samples are the first axis. Their number n is the length that most arrays share there; where two lengths are shared by
  equally many, that of labels and ids; where that does not decide, the file is refused.
- What has another length, or holds no numbers, is left out, with the reason and a warning. Labels, ids or splits of another
  length are an error.
- Layers come in the order of the file, where it keeps one; otherwise in the natural order of their names (layer2 before
  layer10), and `layer_order` says so.
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

__all__ = ["Content", "Layout", "info_of", "is_beside", "laid_out"]

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
    """What a file holds.

    Attributes
    ----------
    arrays : mapping of str to Rows
        Whatever may be a layer or stand beside the samples, in the order of the file.
    columns : mapping of str to array
        What the kind of file says is `labels`, `targets`, `target_names`, `ids`, `split` or `class_names`; the others are
        found by name.
    info : mapping of str to LayerInfo
        Layers that the file itself describes.
    attrs : mapping
        Provenance that it holds.
    ordered : bool
        Whether it keeps the order in which it was written.
    left_out : mapping of str to str
        What can be none of all that, each with the reason.
    """

    arrays: Mapping[str, Rows]
    columns: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, LayerInfo] = field(default_factory=dict)
    attrs: Mapping[str, Any] = field(default_factory=dict)
    ordered: bool = True
    skipped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """Layers in order, what stands beside the n samples, and what was left out."""

    n: int
    rows: Mapping[str, Rows]
    info: Mapping[str, LayerInfo]
    columns: Mapping[str, NDArray[Any]]
    skipped: Mapping[str, str]
    order: str


def is_beside(name: str) -> bool:
    """Whether an array of that name is labels, targets, ids, splits or names, and no layer."""
    others = (*_IDS, *_SPLITS, *_NAMES, *_TARGET_NAMES)
    return split_of(name, LABEL_NAMES) is not None or _last(name).lower() in others


def laid_out(content: Content, path: Path) -> Layout:
    """Tell layers from what stands beside the samples; see the module.

    Raises
    ------
    UsageError, DataError, FormatError
        If several arrays may be the labels, or the ids, lengths do not fit, no array can be a layer, or the file holds
        something else: a data set, or the weights of a network.
    """
    where = str(path)
    if sets := [name for name in content.arrays if _DATA_SET.fullmatch(_last(name))]:
        raise DataError(f"{where} holds a data set ({', '.join(sets[:4])}), not features: `extract --data npz:{where}`.")
    parameters = [name for name in content.arrays if _PARAMETER.fullmatch(name)]
    if 2 * len(parameters) > len(content.arrays):
        raise DataError(
            f"{where} holds the weights of a network ({parameters[0]}, ...), not features: `extract MODEL --weights {where}`."
        )
    columns = _beside(content, where)
    skipped = dict(content.skipped)
    candidates: dict[str, Rows] = {}
    for name, rows in content.arrays.items():
        if is_beside(name):
            continue
        if reason := unfit(rows):
            skipped[name] = reason
        else:
            candidates[name] = rows
    beside: dict[str, int] = {}
    for key in ("labels", "targets", "ids", "split"):
        if key in columns and np.ndim(columns[key]):
            beside[key] = len(columns[key])
    n = _samples({name: rows.shape[0] for name, rows in candidates.items()}, beside, where, skipped)
    for key, length in beside.items():
        if length != n:
            raise DataError(f"{where} has {n:,} rows of features and {length:,} {key}; each sample needs one.")
    layers = {name: rows for name, rows in candidates.items() if rows.shape[0] == n}
    skipped |= {name: _misfit(rows, n) for name, rows in candidates.items() if name not in layers}
    order = "as written" if content.ordered else "natural order of the names: the file keeps none"
    names = list(layers) if content.ordered else sorted(layers, key=_natural)
    if layers.keys() <= content.info.keys():
        order, names = "as described", sorted(layers, key=lambda name: content.info[name].order)
    described = {
        name: content.info.get(name) or _info(name, layers[name], place, len(names)) for place, name in enumerate(names)
    }
    return Layout(n, {name: layers[name] for name in names}, described, columns, skipped, order)


def _misfit(rows: Rows, n: int) -> str:
    """Why an array can't be a layer of n samples."""
    turned = ""
    if n in rows.shape:
        turned = f"; its axis {rows.shape.index(n)} has: if that one counts the samples, transpose it"
    return f"its first axis has {rows.shape[0]:,} entries, not {n:,}, as samples have{turned}"


def _beside(content: Content, where: str) -> dict[str, Any]:
    """What stands beside the samples, by kind."""
    columns = dict(content.columns)
    called = [name for name in content.arrays if split_of(name, LABEL_NAMES) is not None]
    targets = [name for name in called if _last(name).lower() in _TARGETS]
    names: dict[str, str | None] = {}
    for key, candidates in (("ids", _IDS), ("split", _SPLITS), ("class_names", _NAMES), ("target_names", _TARGET_NAMES)):
        names[key] = _named(content.arrays, candidates, key, where)
    named = "target_names" in columns or names["target_names"] is not None
    if len(targets) == 1 and (len(called) > 1 or "labels" in columns or named):
        names["targets"] = targets[0]
        called.remove(targets[0])
    names["labels"] = label_key(called, where=where, advice="")
    return {key: np.asarray(content.arrays[name][:]) for key, name in names.items() if name is not None} | columns


def _samples(lengths: Mapping[str, int], beside: Mapping[str, int], where: str, skipped: Mapping[str, str]) -> int:
    """The number of samples, by the lengths of the arrays' first axes."""
    if not lengths:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:3])
        raise DataError(f"{where} holds no array that can be a layer{f' ({reasons})' if reasons else ''}.")
    votes = Counter(lengths.values())
    most = max(votes.values())
    winners = [length for length, count in votes.items() if count == most]
    if len(winners) > 1:
        columns = set(beside.values())
        winners = [length for length in winners if length in columns] or winners
    if len(winners) > 1:
        shown = ", ".join(f"{name}: {length:,}" for name, length in list(lengths.items())[:4])
        raise DataError(
            f"{where} does not say how many samples there are: its arrays have different numbers of rows ({shown}). Keep "
            f"those of one row per sample, or add their labels or ids."
        )
    if not winners[0]:
        raise DataError(f"{where} holds no samples: its arrays have no rows.")
    return winners[0]


def _named(names: Iterable[str], candidates: Iterable[str], what: str, where: str) -> str | None:
    matches = [name for name in names if _last(name).lower() in candidates]
    if len(matches) > 1:
        raise UsageError(f"{where} has {' and '.join(map(repr, matches[:3]))}, and each may hold the {what}: leave one.")
    return matches[0] if matches else None


def _last(name: str) -> str:
    """A name without the groups that it is in."""
    return name.rpartition("/")[2]


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts numbers within names as numbers.

    Examples
    --------
    >>> sorted(["layer10", "layer2", "fc"], key=_natural)
    ['fc', 'layer2', 'layer10']
    """
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def _info(name: str, rows: Rows, place: int, count: int) -> LayerInfo:
    """What is known of a layer that nothing describes."""
    shape = tuple(int(size) for size in rows.shape[1:])
    dims = ("sample", "channel", *(f"axis{axis}" for axis in range(2, len(shape) + 1)))
    dtype = rows.dtype if isinstance(rows.dtype, str) else np.dtype(rows.dtype).name
    return LayerInfo(
        name, place, (place + 1) / count, dims[: max(2, len(shape) + 1)], source_shape=shape or (1,), dtype_source=dtype
    )


def info_of(described: Mapping[str, Any], where: str) -> LayerInfo:
    """The `LayerInfo` that an export of ours wrote, field by field.

    Raises
    ------
    FormatError
        If it is none.
    """
    try:
        values = {key: np.asarray(value).item() for key, value in described.items() if key in LayerInfo.__dataclass_fields__}
        values |= {key: tuple(json.loads(values[key])) for key in _TUPLES if key in values}
        return LayerInfo(**values)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{where} describes a layer in a way that is not understood ({error}).") from error

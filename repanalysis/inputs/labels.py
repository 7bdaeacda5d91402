"""`--labels FILE`: labels or targets in a separate file, matched to samples by id or by order.

    .npy            an array; matched by order
    .npz            an array, by its name or FILE:NAME; beside an array `ids`, matched by id
    .csv .tsv       a column, by its name or FILE:COLUMN; beside a column `id`, `file_name`, `path`, ..., matched by id
    .jsonl          the same, an object a line
    others          text, one label a line; matched by order

Matching by order needs as many values as samples. Ids are compared as text: they are equal, or one is the end of the other's
path (`cat/1.png` is `val/cat/1.png`), with or without the ending.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import DataError, FormatError, UsageError, did_you_mean
from probes.labels import Annotations, annotated, label_key

__all__ = ["Column", "aligned", "column_of", "label_file", "label_key"]

_IDS = ("id", "ids", "file_name", "filename", "file", "path", "image", "image_id", "name", "key", "__key__")
_ABSENT = ("", "nan", "na", "n/a", "none", "null")
_TABLES = {".csv": ",", ".tsv": "\t"}
_BINARY = (".npy", ".npz")


@dataclass(frozen=True, eq=False)
class Column:
    """Values of samples, as stored in a file.

    Attributes
    ----------
    where : str
        Name of the file in messages.
    values : object
        Input of `probes.labels.annotated`.
    ids : list of str or None
        Ids of the samples; None if the values are in the order of the samples.
    by : str
        Name of the column of ids.
    """

    where: str
    values: Any
    ids: list[str] | None = None
    by: str = ""


def label_file(text: str) -> Column:
    """The column of `FILE` or `FILE:COLUMN`; several columns of targets by `FILE:A,B`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError, UsageError
        If it can't be read, or the column of labels is ambiguous.
    """
    path, name = Path(text), ""
    if not path.exists():
        head, _, name = text.rpartition(":")
        path = Path(head or text)
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    return column_of(path.read_bytes(), str(path), name)


def column_of(content: bytes, where: str, name: str = "") -> Column:
    """The column of a file's content.

    Parameters
    ----------
    content : bytes
        Content of the file.
    where : str
        Name of the file; the ending determines its type.
    name : str
        Column, or several separated by commas; by default the one with a name of labels.
    """
    ending = PurePosixPath(where).suffix.lower()
    if ending in _BINARY:
        return _of_arrays(content, where, name)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where} is not text in UTF-8 ({error}).") from error
    if ending == ".jsonl":
        return _of_table(_objects(text, where), where, name)
    if ending in _TABLES:
        rows = list(csv.reader(StringIO(text), delimiter=_TABLES[ending]))
        rows = [row for row in rows if row]
        if rows and len(rows[0]) == 1 and label_key(rows[0]) is None and not name:
            return Column(where, typed([row[0] for row in rows]))
        if not rows or any(len(row) != len(rows[0]) for row in rows):
            raise FormatError(f"{where} is not a table: its rows are of different lengths, or it has none.")
        columns = {title.strip(): [row[index] for row in rows[1:]] for index, title in enumerate(rows[0])}
        return _of_table(columns, where, name)
    if name:
        raise UsageError(f"{where} is read as one label a line and has no column {name!r}; write --labels {where}.")
    return Column(where, typed(text.rstrip("\r\n").splitlines()))


def typed(values: Sequence[Any]) -> NDArray[Any]:
    """Texts as integers, as floats, or unchanged; None for empty texts.

    Examples
    --------
    >>> typed(["3", "", "07"]).tolist(), typed(["0.5", "1"]).tolist(), typed(["cat", "nan"]).tolist()
    ([3, None, 7], [0.5, 1.0], ['cat', None])
    """
    stripped = [value.strip() if isinstance(value, str) else value for value in values]
    values_typed = [None if isinstance(value, str) and value.lower() in _ABSENT else value for value in stripped]
    texts = [value for value in values_typed if isinstance(value, str)]
    for kind, pattern in ((int, r"[+-]?\d+"), (float, r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")):
        if texts and all(re.fullmatch(pattern, value, re.ASCII) for value in texts):
            values_typed = [kind(value) if isinstance(value, str) else value for value in values_typed]
            break
    return np.array([*values_typed, ()], object)[:-1]


def aligned(
    column: Column, ids: NDArray[Any], title: str, *, ignore: Collection[int] = (), continuous: bool = False
) -> tuple[Annotations, str]:
    """Labels or targets of samples, and the way of matching.

    Parameters
    ----------
    column : Column
        As `label_file` returns it.
    ids : (n,) array
        Ids of the samples.
    title : str
        Name of the samples' source in messages.
    ignore, continuous
        As for `probes.labels.annotated`.

    Raises
    ------
    DataError
        If they can't be matched.
    """
    every = annotated(column.values, what=f"The labels of {column.where}", ignore=ignore, continuous=continuous)
    count = len(every.labels if every.labels is not None else every.targets if every.targets is not None else ())
    if column.ids is None:
        if count != len(ids):
            raise DataError(
                f"{column.where} has {count} labels, and {title} has {len(ids)} samples: labels without ids are matched by "
                f"order, which needs one for each. Give a table with a column of ids or names."
            )
        return every, f"{column.where}, by order"
    at = _positions([str(sample) for sample in ids.tolist()], column.ids, column, title)
    lacking = int((at < 0).sum())
    how = f"{column.where}, by {column.by}" + (f"; {lacking} of {len(ids)} samples are not in it" if lacking else "")
    labels = None if every.labels is None else np.where(at < 0, -1, every.labels[at])
    targets = None if every.targets is None else np.where(at[:, None] < 0, np.nan, every.targets[at])
    return Annotations(labels, targets, every.class_names, every.target_names, every.note), how


def _positions(samples: Sequence[str], keys: Sequence[str], column: Column, title: str) -> NDArray[np.int64]:
    """Position of each sample among the keys; -1 if it is missing."""
    keys = [_path(key) for key in keys]
    samples = [_path(sample) for sample in samples]
    at = _matches(samples, keys, column)
    if not (at >= 0).any():
        at = _matches([_without_ending(sample) for sample in samples], [_without_ending(key) for key in keys], column)
    if not (at >= 0).any():
        shown = [f"{names[0]!r}, ..." if names else "none" for names in (keys, samples)]
        raise DataError(
            f"No {column.by} of {column.where} is one of {title}: it has {shown[0]}, and the samples are {shown[1]}"
        )
    numbers = [{int(name) for name in names if re.fullmatch(r"\d+", name)} for names in (samples, keys)]
    if len(numbers[0]) == len(samples) and numbers[1] == {number + 1 for number in numbers[0]}:
        raise DataError(
            f"The ids of {column.where} begin at 1 and those of {title} at 0; number them alike, or leave their column out "
            f"where the order is the same."
        )
    return at


def _matches(samples: Sequence[str], keys: Sequence[str], column: Column) -> NDArray[np.int64]:
    """Positions of keys that equal a name, or one of which is the end of the other's path.

    Raises
    ------
    DataError
        If a key is repeated, or matches two samples.
    """
    ends: dict[str, set[int]] = {}
    whole: dict[str, int] = {}
    for row, key in enumerate(keys):
        if key in whole:
            raise DataError(f"{key!r} stands twice in {column.where}; each sample has one label.")
        whole[key] = row
        for end in _ends(key):
            ends.setdefault(end, set()).add(row)
    at = np.full(len(samples), -1)
    for place, sample in enumerate(samples):
        rows = {whole[sample]} if sample in whole else ends.get(sample, set())
        if len(rows) > 1:
            raise DataError(f"Several rows of {column.where} may be sample {sample!r}; give their whole names.")
        rows = rows or next(({whole[end]} for end in _ends(sample) if end in whole), set())
        at[place] = next(iter(rows), -1)
    used, counts = np.unique(at[at >= 0], return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{keys[used[counts > 1][0]]!r} of {column.where} may be several samples; give their whole names.")
    return at


def _ends(name: str) -> list[str]:
    """The proper ends of a path, longest first."""
    parts = name.split("/")
    return ["/".join(parts[start:]) for start in range(1, len(parts))]


def _path(name: str) -> str:
    """A name in the form of the samples' ids."""
    return name.strip().replace("\\", "/").removeprefix("./")


def _without_ending(name: str) -> str:
    folder, slash, own = name.rpartition("/")
    return folder + slash + (own.partition(".")[0] or own)


def _of_arrays(content: bytes, where: str, name: str) -> Column:
    """An array of a numpy file."""
    try:
        loaded: Any = np.load(BytesIO(content), allow_pickle=False)
        arrays = {"": loaded} if isinstance(loaded, np.ndarray) else {key: loaded[key] for key in loaded.files}
    except (ValueError, OSError, EOFError, KeyError) as error:
        raise FormatError(f"{where} can't be read as plain numpy arrays ({error}).") from error
    if "" in arrays:
        return Column(where, arrays[""])
    key = name or label_key(arrays, where=where) or ""
    if key not in arrays:
        raise UsageError(f"{where} has no array of labels{_named(key, arrays)} Name one: --labels {where}:NAME.")
    ids = next((arrays[candidate].astype(str).tolist() for candidate in _IDS if candidate in arrays), None)
    return Column(where, arrays[key], ids, "id")


def _of_table(columns: Mapping[str, Sequence[Any]], where: str, name: str) -> Column:
    """A column of a table, with the ids beside it."""
    columns_named = [part for part in name.split(",") if part] or [label_key(columns, where=where) or ""]
    if missing := [part for part in columns_named if part not in columns]:
        raise UsageError(f"{where} has no column of labels{_named(missing[0], columns)} Name one: --labels {where}:COLUMN.")
    by = next((key for candidate in _IDS for key in columns if key.lower() == candidate and key not in columns_named), "")
    ids = [str(value) for value in columns[by]] if by else None
    if len(columns_named) == 1:
        return Column(where, typed(columns[columns_named[0]]), ids, by)
    import pandas as pd

    return Column(where, pd.DataFrame({part: _numbers(columns[part], part, where) for part in columns_named}), ids, by)


def _numbers(values: Sequence[Any], name: str, where: str) -> NDArray[np.float64]:
    """One of several columns, as numbers."""
    try:
        return np.array([np.nan if value is None else float(value) for value in typed(values)], np.float64)
    except (TypeError, ValueError):
        raise DataError(f"Column {name!r} of {where} is not a column of numbers; several columns are targets.") from None


def _named(name: str, names: Collection[str]) -> str:
    """Part of a sentence: the existing names."""
    return f"{f' {name!r}' if name else ''}; it has {', '.join(list(names)[:6])}.{did_you_mean(name, names) if name else ''}"


def _objects(text: str, where: str) -> dict[str, list[Any]]:
    """Lines of JSON objects as columns."""
    try:
        rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise FormatError(f"{where} has a line that is no JSON ({error}).") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise FormatError(f"{where} should hold one JSON object a line.")
    return {key: [row.get(key) for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}

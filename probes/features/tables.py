"""`.csv`, `.tsv`, `.txt` and `.parquet`: a sample a row. Columns of numbers are the features of one layer, `features`.

Columns called like labels, ids or splits are that; so is the nameless first column that pandas writes for an index. Files that
`numpy.savetxt` wrote have no header, or one behind `#`. A column of lists of numbers in a parquet file is a layer of its own.
"""

from __future__ import annotations

import csv
import warnings
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import DataError, FormatError, UsageError, reason_of
from probes.features.layout import Content, is_beside
from probes.features.rows import Rows

__all__ = ["read_csv", "read_parquet"]

_MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"]
_LAYER = "features"


def read_csv(path: Path) -> Content:
    """A table in text, its columns separated by commas, semicolons, tabs or blanks."""
    try:
        comments, first, last = _ends(path)
        delimiter = next((mark for mark in (";", ",", "\t") if mark in first), " ")
        fields = _split(first, delimiter)
        headed = not all(_is_number(field) for field in fields)
        named = _split(comments[-1].lstrip("# "), delimiter) if comments else []
        names = fields if headed else named if len(named) == len(fields) else [str(index) for index in range(len(fields))]
        names = [name or ("index" if place == 0 else f"column {place}") for place, name in enumerate(names)]
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"two columns are called {twice[0]!r}")
        if len(_split(last, delimiter)) < len(names):
            raise ValueError(f"its last row has {len(_split(last, delimiter))} of {len(names)} columns: it was cut off")
        frame = _read_text(
            path, sep=r"\s+" if delimiter == " " else delimiter, names=names, skiprows=len(comments) + headed, header=None,
            index_col=False, dtype={name: "str" for name in names if is_beside(name)}, keep_default_na=False,
            skipinitialspace=True, na_values={name: _MISSING for name in names if not is_beside(name)},
            float_precision="round_trip", low_memory=False,
        )  # fmt: skip
    except (ValueError, OSError, csv.Error, UnicodeError) as error:
        raise FormatError(f"{path} can't be read as a table ({reason_of(error).removeprefix('ValueError: ')}).") from error
    columns: dict[str, NDArray[Any]] = {str(name): _plain(frame[name].to_numpy()) for name in frame.columns}
    return _table(columns, {}, path)


def _read_text(path: Path, **options: Any) -> Any:
    """A frame; a row with more columns than the first is an error, not cut."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(path, **options)
        except pd.errors.ParserWarning as error:
            raise ValueError("a row has more columns than the first") from error


def _ends(path: Path) -> tuple[list[str], str, str]:
    """The lines before the table that begin with #, the first line, and the last."""
    with path.open(encoding="utf-8-sig") as file:
        comments = []
        first = file.readline()
        while first.startswith("#"):
            comments.append(first.rstrip("\r\n"))
            first = file.readline()
        if "\0" in first:
            raise ValueError("it holds bytes that are no text")
    size = path.stat().st_size
    with path.open("rb") as raw:
        raw.seek(max(0, size - max(1 << 20, 4 * len(first))))
        lines = raw.read().decode("utf-8", "replace").rstrip("\r\n").splitlines()
    if not first.strip() or not lines:
        raise ValueError("it is empty")
    return comments, first.rstrip("\r\n"), lines[-1]


def _split(line: str, delimiter: str) -> list[str]:
    fields = line.split() if delimiter == " " else next(csv.reader([line], delimiter=delimiter))
    return [field.strip() for field in fields]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _plain(column: NDArray[Any]) -> NDArray[Any]:
    """A column of texts as integers or floats where all of them are."""
    if column.dtype.kind != "O" or not all(isinstance(item, str) for item in column):
        return column
    for kind in (np.int64, np.float64):
        try:
            return np.array([kind(item) for item in column])
        except (ValueError, OverflowError):
            continue
    return column.astype(np.str_)


def read_parquet(path: Path) -> Content:
    """A table as Arrow has it."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UsageError(f"{path} needs pyarrow: pip install 'repanalysis[parquet]'.") from error
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path} can't be read as a parquet file; it is none, or was cut off.") from error
    if twice := [name for name, count in Counter(table.column_names).items() if count > 1]:
        raise FormatError(f"{path} has two columns called {twice[0]!r}.")
    columns: dict[str, NDArray[Any]] = {}
    layers: dict[str, Rows] = {}
    skipped: dict[str, str] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        called = "index" if name.startswith("__index_level_") else name
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            array = _lists(column.combine_chunks())
            if array is None:
                skipped[called] = "its lists have different lengths, or hold no numbers"
            else:
                layers[called] = array
        elif pa.types.is_dictionary(kind):
            columns[called] = column.cast(kind.value_type).to_numpy()
        else:
            columns[called] = column.to_numpy()
    return _table(columns, layers, path, skipped)


def _lists(column: Any) -> NDArray[Any] | None:
    """Lists of equally many numbers as (n, d); nested ones as (n, a, b)."""
    import pyarrow as pa

    sizes: list[int] = []
    count = len(column)
    while pa.types.is_nested(column.type):
        if column.null_count or not hasattr(column, "flatten"):
            return None
        flat = column.flatten()
        if not len(column) or len(flat) % len(column):
            return None
        size = len(flat) // len(column)
        if not pa.types.is_fixed_size_list(column.type) and set(column.value_lengths().unique().to_pylist()) != {size}:
            return None
        sizes.append(size)
        column = flat
    try:
        values = column.to_numpy(zero_copy_only=False)
    except (pa.ArrowException, NotImplementedError):
        return None
    return values.reshape(count, *sizes) if values.dtype.kind in "fiub" else None


def _table(
    columns: dict[str, NDArray[Any]], layers: dict[str, Rows], path: Path, skipped: dict[str, str] | None = None
) -> Content:
    """Columns of numbers joined to a layer; the others beside it."""
    skipped = dict(skipped or {})
    features: list[str] = []
    beside: dict[str, Rows] = {}
    for name, column in columns.items():
        if is_beside(name):
            texts = column.dtype.kind == "O" and all(isinstance(item, str) for item in column)
            beside[name] = column.astype(np.str_) if texts else column
        elif column.dtype.kind in "fiub":
            features.append(name)
        else:
            if problem := _mostly_numbers(column):
                raise DataError(
                    f"Column {name!r} of {path} holds {problem} among numbers; leave the cell empty where one is missing."
                )
            skipped[name] = "it holds text; labels are called so (label, class, target), ids id"
    if features:
        kinds = {columns[name].dtype for name in features}
        dtype = kinds.pop() if len(kinds) == 1 else np.float64
        layers = {_LAYER: np.stack([columns[name].astype(dtype) for name in features], axis=1), **layers}
    return Content(layers | beside, skipped=skipped)


def _mostly_numbers(column: Sequence[Any] | NDArray[Any]) -> str:
    """The first text of a column that holds numbers for the most part, with its row."""
    texts = [str(item) for item in islice(column, 10_000)]
    others = [(row, text) for row, text in enumerate(texts) if not _is_number(text)]
    return f"{others[0][1]!r} (row {others[0][0] + 1})" if others and 2 * len(others) < len(texts) else ""

"""Tables in `.csv`, `.tsv`, `.txt` and `.parquet`: one row per sample; columns of numbers form one layer, `features`.

Labels, ids and splits are recognized by their columns' names. A first column without a name, which pandas writes for an index,
holds ids. Files from `numpy.savetxt` have no header, or one after `#`. In a parquet file each column of lists of numbers is a
separate layer.
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
from probes.features.layout import Content, is_annotation
from probes.features.rows import Rows

__all__ = ["read_csv", "read_parquet"]

_MISSING = ["", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None"]
_LAYER = "features"


def read_csv(path: Path) -> Content:
    """A text table with columns separated by commas, semicolons, tabs or spaces."""
    try:
        comments, first, last = _ends(path)
        delimiter = next((mark for mark in (";", ",", "\t") if mark in first), " ")
        fields = _split(first, delimiter)
        has_header = not all(_is_number(field) for field in fields)
        comment_names = _split(comments[-1].lstrip("# "), delimiter) if comments else []
        default_names = comment_names if len(comment_names) == len(fields) else [str(index) for index in range(len(fields))]
        names = fields if has_header else default_names
        names = [name or ("index" if place == 0 else f"column {place}") for place, name in enumerate(names)]
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"two columns are called {repeated[0]!r}")
        if len(_split(last, delimiter)) < len(names):
            raise ValueError(f"its last row has {len(_split(last, delimiter))} of {len(names)} columns: it was cut off")
        frame = _read_text(
            path, sep=r"\s+" if delimiter == " " else delimiter, names=names, skiprows=len(comments) + has_header, header=None,
            index_col=False, dtype={name: "str" for name in names if is_annotation(name)}, keep_default_na=False,
            skipinitialspace=True, na_values={name: _MISSING for name in names if not is_annotation(name)},
            float_precision="round_trip", low_memory=False,
        )  # fmt: skip
    except (ValueError, OSError, csv.Error, UnicodeError) as error:
        raise FormatError(f"{path} can't be read as a table ({reason_of(error).removeprefix('ValueError: ')}).") from error
    columns: dict[str, NDArray[Any]] = {str(name): _plain(frame[name].to_numpy()) for name in frame.columns}
    return _table(columns, {}, path)


def _read_text(path: Path, **options: Any) -> Any:
    """A data frame; raises `ValueError` if a row has more columns than the first."""
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(path, **options)
        except pd.errors.ParserWarning as error:
            raise ValueError("a row has more columns than the first") from error


def _ends(path: Path) -> tuple[list[str], str, str]:
    """The comment lines before the table, which begin with #, the table's first line, and its last."""
    with path.open(encoding="utf-8-sig") as file:
        comments = []
        first = file.readline()
        while first.startswith("#"):
            comments.append(first.rstrip("\r\n"))
            first = file.readline()
        if "\0" in first:
            raise ValueError("it holds bytes that are not text")
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
    """A column of texts converted to integers or floats if all of them can be."""
    if column.dtype.kind != "O" or not all(isinstance(item, str) for item in column):
        return column
    for kind in (np.int64, np.float64):
        try:
            return np.array([kind(item) for item in column])
        except (ValueError, OverflowError):
            continue
    return column.astype(np.str_)


def read_parquet(path: Path) -> Content:
    """A parquet table."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UsageError(f"{path} needs pyarrow: pip install 'repanalysis[parquet]'.") from error
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path} can't be read as a parquet file; it is none, or was cut off.") from error
    if repeated := [name for name, count in Counter(table.column_names).items() if count > 1]:
        raise FormatError(f"{path} has two columns called {repeated[0]!r}.")
    columns: dict[str, NDArray[Any]] = {}
    layers: dict[str, Rows] = {}
    skipped: dict[str, str] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        key = "index" if name.startswith("__index_level_") else name
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            array = _lists(column.combine_chunks())
            if array is None:
                skipped[key] = "its lists have different lengths, or hold no numbers"
            else:
                layers[key] = array
        elif pa.types.is_dictionary(kind):
            columns[key] = column.cast(kind.value_type).to_numpy()
        else:
            columns[key] = column.to_numpy()
    return _table(columns, layers, path, skipped)


def _lists(column: Any) -> NDArray[Any] | None:
    """Lists of equal length as an array (n, d), nested ones as (n, a, b); None if lengths differ or they hold no numbers."""
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
    """The columns of numbers as one layer; columns of labels, ids and splits separately; other columns skipped."""
    skipped = dict(skipped or {})
    features: list[str] = []
    annotations: dict[str, Rows] = {}
    for name, column in columns.items():
        if is_annotation(name):
            texts = column.dtype.kind == "O" and all(isinstance(item, str) for item in column)
            annotations[name] = column.astype(np.str_) if texts else column
        elif column.dtype.kind in "fiub":
            features.append(name)
        else:
            if text := _text_among_numbers(column):
                raise DataError(
                    f"Column {name!r} of {path} holds {text} among numbers; leave the cell empty where one is missing."
                )
            skipped[name] = "it holds text; a column of labels is named label, class or target, one of ids id"
    if features:
        kinds = {columns[name].dtype for name in features}
        dtype = kinds.pop() if len(kinds) == 1 else np.float64
        layers = {_LAYER: np.stack([columns[name].astype(dtype) for name in features], axis=1), **layers}
    return Content(layers | annotations, skipped=skipped)


def _text_among_numbers(column: Sequence[Any] | NDArray[Any]) -> str:
    """The first text in a column that is mostly numbers, with its row; empty if there is none or the column is mostly text."""
    texts = [str(item) for item in islice(column, 10_000)]
    not_numbers = [(row, text) for row, text in enumerate(texts) if not _is_number(text)]
    if not not_numbers or 2 * len(not_numbers) >= len(texts):
        return ""
    row, text = not_numbers[0]
    return f"{text!r} (row {row + 1})"

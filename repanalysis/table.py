"""`Table`: tidy results, one value per row, and the provenance: how each was computed.

Columns: run, model, layer, order, depth, metric, variant, split, perturbation, strength, value, se, p, tail, n, note. `p` and
`tail` belong to a permutation test and are empty except in the rows of the null distribution. A CSV file has one more column,
`provenance`: JSON in the first row of each run. So any tool can read it, values and provenance stay together, and files can be
concatenated. The key `written` of the JSON is the number of the run's rows, and in the first row of a table that of its runs,
so that a truncated table is refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Self

import pandas as pd

from probes.atomic_files import replacing
from probes.errors import FormatError, UsageError
from repanalysis._checks import one_of

__all__ = ["COLUMNS", "Table", "read_whole_lines"]

COLUMNS = {
    "run": "str",
    "model": "str",
    "layer": "str",
    "order": "int64",
    "depth": "float64",
    "metric": "str",
    "variant": "str",
    "split": "str",
    "perturbation": "str",
    "strength": "float64",
    "value": "float64",
    "se": "float64",
    "p": "float64",
    "tail": "str",
    "n": "int64",
    "note": "str",
}
_ADDED: dict[str, Any] = {"p": float("nan"), "tail": ""}  # columns that tables of earlier versions lack


@dataclass(frozen=True, eq=False)
class Table:
    """Results of one or more runs.

    Parameters
    ----------
    frame : pandas.DataFrame
        One value per row, with the columns of `COLUMNS`.
    provenance : mapping of str to mapping
        By run: source, its attributes, metrics with all parameters, versions, time.

    Examples
    --------
    >>> row = dict(run="a", layer="relu", metric="fisher_ratio", value=1.5, n=10)
    >>> table = Table.from_rows([row], {"a": {"source": "a.h5"}})
    >>> table.select(metric="fisher_ratio").frame["value"].item()
    1.5
    """

    frame: pd.DataFrame
    provenance: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if missing := [column for column in COLUMNS if column not in self.frame and column not in _ADDED]:
            raise FormatError(f"The table lacks the columns {', '.join(missing)}; `repanalysis analyze` writes them.")
        object.__setattr__(self, "frame", _complete(self.frame))

    @classmethod
    def from_rows(cls, rows: Iterable[Mapping[str, Any]], provenance: Mapping[str, Mapping[str, Any]] | None = None) -> Self:
        """A table of rows; missing columns are empty or NaN."""
        blank = {name: "" if kind == "str" else 0 if kind == "int64" else float("nan") for name, kind in COLUMNS.items()}
        frame = pd.DataFrame([blank | dict(row) for row in rows], columns=list(COLUMNS))
        return cls(frame.astype(COLUMNS), provenance or {})

    @classmethod
    def concat(cls, tables: Sequence[Self]) -> Self:
        """The rows of several tables, one after the other.

        Raises
        ------
        UsageError
            If two different runs have the same name.
        """
        provenance: dict[str, Mapping[str, Any]] = {}
        for table in tables:
            for run, facts in table.provenance.items():
                if run in provenance and provenance[run] != facts:
                    raise UsageError(f"Two runs are called {run!r}; give each its own name (run=...).")
                provenance[run] = facts
        return cls(pd.concat([table.frame for table in tables], ignore_index=True), provenance)

    @property
    def failures(self) -> dict[str, str]:
        """Layers that could not be analyzed, each with the reason; prefixed by the run if there are several."""
        several = len(self.provenance) > 1
        failures_by_layer = {}
        for run, facts in self.provenance.items():
            for layer, reason in facts.get("failures", {}).items():
                failures_by_layer[f"{run}, {layer}" if several else layer] = str(reason)
        return failures_by_layer

    @property
    def failure(self) -> str:
        """The number of layers that could not be analyzed, with the first and its reason; empty if there are none."""
        failures = self.failures
        if not failures:
            return ""
        total = len(self.frame[["run", "layer"]].drop_duplicates())
        layer, reason = next(iter(failures.items()))
        first = f"{layer!r}" if len(failures) == 1 else f"{layer!r} first"
        return f"{len(failures)} of {total} layers could not be analyzed, {first}: {reason}"

    def select(self, **equal: Any) -> Self:
        """The rows whose columns have the given value, or one of a list.

        Raises
        ------
        UsageError
            If there is no such column.
        """
        frame = self.frame
        for column, values in equal.items():
            one_of("column", column, COLUMNS)
            frame = frame[frame[column].isin(values if isinstance(values, list | tuple | set) else [values])]
        return type(self)(frame.reset_index(drop=True), self.provenance)

    def __len__(self) -> int:
        return len(self.frame)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """Write a CSV file with all digits of every number."""
        with replacing(path) as draft:
            self._with_provenance().to_csv(draft, index=False)

    def to_parquet(self, path: str | PathLike[str]) -> None:
        """Write a parquet file; needs `pip install repanalysis[parquet]`."""
        try:
            with replacing(path) as draft:
                self._with_provenance().to_parquet(draft, index=False)
        except ImportError as error:
            raise UsageError("Parquet files need pyarrow: pip install 'repanalysis[parquet]', or write a .csv.") from error

    def save(self, path: str | PathLike[str]) -> None:
        """Write CSV or parquet, by the ending of the name."""
        if one_of("table format", Path(path).suffix, (".csv", ".parquet")) == ".csv":
            self.to_csv(path)
        else:
            self.to_parquet(path)

    @classmethod
    def from_csv(cls, path: str | PathLike[str]) -> Self:
        """Read a file of `to_csv`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        FormatError
            If it is not a table of results, or is truncated.
        """
        content = read_whole_lines(path, "table of results")
        try:
            # Read as text first: a layer may have the name "NA", and numbers must keep all digits.
            frame = pd.read_csv(BytesIO(content), dtype="str", keep_default_na=False)
            for column in (name for name, kind in COLUMNS.items() if kind == "float64" and name in frame):
                frame[column] = [float(value or "nan") for value in frame[column]]
        except (ValueError, UnicodeDecodeError) as error:
            raise FormatError(f"{path} is not a table of results: {error}".strip()) from error
        table = cls._from_frame(frame, path)
        if not len(table):
            raise FormatError(f"{path} is not a table of results: it has no rows below its header; it may have been cut.")
        return table

    @classmethod
    def from_parquet(cls, path: str | PathLike[str]) -> Self:
        """Read a file of `to_parquet`; needs `pip install repanalysis[parquet]`."""
        if not Path(path).exists():
            raise FileNotFoundError(f"There is no file {path}.")
        try:
            frame = pd.read_parquet(path)
        except ImportError as error:
            raise UsageError("Parquet files need pyarrow: pip install 'repanalysis[parquet]'.") from error
        except (ValueError, OSError) as error:
            raise FormatError(f"{path} is not a table of results: {error}") from error
        return cls._from_frame(frame, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read CSV or parquet, by the ending of the name."""
        suffix = one_of("table format", Path(path).suffix, (".csv", ".parquet"))
        return cls.from_csv(path) if suffix == ".csv" else cls.from_parquet(path)

    def _with_provenance(self) -> pd.DataFrame:
        frame = self.frame.copy()
        first = ~frame["run"].duplicated()
        counts = {run: {"rows": count} for run, count in Counter(frame["run"]).items()}
        if counts:
            counts[frame["run"].iloc[0]]["runs"] = len(counts)
        facts = {
            run: json.dumps({**self.provenance.get(run, {}), "written": counts[run]}, ensure_ascii=False) for run in counts
        }
        frame["provenance"] = frame["run"].map(facts).where(first, "")
        return frame

    @classmethod
    def _from_frame(cls, frame: pd.DataFrame, path: str | PathLike[str]) -> Self:
        if missing := [column for column in COLUMNS if column not in frame and column not in _ADDED]:
            raise FormatError(f"{path} is not a table of results: it lacks the columns {', '.join(missing)}.")
        provenance: dict[str, Mapping[str, Any]] = {}
        if "provenance" in frame:
            stated_rows = frame[frame["provenance"].fillna("") != ""]
            stated = []
            for run, text in zip(stated_rows["run"], stated_rows["provenance"], strict=True):
                facts, written = _facts(text, path)
                stated.append((run, written))
                if provenance.get(run) and facts and provenance[run] != facts:
                    raise FormatError(
                        f"{path} holds two runs called {run!r} with different provenance; give each its own name (column run)."
                    )
                provenance[run] = provenance.get(run) or facts
            _refuse_missing_rows(stated, Counter(frame["run"]), path)
        frame = _complete(frame)[list(COLUMNS)].copy()
        try:
            return cls(frame.astype(COLUMNS), provenance)
        except ValueError as error:
            raise FormatError(f"{path} is not a table of results: {error}") from error


def read_whole_lines(path: str | PathLike[str], what: str) -> bytes:
    """The content of a text file whose last line is complete.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If the last line is truncated.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no file {path}.") from None
    if not content.endswith(b"\n"):
        raise FormatError(
            f"{path} is not a {what}: its last line has no end, so it is truncated. Write it again, or end it with a line "
            "break if you know that it is complete."
        )
    return content


def _facts(text: str, path: str | PathLike[str]) -> tuple[dict[str, Any], tuple[int, int] | None]:
    """A run's provenance, and the numbers of rows and runs that were written; None in tables of earlier versions."""
    try:
        facts = dict(json.loads(text))
        written = facts.pop("written", None)
        return facts, None if written is None else (int(written["rows"]), int(written.get("runs", 0)))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FormatError(f"{path} is not a table of results: its provenance can't be read ({error!r}).") from error


def _refuse_missing_rows(
    stated: Sequence[tuple[str, tuple[int, int] | None]], rows: Mapping[str, int], path: str | PathLike[str]
) -> None:
    """Raise FormatError if a table has not the numbers of rows and runs that were written."""
    uncounted = {run for run, written in stated if written is None}
    counted = [(run, *written) for run, written in stated if written is not None]
    expected: Counter[str] = Counter()
    for run, count, _ in counted:
        expected[run] += count
    wrong = [run for run in expected if (rows[run] < expected[run] if run in uncounted else rows[run] != expected[run])]
    runs = sum(number for _, _, number in counted)
    if wrong:
        what = f"{rows[wrong[0]]} rows of the run {wrong[0]!r}, and says that there are {expected[wrong[0]]}"
    elif len(counted) != runs:
        what = f"{len(counted)} runs, and says that there are {runs}"
    else:
        return
    raise FormatError(
        f"{path} has {what}: it was cut or changed. Write it again; if rows were left out on purpose, take out its column "
        "provenance as well."
    )


def _complete(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with the columns that earlier versions lack."""
    missing = [name for name in _ADDED if name not in frame]
    frame = frame.copy(deep=False) if missing else frame
    for name in missing:
        frame[name] = _ADDED[name]
    return frame

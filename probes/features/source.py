"""A file of features as a `Source`, whose rows are read on request."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probes.arrays import Arrays, from_arrays
from probes.batch import Batch, LayerInfo
from probes.errors import FormatError, ReportedError, reason_of
from probes.features.layout import Layout
from probes.features.rows import Rows, as_floats
from probes.ids import are_texts, as_ids

__all__ = ["Features", "Stamp"]

_BATCH_BYTES = 32 << 20
_INTEGER = re.compile("0|-?[1-9][0-9]{0,18}")
_EXACT = 2.0**53  # larger floats may differ from the integers they were converted from


class Stamp(NamedTuple):
    """Size and modification time of a file, which identify its version."""

    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file, or of the files in a folder together."""
        parts = [part.stat() for part in (sorted(path.iterdir()) if path.is_dir() else [path])]
        return cls(sum(part.st_size for part in parts), max((part.st_mtime_ns for part in parts), default=0))


class Features(Arrays):
    """Features in a file; made by `probes.open`.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    kind : str
        Kind of the file, for the provenance.
    layout : Layout
        Its layers, labels, targets, ids and splits.
    attrs : mapping
        Provenance that the file contains.
    reopen : callable
        Opens the file again in another process, given its path and stamp.
    close : callable, optional
        Closes the open file.

    Notes
    -----
    It can be pickled: the copy opens the file again, and raises `FormatError` if its size or modification time has changed.
    """

    def __init__(
        self,
        path: Path,
        kind: str,
        layout: Layout,
        attrs: Mapping[str, Any],
        *,
        reopen: Callable[[Path, Stamp], Features],
        close: Callable[[], None] | None = None,
    ) -> None:
        self.path, self.stamp, self._reopen, self._close = path, Stamp.of(path), reopen, close
        self._rows: dict[str, Rows] = dict(layout.rows)
        self._skipped = dict(layout.skipped)
        annotations: dict[str, Any] = dict(layout.columns)
        if "class_names" in annotations:
            annotations["class_names"] = [str(name) for name in annotations["class_names"]]
        if "ids" in annotations:
            annotations["ids"] = _ids(annotations["ids"], str(path))
        if (names := annotations.pop("target_names", None)) is not None and "targets" in annotations:
            annotations["targets"] = _as_frame(annotations["targets"], names)
        with self._wrap_errors():
            columns = from_arrays({"": np.zeros((layout.n, 1), np.int8)}, **annotations)  # checks labels, ids and splits
        modified = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.stamp.modified / 1e9))
        provenance = {
            "features": str(path),
            "kind": kind,
            "bytes": self.stamp.size,
            "modified": modified,
            "layer_order": layout.order,
        }
        super().__init__(columns._whole, columns.class_names, {"dataset": str(path), **attrs, **provenance}, str(path))
        self.info: dict[str, LayerInfo] = dict(layout.info)

    @property
    def skipped(self) -> dict[str, str]:
        """Arrays of the file that can't be used, each with the reason."""
        return dict(self._skipped)

    def __getitem__(self, layer: str) -> NDArray[Any]:
        """All rows of one layer, (n, ...)."""
        self.check_layer(layer)
        return self._read(layer, slice(0, len(self)))

    def take(self, layer: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Selected rows of one layer, (len(rows), ...); each run of consecutive rows is read at once."""
        self.check_layer(layer)
        rows = np.asarray(rows, np.int64)
        if not len(rows):
            return self._read(layer, slice(0, 0))
        order = np.argsort(rows, kind="stable")
        ascending = rows[order]
        cuts = np.flatnonzero(np.diff(ascending) > 1) + 1
        parts = []
        for run in np.split(ascending, cuts):
            part = self._read(layer, slice(int(run[0]), int(run[-1]) + 1))
            parts.append(part[run - run[0]])
        rows_read = np.concatenate(parts)
        result = np.empty_like(rows_read)
        result[order] = rows_read
        return result

    def iter(self, layers: Sequence[str] | None = None, size: int | None = None) -> Iterator[Batch]:
        """Batches of rows, in order; see `Source.iter`."""
        names = self.layers if layers is None else list(layers)
        for name in names:
            self.check_layer(name)
        row_bytes = sum(self._read(name, slice(0, 1)).nbytes for name in names)
        step = size or max(1, _BATCH_BYTES // max(1, row_bytes))
        start = 0
        for batch in super().iter([], step):
            arrays = {name: self._read(name, slice(start, start + len(batch))) for name in names}
            start += len(batch)
            yield replace(batch, layers=arrays, info={name: self.info[name] for name in names}, skipped=self.skipped)

    def close(self) -> None:
        """Close the file."""
        if self._close is not None:
            self._close()

    def _read(self, layer: str, rows: slice) -> NDArray[Any]:
        with self._wrap_errors():
            array = as_floats(self._rows[layer][rows])
        return array[:, None] if array.ndim == 1 else array

    @contextmanager
    def _wrap_errors(self) -> Iterator[None]:
        """Convert any error that a damaged file causes to a `FormatError`."""
        try:
            yield
        except (ReportedError, FileNotFoundError, MemoryError):
            raise
        except Exception as error:
            raise FormatError(f"{self.path} is damaged ({reason_of(error)}); copy it again.") from error

    def __reduce__(self) -> tuple[Any, ...]:
        return self._reopen, (self.path, self.stamp)


def _ids(values: Any, where: str) -> NDArray[Any]:
    """Ids of a file, converted to integers if all are integers written as text or floats, as in tables and AnnData."""
    ids = np.asarray(values)
    if ids.dtype.kind == "f" and ids.size and np.array_equal(ids, np.trunc(ids)) and np.abs(ids).max() <= _EXACT:
        ids = ids.astype(np.int64)
    ids = as_ids(ids, f"The ids of {where}")
    if are_texts(ids) and all(_INTEGER.fullmatch(text) for text in ids.tolist()):
        return as_ids([int(text) for text in ids.tolist()], f"The ids of {where}")
    return ids


def _as_frame(targets: Any, names: Any) -> Any:
    """Targets as a data frame with the names of their columns."""
    import pandas as pd

    targets = np.asarray(targets)
    return pd.DataFrame(targets.reshape(len(targets), -1), columns=[str(name) for name in np.atleast_1d(names)])

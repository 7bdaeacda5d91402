"""The activations file, format v1: one HDF5 file of what a network made of n samples, readable by h5py and xarray alike.

::

    /                 attrs: format, format_version, complete, n_committed, created, model, weights_sha256,
                             preprocessing, dataset, seed, command, versions, left_out
    /obs/id           (sample,) int64         /obs/label (sample,) int64     /obs/split (sample,) UTF-8
    /obs/class_names  (class,) UTF-8
    /layers/<name>/x  (sample, channel, ...)  attrs: name, dims, pool, order, depth, module_type, call_index,
                                                     source_shape, dtype_source
    /stats/<name>/<spec>                      optional saved states

Rows are appended to every dataset first, and `n_committed` moves last: rows past it do not exist. A file is complete,
incomplete and readable up to `n_committed`, or refused with a sentence. `docs/format.md` is the full description.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import h5py
import numpy as np
from numpy.typing import NDArray

from probes.batch import Batch, LayerInfo
from probes.errors import DataError, FormatError, IncompleteError, UsageError, did_you_mean

__all__ = ["COMPRESSIONS", "FORMAT", "FORMAT_VERSION", "Store", "Writer", "create", "refuse_existing"]

FORMAT = "repanalysis-activations"
FORMAT_VERSION = 1
COMPRESSIONS = ("none", "lzf", "gzip")

_CHUNK_BYTES = (2 << 20, 8 << 20)  # the smallest and largest chunk aimed at
_CHUNKS_TOTAL = 128 << 20  # what one chunk of every layer may weigh together: bounds the buffers of a compressed file
_BLOCK_BYTES = 32 << 20  # what one batch of an iteration over the file may weigh
_WAITING_BYTES = 16 << 20  # rows held back so that small batches of many layers do not cost a write each
_COMMIT_SECONDS = 5.0
_DIMENSION = "This is a netCDF dimension but not a netCDF variable. {:>9d}"  # the netCDF-4 mark of a bare dimension


def refuse_existing(path: str | PathLike[str], *, overwrite: bool) -> Path:
    """The path, unless something stands there and may not be overwritten.

    Parameters
    ----------
    path : path-like
        Where something is about to be written.
    overwrite : bool
        Whether a file that stands there may go.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    UsageError
        If it exists and `overwrite` is false, or is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it.")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already; nothing was written. Give another name, or --overwrite to replace it.")
    return path


def create(
    path: str | PathLike[str],
    *,
    attrs: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    compression: str = "none",
    expected: int | None = None,
    overwrite: bool = False,
) -> Writer:
    """Start a new activations file; its layers are those of the first batch that is appended.

    Parameters
    ----------
    path : path-like
        File to write; missing folders are made.
    attrs : mapping, optional
        Provenance, kept as attributes of the file's root; what is not a string or a number is kept as JSON.
    class_names : sequence of str, optional
        Name of class 0, 1, ...
    compression : {"none", "lzf", "gzip"}, default "none"
        `none` is as fast as the disk and, for dense activations, loses little: gzip saves about a tenth of them.
    expected : int, optional
        Number of samples to come, which keeps chunks from being larger than the data.
    overwrite : bool, default False
        Replace a file that exists.

    Returns
    -------
    Writer
        A context manager. Left without an error the file is complete; left by one it is incomplete, and keeps
        every batch that was appended.

    Raises
    ------
    UsageError
        If the path exists and `overwrite` is false, or the compression is unknown.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "acts.h5"
    >>> with create(path) as writer:
    ...     writer.append(Batch(ids=np.arange(2), layers={"relu": np.ones((2, 3), np.float32)}))
    >>> Store(path)["relu"].shape
    (2, 3)
    """
    if compression not in COMPRESSIONS:
        raise UsageError(
            f"Unknown compression {compression!r}.{did_you_mean(compression, COMPRESSIONS)} "
            f"Known are {', '.join(COMPRESSIONS)}."
        )
    path = refuse_existing(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    file = h5py.File(path, "x", rdcc_nbytes=0)  # no chunk cache: rows go straight to the file, memory stays flat
    return Writer(file, attrs or {}, class_names, compression, expected)


class Writer:
    """Appends whole batches to one file; made by `create`."""

    def __init__(
        self,
        file: h5py.File,
        attrs: Mapping[str, Any],
        class_names: Sequence[str] | None,
        compression: str,
        expected: int | None,
    ) -> None:
        self.path = Path(file.filename)
        self.n_written = 0
        self.n_committed = 0
        self._file = file
        self._compression = None if compression == "none" else compression
        self._expected = expected
        self._columns: dict[str, _Column] = {}
        self._layers: dict[str, _Column] = {}
        self._committed_at = monotonic()
        self._waiting = 0
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "complete": 0,
            "n_committed": 0,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            **attrs,
        }
        for key, value in header.items():
            file.attrs[key] = value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)
        _dimension(file, "sample", 0, maxshape=None)
        if class_names is not None:
            _dimension(file, "obs/class", len(class_names))
            names = file.create_dataset("obs/class_names", data=list(class_names), dtype=h5py.string_dtype())
            names.dims[0].attach_scale(file["obs/class"])
        file.flush()

    def append(self, batch: Batch) -> None:
        """Append every row of a batch; the first batch fixes the layers, their shapes and their types.

        Parameters
        ----------
        batch : Batch
            Rows to append.

        Raises
        ------
        DataError
            If the layers, shapes or types differ from the first batch's, or labels or splits come and go.
        """
        arrays = {"id": batch.ids, "label": batch.labels, "split": batch.split}
        columns = {key: value for key, value in arrays.items() if value is not None}
        if not self._layers:
            self._start(batch, columns)
        for what, ours, theirs in (("layers", self._layers, batch.layers), ("columns", self._columns, columns)):
            if list(ours) != list(theirs):
                odd = sorted(set(ours) ^ set(theirs)) or list(theirs)
                raise DataError(
                    f"The batch after sample {self.n_written} has other {what} than the first one "
                    f"({', '.join(odd[:3])}); a file needs the same {what} for every sample."
                )
        for name, array in batch.layers.items():
            self._layers[name].check(name, array, self.n_written)
        for name, array in batch.layers.items():
            self._layers[name].append(array)
        for name, array in columns.items():
            self._columns[name].append(array)
        self.n_written += len(batch)
        self._waiting += sum(array.nbytes for array in batch.layers.values())
        if self._waiting > _WAITING_BYTES:
            for column in self._layers.values():
                column.drain()
            self._waiting = 0
        if monotonic() - self._committed_at > _COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Make every appended row part of the file."""
        for column in (*self._layers.values(), *self._columns.values()):
            column.flush()
        self._file["sample"].resize(self.n_written, axis=0)
        self._file.flush()
        self._file.attrs["n_committed"] = self.n_committed = self.n_written
        self._file.flush()
        self._committed_at = monotonic()

    def close(self, *, complete: bool) -> None:
        """Commit and close, declaring the file complete or not."""
        if self._file:
            self.commit()
            self._file.attrs["complete"] = int(complete)
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(complete=error is None)

    def _start(self, batch: Batch, columns: Mapping[str, NDArray[Any]]) -> None:
        """Create the datasets that the first batch asks for."""
        if not batch.layers:
            raise DataError("The first batch holds no layer; there is nothing to write.")
        if empty := [name for name, array in batch.layers.items() if not array.size]:
            raise DataError(f"Layer {empty[0]!r} has shape {batch.layers[empty[0]].shape}: it holds no numbers; leave it out.")
        sample = self._file["sample"]
        for name, values in columns.items():
            text, rows = values.dtype.kind in "OUST", max(1, min(4096, self._expected or 4096))
            data = self._file.create_dataset(
                f"obs/{name}", (0,), h5py.string_dtype() if text else np.int64, maxshape=(None,), chunks=(rows,)
            )
            data.dims[0].attach_scale(sample)
            self._columns[name] = _Column(data)
        self._file.attrs["left_out"] = json.dumps(dict(batch.left_out), ensure_ascii=False)
        target = int(np.clip(_CHUNKS_TOTAL // len(batch.layers), *_CHUNK_BYTES))
        for name, array in batch.layers.items():
            self._layers[name] = self._layer(batch.info[name], array, target, sample)

    def _layer(self, info: LayerInfo, array: NDArray[Any], target: int, sample: h5py.Dataset) -> _Column:
        group = self._file.create_group(f"layers/{quote(info.name, safe=' ()[],:=+')}")
        row_bytes = max(1, array[:1].nbytes)
        rows = int(np.clip(target // row_bytes, 1, max(1, self._expected or 1 << 16)))
        data = group.create_dataset(
            "x",
            (0, *array.shape[1:]),
            array.dtype,
            maxshape=(None, *array.shape[1:]),
            chunks=(rows, *array.shape[1:]),
            compression=self._compression,
            shuffle=self._compression is not None,
        )
        data.dims[0].attach_scale(sample)
        for axis, (dim, size) in enumerate(zip(info.dims[1:], array.shape[1:], strict=True), start=1):
            data.dims[axis].attach_scale(_dimension(group, dim, size))
        for key, value in asdict(info).items():
            data.attrs[key] = json.dumps(value) if isinstance(value, tuple | list) else value
        return _Column(data)


class _Column:
    """One dataset that grows by rows, and the rows that wait to be written to it."""

    def __init__(self, data: h5py.Dataset) -> None:
        self.data = data
        self.waiting: list[NDArray[Any]] = []

    def check(self, name: str, array: NDArray[Any], row: int) -> None:
        if array.shape[1:] != self.data.shape[1:] or array.dtype != self.data.dtype:
            raise DataError(
                f"Layer {name!r} has shape {array.shape[1:]} and type {array.dtype} from sample {row} on, but "
                f"{self.data.shape[1:]} and {self.data.dtype} before: pool it (mean, max) or leave it out."
            )

    def append(self, array: NDArray[Any]) -> None:
        self.waiting.append(array)

    def drain(self) -> None:
        """Write what waits; of a compressed dataset whole chunks only, so that none is packed twice."""
        if not self.waiting:
            return
        rows = self.waiting[0] if len(self.waiting) == 1 else np.concatenate(self.waiting)
        packed = self.data.compression is not None
        cut = len(rows) - (len(self.data) + len(rows)) % self.data.chunks[0] if packed else len(rows)
        if cut > 0:
            self._write(rows[:cut])
        self.waiting = [rows[max(cut, 0) :].copy()] if cut < len(rows) else []

    def flush(self) -> None:
        """Write everything that waits."""
        self.drain()
        if self.waiting:
            self._write(self.waiting[0])
            self.waiting = []

    def _write(self, array: NDArray[Any]) -> None:
        start = len(self.data)
        self.data.resize(start + len(array), axis=0)
        self.data[start:] = array


def _dimension(group: h5py.Group, name: str, size: int, maxshape: int | None = -1) -> h5py.Dataset:
    """A dimension scale without values, as netCDF-4 writes it, so that xarray names the axis."""
    data = group.create_dataset(name, (size,), ">f4", maxshape=(size if maxshape == -1 else maxshape,))
    data.make_scale(_DIMENSION.format(size))
    return data


class Store:
    """A lazily read activations file; nothing is loaded before it is asked for, and torch is never imported.

    Parameters
    ----------
    path : path-like
        The file.
    partial : bool, default False
        Whether to read what is committed of a file that was not written to its end.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is not an activations file, is damaged, or points outside itself.
    IncompleteError
        If it was not written to its end and `partial` is false.

    Notes
    -----
    A store can be pickled: the copy opens the file anew, where it is first read.
    """

    def __init__(self, path: str | PathLike[str], *, partial: bool = False) -> None:
        self.path = Path(path)
        self.partial = partial
        self._handle: h5py.File | None = None
        self.attrs: dict[str, Any] = _header(self._file)
        self.n_committed = int(self.attrs["n_committed"])
        self.complete = bool(self.attrs["complete"])
        self.info: dict[str, LayerInfo] = _layers(self._file, self.n_committed)
        if not (self.complete or partial):
            self.close()
            raise IncompleteError(
                f"{self.path} is incomplete: its writing stopped after {self.n_committed} samples. Extract it again, "
                f"or read what is there: --partial on the command line, probes.open(path, partial=True) in Python."
            )

    @property
    def _file(self) -> h5py.File:
        if self._handle is None:
            self._handle = _open(self.path)
        return self._handle

    @property
    def layers(self) -> list[str]:
        """Layer names in order of execution."""
        return list(self.info)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Sample ids, (n,)."""
        return np.asarray(self._file["obs/id"][: self.n_committed], dtype=np.int64)

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each sample, (n,), or None."""
        return np.asarray(self._file["obs/label"][: self.n_committed]) if "label" in self._file["obs"] else None

    @property
    def split(self) -> NDArray[np.str_] | None:
        """Split of each sample, (n,), or None."""
        if "split" not in self._file["obs"]:
            return None
        return np.asarray(self._file["obs/split"].asstr()[: self.n_committed], dtype=np.str_)

    @property
    def class_names(self) -> list[str] | None:
        """Name of class 0, 1, ..., or None."""
        return list(self._file["obs/class_names"].asstr()[:]) if "class_names" in self._file["obs"] else None

    @property
    def left_out(self) -> dict[str, str]:
        """Layers that ran but were not recorded, each with its reason."""
        return dict(json.loads(self.attrs.get("left_out", "{}")))

    def __len__(self) -> int:
        return self.n_committed

    def __getitem__(self, layer: str) -> NDArray[Any]:
        """All rows of one layer, (n, ...)."""
        return np.asarray(self._data(layer)[: self.n_committed])

    def iter(self, layers: Sequence[str] | None = None, size: int | None = None) -> Iterator[Batch]:
        """Batches of rows in file order.

        Parameters
        ----------
        layers : sequence of str, optional
            Layer names; default all.
        size : int, optional
            Rows per batch; by default as many as make about 32 MB, in whole chunks.

        Yields
        ------
        Batch
            The next rows of the named layers.

        Raises
        ------
        UsageError
            If a layer is not in the file.
        """
        data = {name: self._data(name) for name in (self.layers if layers is None else layers)}
        step = size or self._block_rows(list(data.values()))
        ids, labels, split = self.ids, self.labels, self.split
        for start in range(0, self.n_committed, step):
            rows = slice(start, min(start + step, self.n_committed))
            yield Batch(
                ids=ids[rows],
                layers={name: _read(source, rows) for name, source in data.items()},
                labels=None if labels is None else labels[rows],
                split=None if split is None else split[rows],
                info={name: self.info[name] for name in data},
                left_out=self.left_out,
            )

    def close(self) -> None:
        """Close the file; it opens again at the next read."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def _data(self, layer: str) -> h5py.Dataset:
        if layer not in self.info:
            raise UsageError(
                f"{self.path} has no layer {layer!r}.{did_you_mean(layer, self.info)} "
                f"`repanalysis info {self.path}` lists all {len(self.info)}."
            )
        return self._file[f"layers/{quote(layer, safe=' ()[],:=+')}/x"]

    def _block_rows(self, data: Sequence[h5py.Dataset]) -> int:
        """Rows per batch: whole chunks, so that a compressed chunk is unpacked once."""
        row_bytes = sum(source.dtype.itemsize * int(np.prod(source.shape[1:])) for source in data)
        rows = max(1, _BLOCK_BYTES // max(1, row_bytes))
        chunk = min((source.chunks[0] for source in data if source.chunks), default=1)
        return int(rows if rows < chunk else rows - rows % chunk)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None}

    def __repr__(self) -> str:
        state = "" if self.complete else ", incomplete"
        return f"<Store {self.path}: {len(self)} samples, {len(self.info)} layers{state}>"


def _read(source: h5py.Dataset, rows: slice) -> NDArray[Any]:
    array = np.empty((rows.stop - rows.start, *source.shape[1:]), source.dtype)
    if array.size:
        source.read_direct(array, rows)
    return array


def _open(path: Path) -> h5py.File:
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    if path.is_dir() or not h5py.is_hdf5(path):
        raise FormatError(f"{path} is not an activations file: it is no HDF5 file. `repanalysis extract` writes one.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        what = "is truncated: it ends before its data does" if "truncated" in str(error) else f"can't be read ({error})"
        raise FormatError(f"{path} {what}. Copy it again from where it was written, or extract it again.") from error


def _header(file: h5py.File) -> dict[str, Any]:
    """Root attributes of a file of ours, after the checks that need no data."""
    attrs = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
    if attrs.get("format") != FORMAT:
        raise FormatError(f"{file.filename} is an HDF5 file, but not an activations file (attribute format).")
    version = attrs.get("format_version")
    if version != FORMAT_VERSION:
        raise FormatError(f"{file.filename} has format version {version}; this repanalysis reads {FORMAT_VERSION}: update it.")
    _refuse_foreign(file, file)
    if not isinstance(attrs.get("n_committed"), int) or "complete" not in attrs:
        raise FormatError(f"{file.filename} is damaged: n_committed or complete is missing. Extract it again.")
    return attrs


def _refuse_foreign(file: h5py.File, group: h5py.Group) -> None:
    """Refuse every way in which an HDF5 file can make a reader open another file."""
    for name in group:
        where = f"{group.name.rstrip('/')}/{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise FormatError(f"{file.filename} is refused: {where} is a link; activations files hold their own data.")
        node = group[name]
        if isinstance(node, h5py.Group):
            _refuse_foreign(file, node)
        elif isinstance(node, h5py.Dataset) and (node.external or node.is_virtual):
            raise FormatError(f"{file.filename} is refused: the data of {where} lies in another file.")


def _layers(file: h5py.File, n: int) -> dict[str, LayerInfo]:
    """LayerInfo of every layer, in order of execution, after a check that all rows are there."""
    found = []
    columns = {f"/obs/{key}": file[f"obs/{key}"] for key in ("id", "label", "split") if f"obs/{key}" in file}
    groups = file.get("layers", {})
    if n and ("/obs/id" not in columns or not groups):
        raise FormatError(f"{file.filename} is damaged: it names {n} samples but holds no ids or no layers.")
    try:
        for key in groups:
            data = columns[f"/layers/{key}/x"] = groups[key]["x"]
            attrs = {name: value.item() if isinstance(value, np.generic) else value for name, value in data.attrs.items()}
            for name in ("dims", "source_shape"):
                attrs[name] = tuple(json.loads(attrs[name]))
            found.append(LayerInfo(**{name: attrs[name] for name in LayerInfo.__dataclass_fields__}))
    except (KeyError, ValueError, TypeError) as error:
        raise FormatError(f"{file.filename} is damaged: layer {key!r} lacks its description ({error}).") from error
    for where, data in columns.items():
        if len(data) < n:
            raise FormatError(f"{file.filename} is damaged: {where} has {len(data)} rows, {n} are promised.")
    return {info.name: info for info in sorted(found, key=lambda info: info.order)}

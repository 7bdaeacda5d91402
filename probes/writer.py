"""Writing an activations file: whole batches are appended, and what was committed stays, whatever happens next.

`create` starts a file, `resume` goes on with one whose writing was stopped. `docs/format.md` describes what is written;
`atomic.py` is how every commit is all or nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import h5py
import numpy as np
from numpy.typing import NDArray

from probes.atomic import AtomicFile
from probes.batch import Batch, LayerInfo
from probes.errors import DataError, FormatError, UsageError
from probes.format import DIMENSION, FORMAT, FORMAT_VERSION, VOLATILE, filter_arguments, filters_of, group_of, open_hdf5, packed
from probes.ids import SeenIds, are_texts
from probes.sealed import MARK, is_interrupted, refuse_writing, uuid_of
from probes.store import Store, read_ids, read_layers

__all__ = ["Writer", "create", "described", "differences", "refuse_existing", "refuse_other", "resume"]

_CHUNK_BYTES = (2 << 20, 8 << 20)  # the smallest and largest chunk aimed at
_CHUNKS_TOTAL = 128 << 20  # what one chunk of every layer may weigh together: bounds the buffers of a compressed file
_WAITING_BYTES = 16 << 20  # rows held back so that small batches of many layers do not cost a write each
_COMMIT_SECONDS = (5.0, 60.0)  # plain, compressed: a commit packs every last chunk, which will be packed anew


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
        If it exists and `overwrite` is false, is a folder, or is being written by another process.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it.")
    if not path.exists():
        return path
    if not overwrite:
        more = " It is incomplete: --resume goes on with it." if is_interrupted(path) else ""
        raise UsageError(f"{path} exists already; nothing was written.{more} Give another name, or --overwrite to replace it.")
    with path.open("rb") as file:
        refuse_writing(file.fileno(), path)
    return path


def create(
    path: str | PathLike[str],
    *,
    attrs: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
    head: tuple[NDArray[Any], NDArray[Any]] | None = None,
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
    head : (weight, bias), optional
        The linear layer that the network ends with, (K, d) and (K,).
    compression : {"none", "lzf", "gzip", "lz4", "zstd"}, default "none"
        `none` is as fast as the disk and, for dense activations, loses little: gzip saves about a tenth of them. lz4 and
        zstd need the extra `compression`, when the file is read as well.
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
        If the path exists and `overwrite` is false, is being written by another process, or the compression is unknown.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "acts.h5"
    >>> with create(path) as writer:
    ...     writer.append(Batch(ids=np.arange(2), layers={"relu": np.ones((2, 3), np.float32)}))
    >>> Store(path)["relu"].shape
    (2, 3)
    """
    filter_arguments(compression)
    path = refuse_existing(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # whoever reads the old file goes on reading it
    uuid = uuid4().hex
    atomic = AtomicFile(path, uuid, fresh=True)
    with _closing(atomic):
        file = h5py.File(atomic, "w", rdcc_nbytes=0)  # no chunk cache: rows go straight to the file, memory stays flat
        file.attrs["seal"] = np.bytes_(MARK + uuid.encode())
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "complete": 0,
            "n_committed": 0,
            "created": _now(),
            "compression": compression,
            **(attrs or {}),
        }
        for key, value in header.items():
            file.attrs[key] = packed(value)
        _dimension(file, "sample", 0, maxshape=None)
        if class_names is not None:
            _dimension(file, "obs/class", len(class_names))
            names = file.create_dataset("obs/class_names", data=list(class_names), dtype=h5py.string_dtype())
            names.dims[0].attach_scale(file["obs/class"])
        for name, part in zip(("weight", "bias"), head or (), strict=False):
            file.create_dataset(f"head/{name}", data=np.asarray(part, np.float32))
        file.flush()
        atomic.commit()
    return Writer(path, atomic, file, compression, expected)


def resume(path: str | PathLike[str], *, attrs: Mapping[str, Any] | None = None, expected: int | None = None) -> Writer:
    """Go on with a file whose writing was stopped, from its last commit.

    Parameters
    ----------
    path : path-like
        An incomplete file; its journal lies beside it.
    attrs : mapping, optional
        What the file would be given now, as for `create`.
    expected : int, optional
        Number of samples of the whole file, as for `create`.

    Returns
    -------
    Writer
        Its `n_committed` says how many rows are there already; the next one to append is the row after these.

    Raises
    ------
    UsageError
        If `attrs` are not those of the file (model, weights, data, layers, pool ...), or another process is writing it.
    FormatError
        If there is nothing to go on with.
    """
    path = Path(path)
    with Store(path, partial=True) as store:
        refuse_other(path, differences(store.attrs, attrs or {}))
        compression = str(store.attrs.get("compression", "none"))
        versions, command = store.attrs.get("versions"), store.attrs.get("command")
    atomic = AtomicFile(path, uuid_of(path) or "", fresh=False)
    with _closing(atomic):
        file = open_hdf5(atomic, writable=True)
        steps = json.loads(file.attrs.get("resumed", "[]"))
        now = {key: packed(value) for key, value in (attrs or {}).items() if key in ("versions", "command")}
        changed = {key: value for key, value in now.items() if value != {"versions": versions, "command": command}[key]}
        steps.append({"at": int(file.attrs["n_committed"]), "on": _now(), **changed})
        file.attrs["resumed"] = packed(steps)
    return Writer(path, atomic, file, compression, expected)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What two runs do not have in common, of what must be equal for one to go on with the other's file.

    Examples
    --------
    >>> differences({"model": "a", "created": 1}, {"model": "b", "created": 2})
    ["model: 'a' in the file, 'b' now"]
    """
    found = []
    for key in dict.fromkeys([*ours, *theirs]):
        a, b = (packed(side[key]) if key in side else None for side in (ours, theirs))
        if a != b and key not in VOLATILE and key != "compression":
            found.append(f"{key}: {_short(a)} in the file, {_short(b)} now")
    return found


def refuse_other(path: Path, found: Sequence[str]) -> None:
    """Raise `UsageError` if there are `differences` between a file's run and the one that would go on with it."""
    if found:
        raise UsageError(
            f"{path} was written by another run, and can't be continued by this one ({'; '.join(found)}). "
            f"Nothing was changed; run what wrote it, or give another name."
        )


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) < 120 else f"{text[:100]}...{text[-16:]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _closing(atomic: AtomicFile) -> Iterator[None]:
    """Give the file back, should the block fail."""
    try:
        yield
    except BaseException:
        atomic.discard()
        atomic.close()
        raise


class Writer:
    """Appends whole batches to one file; made by `create` and `resume`."""

    def __init__(self, path: Path, atomic: AtomicFile, file: h5py.File, compression: str, expected: int | None) -> None:
        self.path = path
        self.n_committed = self.n_written = int(file.attrs["n_committed"])
        self.left_out: dict[str, str] = json.loads(file.attrs.get("left_out", "{}"))
        self.non_finite: dict[str, int] = json.loads(file.attrs.get("non_finite", "{}"))
        self._atomic = atomic
        self._file = file
        self._compression = compression
        self._expected = expected
        self._committed_at = monotonic()
        self._waiting = 0
        self._broken = False
        self._columns = {
            name: _Column(file[f"obs/{name}"]) for name in ("id", "label", "split", "target") if f"obs/{name}" in file
        }
        self._seen = SeenIds()
        self._layers: dict[str, _Column] = {}
        self._info: dict[str, LayerInfo] = {}
        if self._columns:
            with self._whole():
                self._info = read_layers(file, self.n_committed, path)
                self._layers = {name: _Column(file[group_of(name)]["x"]) for name in self._info}
                self._seen.add(read_ids(file, self.n_committed, path))
                self.commit()

    def append(self, batch: Batch) -> None:
        """Append every row of a batch; the first batch fixes the layers, their shapes and their types.

        Parameters
        ----------
        batch : Batch
            Rows to append.

        Raises
        ------
        DataError
            If the layers, shapes or types differ from the first batch's, labels or splits come and go, or an id comes twice.
            A layer that the batch names in `left_out` is taken out of the file instead.
        UsageError
            If the file was resumed, and the layers or their pools are not those that it has.
        OSError
            If the disk is full, or fails otherwise. The file is then as it was at the last commit, and can be resumed.
        """
        if not self._file:
            raise OSError(f"{self.path} is closed; {self.n_committed} samples are whole in it.")
        arrays = {"id": batch.ids, "label": batch.labels, "split": batch.split, "target": batch.targets}
        columns = {key: value for key, value in arrays.items() if value is not None}
        with self._whole():
            if not self._layers:
                self._start(batch, columns)
            if self._info:
                self._refuse_other_layers(batch)
            if batch.left_out.keys() & self._layers.keys():
                self._drop(batch.left_out)
            layers = {name: array for name, array in batch.layers.items() if name not in self.left_out}
            self._check(layers, columns)
            self._take(layers, columns, len(batch))
            if monotonic() - self._committed_at > _COMMIT_SECONDS[self._compression != "none"]:
                self.commit()

    def _check(self, layers: Mapping[str, NDArray[Any]], columns: Mapping[str, NDArray[Any]]) -> None:
        """Refuse rows that do not fit those that are there, before any of them is written."""
        for what, ours, theirs in (("layers", self._layers, layers), ("columns", self._columns, columns)):
            if list(ours) != list(theirs):
                odd = sorted(set(ours) ^ set(theirs)) or list(theirs)
                raise DataError(
                    f"The batch after sample {self.n_written} has other {what} than the first one "
                    f"({', '.join(odd[:3])}); a file needs the same {what} for every sample."
                )
        for name, array in layers.items():
            self._layers[name].check(name, array, self.n_written)
        if "target" in columns and (now := columns["target"].shape[1:]) != (before := self._columns["target"].data.shape[1:]):
            raise DataError(f"The batch after sample {self.n_written} has targets of shape {now}, and {before} came before.")
        if are_texts(columns["id"]) != self._columns["id"].data.dtype.hasobject:
            kind, before = ("texts", "integers") if are_texts(columns["id"]) else ("integers", "texts")
            raise DataError(
                f"The sample ids after sample {self.n_written} are {kind}, and were {before} before; a file needs one kind."
            )
        if (twice := self._seen.add(columns["id"])) is not None:
            raise DataError(f"Sample id {twice!r} is in {self.path} already; ids must be unique.")

    def _take(self, layers: Mapping[str, NDArray[Any]], columns: Mapping[str, NDArray[Any]], rows: int) -> None:
        """Hold rows until enough wait to be written."""
        for name, array in layers.items():
            self._layers[name].append(array)
            if odd_values := array.size - int(np.count_nonzero(np.isfinite(array))):
                self.non_finite[name] = self.non_finite.get(name, 0) + odd_values
        for name, array in columns.items():
            self._columns[name].append(array)
        self.n_written += rows
        self._waiting += sum(array.nbytes for array in layers.values())
        if self._waiting > _WAITING_BYTES:
            for column in self._layers.values():
                column.drain()
            self._waiting = 0

    def commit(self) -> None:
        """Make every appended row part of the file."""
        with self._whole():
            for column in (*self._layers.values(), *self._columns.values()):
                column.flush()
            self._waiting = 0
            self._file["sample"].resize(self.n_written, axis=0)
            self._file.attrs["n_committed"] = self.n_written
            if self.non_finite:
                self._file.attrs["non_finite"] = packed(self.non_finite)
            self._file.flush()
            columns = (*self._layers.values(), *self._columns.values())
            before = self._atomic.commits
            try:
                self._atomic.commit([free for column in columns for free in column.free()])
            finally:
                if self._atomic.commits > before:  # which may be so although it failed afterwards
                    self.n_committed = self.n_written
            self._committed_at = monotonic()

    def close(self, *, complete: bool) -> None:
        """Commit and close, declaring the file complete or not."""
        if not self._file:
            return
        if not self._broken:
            with self._whole():
                self._file.attrs["complete"] = int(complete)
                self.commit()
        if not self._broken:
            self._file.close()
            self._atomic.commit()
            if complete:
                self._atomic.seal()
        self._give_back()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close(complete=True)
            return
        with suppress(OSError):  # a disk that is still full must not hide the first error
            self.close(complete=False)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Leave the file at its last commit, should the block fail: HDF5's state is then not to be trusted."""
        try:
            yield
        except ReportedDataErrors:
            raise
        except BaseException:
            self._broken = True
            self._give_back()
            raise

    def _give_back(self) -> None:
        """Close everything; what was not committed is dropped."""
        self._atomic.discard()
        if self._file:
            with suppress(Exception):
                self._file.close()
        self._atomic.close()

    def _refuse_other_layers(self, batch: Batch) -> None:
        """Refuse to go on with other layers or pools than the file has; once, before the first row."""
        found = []
        for name in dict.fromkeys([*self._info, *(name for name in batch.info if name not in self.left_out)]):
            a, b = self._info.get(name), batch.info.get(name)
            if a is None or b is None:
                found.append(f"layer {name!r}: {'not' if a is None else 'is'} in the file, {'not' if b is None else 'is'} now")
            elif described(a) != described(b):
                odd = [key for key in described(a) if described(a)[key] != described(b)[key]]
                found += [f"{key} of layer {name!r}: {getattr(a, key)!r} in the file, {getattr(b, key)!r} now" for key in odd]
        self._info = {}
        refuse_other(self.path, found[:3] + ([f"and {len(found) - 3} more"] if len(found) > 3 else []))

    def _drop(self, reasons: Mapping[str, str]) -> None:
        """Take layers out of the file that can't be recorded any more, and say why."""
        for name in reasons.keys() & self._layers.keys():
            del self._layers[name]
            del self._file[group_of(name)]
            self.non_finite.pop(name, None)
        self.left_out = dict(reasons)
        self._file.attrs["left_out"] = packed(self.left_out)

    def _start(self, batch: Batch, columns: Mapping[str, NDArray[Any]]) -> None:
        """Create the datasets that the first batch asks for."""
        if not batch.layers:
            raise DataError("The first batch holds no layer; there is nothing to write.")
        if empty := [name for name, array in batch.layers.items() if not array.size]:
            raise DataError(f"Layer {empty[0]!r} has shape {batch.layers[empty[0]].shape}: it holds no numbers; leave it out.")
        if odd := [name for name, array in batch.layers.items() if array.dtype.kind not in "fiub"]:
            raise DataError(f"Layer {odd[0]!r} has type {batch.layers[odd[0]].dtype}; only real numbers can be kept.")
        sample = self._file["sample"]
        for name, values in columns.items():
            text, rows = values.dtype.kind in "OUST", max(1, min(4096, self._expected or 4096))
            kind = h5py.string_dtype() if text else np.float64 if values.dtype.kind == "f" else np.int64
            inner = values.shape[1:]
            data = self._file.create_dataset(f"obs/{name}", (0, *inner), kind, maxshape=(None, *inner), chunks=(rows, *inner))
            data.dims[0].attach_scale(sample)
            self._columns[name] = _Column(data)
        self.left_out = dict(batch.left_out)
        self._file.attrs["left_out"] = packed(self.left_out)
        target = int(np.clip(_CHUNKS_TOTAL // len(batch.layers), *_CHUNK_BYTES))
        for name, array in batch.layers.items():
            self._layers[name] = self._layer(batch.info[name], array, target, sample)

    def _layer(self, info: LayerInfo, array: NDArray[Any], target: int, sample: h5py.Dataset) -> _Column:
        group = self._file.create_group(group_of(info.name))
        row_bytes = max(1, array[:1].nbytes)
        rows = int(np.clip(target // row_bytes, 1, max(1, self._expected or 1 << 16)))
        data = group.create_dataset(
            "x",
            (0, *array.shape[1:]),
            array.dtype,
            maxshape=(None, *array.shape[1:]),
            chunks=(rows, *array.shape[1:]),
            fill_time="never",  # or every chunk is written twice, first as zeros
            **filter_arguments(self._compression),
        )
        data.dims[0].attach_scale(sample)
        for axis, (dim, size) in enumerate(zip(info.dims[1:], array.shape[1:], strict=True), start=1):
            data.dims[axis].attach_scale(_dimension(group, dim, size))
        for key, value in asdict(info).items():
            data.attrs[key] = packed(value)
        return _Column(data)


ReportedDataErrors = (DataError, UsageError, FormatError)  # found before anything was written


def described(info: LayerInfo) -> dict[str, Any]:
    """What two recordings of a layer must have in common; the depth is rounded, since it is a float.

    Examples
    --------
    >>> described(LayerInfo("relu", 0, 1 / 3, ("sample", "channel")))["depth"]
    0.333333333
    """
    values = asdict(info) | {"depth": round(info.depth, 9)}
    del values["averaged"]  # measured on the first samples, which are others after a resumption
    return values


class _Column:
    """One dataset that grows by rows, and the rows that wait to be written to it."""

    def __init__(self, data: h5py.Dataset) -> None:
        self.data = data
        self.packed = bool(filters_of(data))
        self.rows = len(data)
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
        cut = len(rows) - (self.rows + len(rows)) % self.data.chunks[0] if self.packed else len(rows)
        if cut > 0:
            self._write(rows[:cut])
        self.waiting = [rows[max(cut, 0) :].copy()] if cut < len(rows) else []

    def flush(self) -> None:
        """Write everything that waits."""
        self.drain()
        if self.waiting:
            self._write(self.waiting[0])
            self.waiting = []

    def free(self) -> list[tuple[int, int]]:
        """Where the rows to come will go in the file: the part of the last chunk that has no rows yet.

        Text has none: HDF5 reads what it overwrites there, to free the strings that it points to.
        """
        used = self.rows % self.data.chunks[0]
        if self.packed or not used or self.data.dtype.hasobject:
            return []
        chunk = self.data.id.get_chunk_info_by_coord((self.rows, *(0 for _ in self.data.shape[1:])))
        start = chunk.byte_offset + used * (chunk.size // self.data.chunks[0])
        return [(start, chunk.byte_offset + chunk.size)]

    def _write(self, array: NDArray[Any]) -> None:
        start, self.rows = self.rows, self.rows + len(array)
        self.data.resize(self.rows, axis=0)
        self.data[start:] = array


def _dimension(group: h5py.Group, name: str, size: int, maxshape: int | None = -1) -> h5py.Dataset:
    """A dimension scale without values, as netCDF-4 writes it, so that xarray names the axis."""
    data = group.create_dataset(name, (size,), ">f4", maxshape=(size if maxshape == -1 else maxshape,))
    data.make_scale(DIMENSION.format(size))
    return data

"""Writing an activations file: whole batches are appended, and committed samples survive any failure.

`create` starts a file, `resume` continues an incomplete one. `docs/format.md` describes the format; `journal.py` makes every
commit atomic, and `background.py` protects it from interrupts. A file that replaces another is written to `FILE.part` beside it
and renamed once it is complete.
"""

from __future__ import annotations

import atexit
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Self
from uuid import uuid4
from weakref import WeakSet

import h5py
import numpy as np
from numpy.typing import NDArray

from probes.atomic_files import plain_file
from probes.batch import Batch, LayerInfo
from probes.errors import DataError, FormatError, UsageError
from probes.ids import SeenIds, are_texts, as_ids
from probes.storage.background import Background
from probes.storage.columns import Column, dimension, name_axes
from probes.storage.format import (
    FORMAT,
    FORMAT_VERSION,
    LAYER_TABLE,
    OBS,
    RESERVED_ATTRS,
    RUN_DEPENDENT_ATTRS,
    encode_attr,
    filter_arguments,
    group_of,
    open_hdf5,
)
from probes.storage.journal import AtomicFile, install
from probes.storage.seal import UUID_TAG, is_empty, is_interrupted, refuse_writing, uuid_of
from probes.storage.store import Store, read_layers

__all__ = [
    "Writer",
    "check_target",
    "create",
    "layer_signature",
    "part_path",
    "provenance_diff",
    "refuse_mismatches",
    "resume",
]

_QUEUED_BYTES = 64 << 20  # batches that may wait for the disk
_CHUNK_BYTES = (2 << 20, 8 << 20)  # smallest and largest target size of a chunk
_CHUNKS_TOTAL = 128 << 20  # target for the sum over layers of one chunk each; bounds the buffers of a compressed file
_CHUNKS_MOST = 2 << 30  # limit of that sum for so many layers that chunks of the smallest size exceed the target
_BUFFERED_BYTES = 16 << 20  # rows are buffered so that small batches of many layers do not cost a write each
_COMMIT_SECONDS = (5.0, 60.0)  # uncompressed, compressed: a commit compresses each last chunk, which is compressed again later


def check_target(path: str | PathLike[str], *, overwrite: bool) -> Path:
    """Check that a file may be written.

    Parameters
    ----------
    path : path-like
        Path of the file to write.
    overwrite : bool
        Whether an existing file may be replaced.

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
    plain_file(path)
    if not path.exists():
        return path
    if not overwrite:
        hint = " It is incomplete: --resume continues it." if is_interrupted(path) else ""
        if is_interrupted(part := part_path(path)):
            hint = f" Its replacement {part.name} is incomplete: --resume continues that."
        raise UsageError(f"{path} exists already; nothing was written.{hint} Give another name, or --overwrite to replace it.")
    with path.open("rb") as file:
        refuse_writing(file.fileno(), path)
    return path


def part_path(path: str | PathLike[str]) -> Path:
    """Path to which the replacement of `path` is written: `path`, with links followed, and the suffix `.part`.

    Examples
    --------
    >>> part_path("/nowhere/acts.h5").name
    'acts.h5.part'
    """
    real = Path(os.path.realpath(path))
    return real.with_name(f"{real.name}.part")


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
        File to write; missing folders are created.
    attrs : mapping, optional
        Provenance, stored as attributes of the file's root; values that are neither text nor numbers are stored as JSON.
    class_names : sequence of str, optional
        Name of class 0, 1, ...
    head : (weight, bias), optional
        Weights (K, d) and offsets (K,) of the network's final linear layer.
    compression : {"none", "lzf", "gzip", "lz4", "zstd"}, default "none"
        `none` writes at the speed of the disk; on dense activations gzip saves only about a tenth. lz4 and zstd need the
        extra `compression`, for reading as well.
    expected : int, optional
        Expected number of samples; no chunk is made larger than that.
    overwrite : bool, default False
        Replace an existing file. It stays unchanged until the new one, which is written to `FILE.part`, is complete.

    Returns
    -------
    Writer
        A context manager. If the block ends without an error, the file is complete; after an error it is incomplete and
        contains every appended batch.

    Raises
    ------
    UsageError
        If the path exists and `overwrite` is false, if another process is writing it, if the compression is unknown, or if an
        attribute has a name that the format reserves.

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
    _refuse_reserved(attrs or {})
    path = check_target(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    target = part_path(path) if path.exists() and not _holds_nothing(path) else path
    uuid = uuid4().hex
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "complete": 0,
        "n_committed": 0,
        "created": _now(),
        "compression": compression,
        **(attrs or {}),
    }

    def begin() -> tuple[AtomicFile, h5py.File]:
        atomic = AtomicFile(target, uuid, fresh=True)
        with _closing(atomic):
            file = h5py.File(atomic, "w", rdcc_nbytes=0)  # no chunk cache: rows go straight to the file, memory stays flat
            file.attrs["seal"] = np.bytes_(UUID_TAG + uuid.encode())
            for key, value in header.items():
                file.attrs[key] = encode_attr(value)
            dimension(file, "sample", 0, maxshape=None)
            if class_names is not None:
                dimension(file, "obs/class", len(class_names))
                names = file.create_dataset("obs/class_names", data=list(class_names), dtype=h5py.string_dtype())
                name_axes(names, [file["obs/class"]])
            for name, part in zip(("weight", "bias"), head or (), strict=False):
                file.create_dataset(f"head/{name}", data=np.asarray(part, np.float32))
            file.flush()
            atomic.commit()
            return atomic, file

    return Writer(path, begin, compression, expected)


def _refuse_reserved(attrs: Mapping[str, Any]) -> None:
    """Raise if attributes would replace those that say how to read the file."""
    for key, value in attrs.items():
        if key in RESERVED_ATTRS or (key in ("shard", "shards") and (isinstance(value, bool) or not isinstance(value, int))):
            raise UsageError(f"The attribute {key} is the file's own; give yours another name, such as my_{key}.")


def _holds_nothing(path: Path) -> bool:
    """Whether the writing of a file was stopped before any sample was committed."""
    if not is_interrupted(path):
        return False
    return is_empty(path) or not len(Store(path, partial=True))


def resume(
    path: str | PathLike[str],
    *,
    attrs: Mapping[str, Any] | None = None,
    expected: int | None = None,
    source: Path | None = None,
) -> Writer:
    """Continue an incomplete file from its last commit.

    Parameters
    ----------
    path : path-like
        An incomplete file; its journal lies beside it.
    attrs : mapping, optional
        The attributes of this run, as for `create`; they must agree with the file's.
    expected : int, optional
        Number of samples of the whole file, as for `create`.
    source : path, optional
        The incomplete file. Default: `FILE.part`, the replacement of `path`, if that exists and is incomplete, else `path`.

    Returns
    -------
    Writer
        Its `n_committed` is the number of rows that the file has; append from the next row on.

    Raises
    ------
    UsageError
        If `attrs` are not those of the file (model, weights, data, layers, pool ...), or another process is writing it.
    FormatError
        If there is no commit to continue from.
    """
    path = Path(path)
    source = source or (part if is_interrupted(part := part_path(path)) else path)
    with Store(source, partial=True) as store:
        refuse_mismatches(source, provenance_diff(store.attrs, attrs or {}))
        version = int(store.attrs["format_version"])
        if version < FORMAT_VERSION:
            raise UsageError(
                f"{source} was begun by an older repanalysis (format {version}), which can't be continued: read its committed "
                f"samples (--partial, or partial=True), or extract again."
            )
        compression = str(store.attrs.get("compression", "none"))
        versions, command = store.attrs.get("versions"), store.attrs.get("command")

    def begin() -> tuple[AtomicFile, h5py.File]:
        atomic = AtomicFile(source, uuid_of(source) or "", fresh=False)
        with _closing(atomic):
            file = open_hdf5(atomic, writable=True)
            steps = json.loads(file.attrs.get("resumed", "[]"))
            now = {key: encode_attr(value) for key, value in (attrs or {}).items() if key in ("versions", "command")}
            changed = {key: value for key, value in now.items() if value != {"versions": versions, "command": command}[key]}
            steps.append({"at": int(file.attrs["n_committed"]), "on": _now(), **changed})
            file.attrs["resumed"] = encode_attr(steps)
            return atomic, file

    return Writer(path, begin, compression, expected)


def provenance_diff(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """The attributes in which two runs differ and that must be equal for one run to continue the other's file.

    Examples
    --------
    >>> provenance_diff({"model": "a", "created": 1}, {"model": "b", "created": 2})
    ["model: 'a' in the file, 'b' now"]
    """
    mismatches = []
    for key in dict.fromkeys([*ours, *theirs]):
        a, b = (encode_attr(side[key]) if key in side else None for side in (ours, theirs))
        unknown = key == "batch_size" and 0 in (a, b)  # a loader without a batch size
        if a != b and key not in RUN_DEPENDENT_ATTRS and key != "compression" and not unknown:
            mismatches.append(f"{key}: {_short(a)} in the file, {_short(b)} now")
    return mismatches


def refuse_mismatches(path: Path, mismatches: Sequence[str]) -> None:
    """Raise `UsageError` if `mismatches` between a file's run and the run that would continue it are not empty."""
    if mismatches:
        raise UsageError(
            f"{path} was written by another run, and can't be continued by this one ({'; '.join(mismatches)}). "
            f"Nothing was changed; repeat the run that wrote it, or give another name."
        )


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) < 120 else f"{text[:100]}...{text[-16:]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _closing(atomic: AtomicFile) -> Iterator[None]:
    """Close the file at its last commit if the block raises."""
    try:
        yield
    except BaseException:
        atomic.discard()
        atomic.close()
        raise


_OPEN: WeakSet[Writer] = WeakSet()


@atexit.register
def _close_all() -> None:
    """Close all writers; else HDF5 closes their files after Python has ended, through a Python object, also in forks."""
    for writer in list(_OPEN):
        writer.abandon()


class Writer:
    """Appends whole batches to one file; returned by `create` and `resume`.

    The writer's own thread does all work on the file, in order. So calls from several threads run one after the other, and an
    interrupt is raised only when the current call has returned.

    Attributes
    ----------
    path : pathlib.Path
        The complete file.
    file : pathlib.Path
        The file that is written: `path`, or `FILE.part` if `path` existed before.
    n_committed, n_written : int
        Number of committed rows and of appended rows.
    complete : bool
        Whether the file was closed as complete.
    """

    def __init__(
        self, path: Path, begin: Callable[[], tuple[AtomicFile, h5py.File]], compression: str, expected: int | None
    ) -> None:
        self.path = path
        self.complete = False
        self._compression = compression
        self._expected = expected
        self._buffered_bytes = 0
        self._broken = self._ended = False
        self._process = os.getpid()
        self._seen = SeenIds()
        self._layers: dict[str, Column] = {}
        self._info: dict[str, LayerInfo] = {}
        self._thread = Background(_QUEUED_BYTES)
        try:
            self._thread.run(self._open, begin)
        except BaseException:
            if hasattr(self, "_atomic"):  # an interrupt, or a file that can't be continued
                self._thread.run(self._abort)
            self._end()
            raise
        _OPEN.add(self)

    def append(self, batch: Batch) -> None:
        """Append every row of a batch; the first batch fixes the layers, their shapes and their types.

        Parameters
        ----------
        batch : Batch
            Rows to append.

        Raises
        ------
        DataError
            If the layers, shapes or types differ from the first batch's, if only some batches have labels or splits, or if an
            id repeats. A layer that the batch names in `skipped` is removed from the file instead.
        UsageError
            If the file was resumed and has other layers or pools.
        OSError
            If the disk is full or fails. The file is then at its last commit and can be resumed.
        """
        self._refuse_closed()
        self._thread.run(self._append, batch)

    def put(self, batch: Batch) -> None:
        """Append a batch without waiting, unless 64 MB are queued; errors are raised by a later call.

        Parameters
        ----------
        batch : Batch
            Rows to append. After the first batch that fails, later batches are dropped.

        Raises
        ------
        DataError, UsageError, OSError
            The error of an earlier batch, as for `append`; raised at the latest when the file is closed.
        """
        self._refuse_closed()
        self._thread.put(self._append, batch, sum(array.nbytes for array in batch.layers.values()))

    def commit(self) -> None:
        """Make every appended row part of the file."""
        self._refuse_closed()
        self._thread.run(self._commit)

    def close(self, *, complete: bool) -> None:
        """Commit and close the file, and mark it as complete or not. Raises the first error of a batch that was `put`."""
        if self._ended:
            return
        try:
            self._thread.run(self._close, complete=complete)
        finally:
            self._end()
        if self._thread.error is not None:
            raise self._thread.error

    def abandon(self) -> None:
        """Close the file at its last commit; for the end of the process, when its other threads have ended."""
        if os.getpid() == self._process:
            self._abort()
        else:
            self._atomic.discard()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self.close(complete=True)
            return
        try:
            self.close(complete=False)
        except Exception as second:  # a disk that is still full must not hide the first error
            if second is not error:
                error.add_note(f"and the writing failed as well: {second}")

    def _refuse_closed(self) -> None:
        if self._ended or (self._atomic.closed and self._thread.error is None):
            raise OSError(f"{self.path} is closed; {self.n_committed} samples are whole in it.")

    def _end(self) -> None:
        self._ended = True
        self._thread.end()
        _OPEN.discard(self)

    # The methods below run in the writer's thread.

    def _open(self, begin: Callable[[], tuple[AtomicFile, h5py.File]]) -> None:
        self._atomic, file = begin()
        self._file, self.file = file, self._atomic.path
        with self._abort_on_error():
            self.n_committed = self.n_written = int(file.attrs["n_committed"])
            self.skipped: dict[str, str] = json.loads(file.attrs.get("left_out", "{}"))
            self.non_finite: dict[str, int] = json.loads(file.attrs.get("non_finite", "{}"))
            self._committed_at = monotonic()
            self._columns = {name: Column(file[f"obs/{name}"]) for name in OBS if f"obs/{name}" in file}
            if self._columns:
                self._info = read_layers(file, self.n_committed, self.path, file.attrs[LAYER_TABLE])
                self._layers = {name: Column(file[group_of(name)]["x"]) for name in self._info}
                ids = file["obs/id"]
                self._seen.add(as_ids(np.asarray(ids.asstr()[:], np.str_) if ids.dtype.hasobject else ids[:]))
                self._commit()

    def _append(self, batch: Batch) -> None:
        if not self._file:
            raise OSError(f"{self.path} is closed; {self.n_committed} samples are whole in it.")
        arrays = {"id": batch.ids, "label": batch.labels, "split": batch.split, "target": batch.targets}
        columns = {key: value for key, value in arrays.items() if value is not None}
        with self._abort_on_error():
            if not self._layers:
                self._start(batch, columns)
            if self._info:
                self._refuse_other_layers(batch)
            if batch.skipped.keys() & self._layers.keys():
                self._remove_layers(batch.skipped)
            layers = {name: array for name, array in batch.layers.items() if name not in self.skipped}
            self._check(layers, columns)
            self._buffer_rows(layers, columns, len(batch))
            if monotonic() - self._committed_at > _COMMIT_SECONDS[self._compression != "none"]:
                self._commit()

    def _check(self, layers: Mapping[str, NDArray[Any]], columns: Mapping[str, NDArray[Any]]) -> None:
        """Raise `DataError` if a batch does not match the rows of the file, before any row is written."""
        for what, ours, theirs in (("layers", self._layers, layers), ("columns", self._columns, columns)):
            if list(ours) != list(theirs):
                mismatched = sorted(set(ours) ^ set(theirs)) or list(theirs)
                raise DataError(
                    f"The batch after sample {self.n_written} has other {what} than the first one "
                    f"({', '.join(mismatched[:3])}); a file needs the same {what} for every sample."
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
        if (repeated := self._seen.add(columns["id"])) is not None:
            raise DataError(f"Sample id {repeated!r} is in {self.path} already; ids must be unique.")

    def _buffer_rows(self, layers: Mapping[str, NDArray[Any]], columns: Mapping[str, NDArray[Any]], rows: int) -> None:
        """Add rows to the buffers, and write the buffers once they exceed `_BUFFERED_BYTES`."""
        for name, array in layers.items():
            self._layers[name].append(array)
            if n_non_finite := array.size - int(np.count_nonzero(np.isfinite(array))):
                self.non_finite[name] = self.non_finite.get(name, 0) + n_non_finite
        for name, array in columns.items():
            self._columns[name].append(array)
        self.n_written += rows
        self._buffered_bytes += sum(array.nbytes for array in layers.values())
        if self._buffered_bytes > _BUFFERED_BYTES:
            for column in self._layers.values():
                column.flush_full_chunks()
            self._buffered_bytes = 0

    def _commit(self) -> None:
        with self._abort_on_error():
            columns = {**self._layers, **self._columns}
            for column in columns.values():
                column.flush()
            self._buffered_bytes = 0
            if uneven := {name: len(column.data) for name, column in columns.items() if len(column.data) != self.n_written}:
                name, rows = next(iter(uneven.items()))
                raise RuntimeError(
                    f"{self.path} stays as it was at {self.n_committed} samples: {name!r} has {rows} rows for {self.n_written} "
                    f"samples, so that rows would belong to other samples than their ids say"
                )
            self._file["sample"].resize(self.n_written, axis=0)
            self._file.attrs["n_committed"] = self.n_written
            if self.non_finite or "non_finite" in self._file.attrs:  # a counted layer may have been removed
                self._file.attrs["non_finite"] = encode_attr(self.non_finite)
            self._file.flush()
            before = self._atomic.commits
            try:
                self._atomic.commit([free for column in columns.values() for free in column.unwritten_ranges()])
            finally:
                if self._atomic.commits > before:  # true also if an error followed the commit
                    self.n_committed = self.n_written
            self._committed_at = monotonic()

    def _close(self, *, complete: bool) -> None:
        if not self._file:
            return
        complete = complete and self._thread.error is None
        if not self._broken:
            with self._abort_on_error():
                self._file.attrs["complete"] = int(complete)
                self._commit()
        try:
            if not self._broken:
                self._file.close()
                self._atomic.commit()
                if complete:
                    self._atomic.seal()
                    if self.file == part_path(self.path):
                        install(self.file, self.path)
                    self.complete = True
        finally:
            self._abort()

    @contextmanager
    def _abort_on_error(self) -> Iterator[None]:
        """Close the file at its last commit if the block raises: HDF5's state is undefined then."""
        try:
            yield
        except ReportedDataErrors:
            raise
        except BaseException:
            self._broken = True
            self._abort()
            raise

    def _abort(self) -> None:
        """Close the file and drop all uncommitted rows."""
        self._atomic.discard()
        if self._file:
            with suppress(Exception):
                self._file.close()
        self._atomic.close()

    def _refuse_other_layers(self, batch: Batch) -> None:
        """Raise `UsageError` if the layers or pools differ from those of a resumed file; called once, before the first row."""
        mismatches = []
        for name in dict.fromkeys([*self._info, *(name for name in batch.info if name not in self.skipped)]):
            a, b = self._info.get(name), batch.info.get(name)
            if a is None or b is None:
                mismatches.append(
                    f"layer {name!r}: {'not' if a is None else 'is'} in the file, {'not' if b is None else 'is'} now"
                )
            elif layer_signature(a) != layer_signature(b):
                mismatched = [key for key in layer_signature(a) if layer_signature(a)[key] != layer_signature(b)[key]]
                mismatches += [
                    f"{key} of layer {name!r}: {getattr(a, key)!r} in the file, {getattr(b, key)!r} now" for key in mismatched
                ]
        self._info = {}
        refuse_mismatches(self.path, mismatches[:3] + ([f"and {len(mismatches) - 3} more"] if len(mismatches) > 3 else []))

    def _remove_layers(self, reasons: Mapping[str, str]) -> None:
        """Remove layers that can't be recorded any more, and store the reasons."""
        for name in reasons.keys() & self._layers.keys():
            del self._layers[name]
            del self._file[group_of(name)]
            self.non_finite.pop(name, None)
        self.skipped |= reasons  # reasons of an earlier run stay: this run may not have reached those layers yet
        self._file.attrs["left_out"] = encode_attr(self.skipped)
        self._describe([info for info in json.loads(self._file.attrs[LAYER_TABLE]) if info["name"] in self._layers])

    def _describe(self, infos: Sequence[Mapping[str, Any]]) -> None:
        """Write all descriptions to one attribute: reading them from 20,000 layers would take a minute."""
        self._file.attrs[LAYER_TABLE] = encode_attr(infos)

    def _start(self, batch: Batch, columns: Mapping[str, NDArray[Any]]) -> None:
        """Create the data sets for the layers and columns of the first batch."""
        if not batch.layers:
            raise DataError("The first batch has no layers; there is nothing to write.")
        if empty := [name for name, array in batch.layers.items() if not array.size]:
            raise DataError(f"Layer {empty[0]!r} has shape {batch.layers[empty[0]].shape}: it has no elements; leave it out.")
        if unsupported := [name for name, array in batch.layers.items() if array.dtype.kind not in "fiub"]:
            raise DataError(
                f"Layer {unsupported[0]!r} has type {batch.layers[unsupported[0]].dtype}; only real numbers can be stored."
            )
        sample = self._file["sample"]
        for name, values in columns.items():
            text, rows = values.dtype.kind in "OUST", max(1, min(4096, self._expected or 4096))
            kind = h5py.string_dtype() if text else np.float64 if values.dtype.kind == "f" else np.int64
            inner = values.shape[1:]
            data = self._file.create_dataset(f"obs/{name}", (0, *inner), kind, maxshape=(None, *inner), chunks=(rows, *inner))
            name_axes(data, [sample, *(dimension(self._file["obs"], f"{name}_name", size) for size in inner)])
            self._columns[name] = Column(data)
        self.skipped = dict(batch.skipped)
        self._file.attrs["left_out"] = encode_attr(self.skipped)
        least = min(_CHUNK_BYTES[0], _CHUNKS_MOST // len(batch.layers))
        target = int(np.clip(_CHUNKS_TOTAL // len(batch.layers), least, _CHUNK_BYTES[1]))
        for name, array in batch.layers.items():
            self._layers[name] = self._layer(batch.info[name], array, target, sample)
        self._describe([vars(batch.info[name]) for name in batch.layers])

    def _layer(self, info: LayerInfo, array: NDArray[Any], target: int, sample: h5py.Dataset) -> Column:
        group = self._file.create_group(group_of(info.name))
        row_bytes = max(1, array[:1].nbytes)
        rows = int(np.clip(target // row_bytes, 1, max(1, self._expected or 1 << 16)))
        data = group.create_dataset(
            "x",
            (0, *array.shape[1:]),
            array.dtype,
            maxshape=(None, *array.shape[1:]),
            chunks=(rows, *array.shape[1:]),
            fill_time="never",  # else every chunk is written twice, first as zeros
            **filter_arguments(self._compression),
        )
        name_axes(data, [sample, *(dimension(group, *axis) for axis in zip(info.dims[1:], array.shape[1:], strict=True))])
        for key, value in vars(info).items():
            data.attrs[key] = encode_attr(value)
        return Column(data)


ReportedDataErrors = (DataError, UsageError, FormatError)  # raised before anything is written


def layer_signature(info: LayerInfo) -> dict[str, Any]:
    """The fields that two recordings of a layer must share; the depth is rounded, since it is a float.

    Examples
    --------
    >>> layer_signature(LayerInfo("relu", 0, 1 / 3, ("sample", "channel")))["depth"]
    0.333333333
    """
    values = asdict(info) | {"depth": round(info.depth, 9)}
    del values["averaged"]  # measured on the first samples of a run, which differ in a resumed run
    return values

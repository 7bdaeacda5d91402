"""Reading an activations file: lazily, checked, and without torch.

`docs/format.md` describes the file. What is read is what was committed, or an error: bytes are checked against the file's
seal (`sealed.py`), and whatever could make a reader open another file, run a filter that is not ours, or ask for absurd
amounts of memory is refused before any data is read. Opening a file looks at its header and its samples; a layer is looked at
before it is read, so that a file of 20,000 layers opens in a second.
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any
from weakref import WeakSet

import h5py
import numpy as np
from numpy.typing import NDArray

from probes.batch import Batch, LayerInfo
from probes.errors import FormatError, IncompleteError, ReportedError
from probes.ids import are_texts, as_ids, duplicate
from probes.source import Source
from probes.storage.format import (
    FILTERS,
    FORMAT,
    FORMAT_VERSION,
    LAYER_FIELDS,
    LAYER_TABLE,
    filters_of,
    group_of,
    load_plugins,
    open_hdf5,
)
from probes.storage.seal import RawFile, open_bytes

__all__ = ["Store", "read_layers"]

_COLUMNS = {
    "id": (("i", "text"), (1,), "one integer or text"),
    "label": (("i",), (1,), "one integer"),
    "split": (("text",), (1,), "one text"),
    "target": (("f",), (1, 2), "one number or several"),
}
_BLOCK_BYTES = 32 << 20  # what one batch of an iteration over the file may weigh
_MAX_CHUNK = 1 << 30  # a chunk is unpacked as a whole: beyond this only where it is a single row
_MAX_NODES = 1_000_000
_OPEN: WeakSet[Store] = WeakSet()


@atexit.register
def _close_all() -> None:
    """HDF5 would close what is open after Python has gone, through an object of Python's."""
    for store in list(_OPEN):
        store.close()


class Store(Source):
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
        If it is not an activations file, is damaged, or points outside itself. Also while reading: bytes are checked
        as they are read.
    IncompleteError
        If it was not written to its end and `partial` is false.

    Attributes
    ----------
    identity : tuple
        What tells the file from any other.

    Notes
    -----
    A store can be pickled: the copy opens the file anew, where it is first read. So does a store that was closed. Should
    another file be there by then, or this one have grown, that is a `FormatError`.
    """

    _handle: h5py.File | None
    _raw: RawFile | None

    def __init__(self, path: str | PathLike[str], *, partial: bool = False) -> None:
        self.path = Path(path)
        self.partial = partial
        self._forget()
        self._texts: NDArray[Any] | None = None
        self.identity: tuple[Any, ...] | None = None
        with self._wrap_errors():
            file = self._file
            attrs = _attributes(file)
            table = attrs.pop(LAYER_TABLE, None)
            self.attrs = attrs
            self.n_committed = int(attrs["n_committed"])
            self.complete = bool(attrs["complete"]) and not (self._raw is not None and self._raw.is_interrupted)
            self.info = read_layers(file, self.n_committed, self.path, table)
            self._check_samples()
            self._skipped = _mapping(attrs.get("left_out"), str)
            self._non_finite = _mapping(attrs.get("non_finite"), int)
        if not (self.complete or partial):
            self.close()
            raise IncompleteError(
                f"{self.path} is incomplete: its writing stopped after {self.n_committed} samples. Go on with --resume "
                f"(resume=True), or read what is there: --partial on the command line, probes.open(path, partial=True)."
            )

    @property
    def _file(self) -> h5py.File:
        if self._handle is None:
            self._handle, self._raw = _open(self.path)
            _OPEN.add(self)
            self._checked_data: set[str] = set()
            if self.identity is None:
                self.identity = _identity(self._handle, self._raw, self.path)
            self.refuse_other(self.identity)
        return self._handle

    def refuse_other(self, identity: tuple[Any, ...] | None) -> None:
        """Raise `FormatError` if the file that is there is not the one of that `identity`."""
        if _identity(self._file, self._raw, self.path) != identity:
            self.close()
            raise FormatError(
                f"{self.path} was replaced since it was opened, or written to: what was read of it and what would be read now "
                f"belong to different files. Open it again."
            )

    @property
    def name(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def ids(self) -> NDArray[Any]:
        """Sample ids, (n,): integers or texts."""
        if self._texts is not None:
            return self._texts
        with self._wrap_errors():
            ids = self._column("id") if "obs/id" in self._file else np.zeros(0, np.int64)
        if are_texts(ids):  # a million of them take seconds to read, and every layer's rows come with them
            ids.setflags(write=False)
            self._texts = ids
        return ids

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each sample, (n,), or None."""
        with self._wrap_errors():
            return self._column("label") if "obs/label" in self._file else None

    @property
    def targets(self) -> NDArray[np.float64] | None:
        """Continuous targets of each sample, (n, t), NaN where it has none; or None."""
        with self._wrap_errors():
            return self._column("target") if "obs/target" in self._file else None

    @property
    def split(self) -> NDArray[np.str_] | None:
        """Split of each sample, (n,), or None."""
        with self._wrap_errors():
            return self._column("split") if "obs/split" in self._file else None

    @property
    def class_names(self) -> list[str] | None:
        """Name of class 0, 1, ..., or None."""
        with self._wrap_errors():
            return _class_names(self._dataset("obs/class_names")) if "obs/class_names" in self._file else None

    @property
    def head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Weights (K, d) and offsets (K,) of the linear layer that the network ends with, or None."""
        with self._wrap_errors():
            if "head" not in self._file:
                return None
            parts = [self._dataset(f"head/{part}") for part in ("weight", "bias")]
            if (
                any(part.dtype.kind not in "fiu" for part in parts)
                or parts[0].ndim != 2
                or parts[1].shape != parts[0].shape[:1]
            ):
                raise ValueError(f"its head has weights {parts[0].shape} and offsets {parts[1].shape} of {parts[0].dtype}")
            weight, bias = (np.asarray(part[()], np.float32) for part in parts)
            return weight, bias

    @property
    def skipped(self) -> dict[str, str]:
        """Layers that ran but were not recorded, each with its reason."""
        return dict(self._skipped)

    @property
    def non_finite(self) -> dict[str, int]:
        """Layers that hold NaN or inf, and how many of them."""
        return dict(self._non_finite)

    def __len__(self) -> int:
        return self.n_committed

    def __getitem__(self, layer: str) -> NDArray[Any]:
        """All rows of one layer, (n, ...)."""
        with self._wrap_errors():
            return _read(self._data(layer), slice(0, self.n_committed))

    def take(self, layer: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Chosen rows of one layer, (len(rows), ...); the others are not read."""
        with self._wrap_errors():
            data = self._data(layer)
            return np.concatenate([_read(data, slice(int(row), int(row) + 1)) for row in rows])

    def shape(self, layer: str) -> tuple[int, ...]:
        """Shape of one layer's rows, (n, ...), without reading them."""
        with self._wrap_errors():
            return (self.n_committed, *self._data(layer).shape[1:])

    def iter(self, layers: Sequence[str] | None = None, size: int | None = None) -> Iterator[Batch]:
        """Batches of rows in file order; by default of whole chunks, about 32 MB. See `Source.iter`."""
        with self._wrap_errors():
            data = {name: self._data(name) for name in (self.layers if layers is None else layers)}
            step = size or self._block_rows(list(data.values()))
        ids, labels, split, targets, names = self.ids, self.labels, self.split, self.targets, self.target_names
        for start in range(0, self.n_committed, step):
            rows = slice(start, min(start + step, self.n_committed))
            with self._wrap_errors():
                arrays = {name: _read(source, rows) for name, source in data.items()}
            yield Batch(
                ids=ids[rows],
                layers=arrays,
                labels=None if labels is None else labels[rows],
                split=None if split is None else split[rows],
                info={name: self.info[name] for name in data},
                skipped=self.skipped,
                ids_from=str(self.attrs.get("ids_from", "")),
                targets=None if targets is None else targets[rows],
                target_names=names,
            )

    def _forget(self) -> None:
        self._handle = self._raw = None

    def check(self) -> None:
        """Look at everything that the file holds, also at what is never read; the data itself stays unread.

        Raises
        ------
        FormatError
            If something leads to other files or round in circles, or if a layer has not a row per sample, or two descriptions.
        """
        with self._wrap_errors():
            _refuse_foreign(self._file, self.path)
            scale = self._dataset("sample")
            if self.complete and scale.shape != (self.n_committed,):
                raise ValueError(f"the axis of samples has shape {scale.shape}, {self.n_committed} samples are promised")
            for name in self.layers:
                if _described(self._data(name), name) != self.info[name]:
                    raise ValueError(f"layer {name!r} is described in two ways")

    def _check_samples(self) -> None:
        """Refuse columns that can't be those of n samples."""
        columns = {"id": self.ids, "label": self.labels, "split": self.split, "target": self.targets}
        for name, values in columns.items():
            if values is not None and len(values) != self.n_committed:
                raise ValueError(f"/obs/{name} has {len(values)} rows, {self.n_committed} are promised")
        if (twice := duplicate(self.ids)) is not None:
            raise ValueError(f"sample id {twice!r} stands there twice")
        class_names, labels = self.class_names, columns["label"]
        if class_names is not None and labels is not None and labels.max(initial=-1) >= len(class_names):
            raise ValueError(f"there is a label {labels.max()}, and {len(class_names)} class names")
        if labels is not None and labels.min(initial=0) < -1:
            raise ValueError(f"there is a label {labels.min()}; a sample without a class has -1")

    def close(self) -> None:
        """Close the file; it opens again at the next read."""
        if self._handle is not None:
            with suppress(Exception):  # nothing is written: what a damaged file says on being closed is of no use
                self._handle.close()
            if self._raw is not None:
                self._raw.close()
            self._forget()
            _OPEN.discard(self)

    @contextmanager
    def _wrap_errors(self) -> Iterator[None]:
        """Turn whatever a damaged file provokes into one sentence."""
        try:
            yield
        except (ReportedError, FileNotFoundError):
            self.close()
            raise
        except Exception as error:
            damage = None if self._raw is None else self._raw.error
            self.close()
            raise (damage or FormatError(_damaged(self.path, error))) from error

    def _data(self, layer: str) -> h5py.Dataset:
        self.check_layer(layer)
        where = f"{group_of(layer)}/x"
        data = self._dataset(where)
        if where not in self._checked_data:
            if data.dtype.kind not in "fiub" or data.dtype.itemsize > 16:
                raise ValueError(f"layer {layer!r} holds no numbers: its type is {data.dtype}")
            if data.ndim != len(dims := self.info[layer].dims):
                raise ValueError(f"layer {layer!r} has shape {data.shape} for the axes {dims}")
            _check_rows(self.path, f"/{where}", data, self.n_committed, exact=self.complete)
            self._checked_data.add(where)
        if not filters_of(data):
            return data
        properties = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)  # hold one chunk, so that it is unpacked once, not row by row
        properties.set_chunk_cache(521, int(np.prod(data.chunks)) * data.dtype.itemsize, 0.0)
        del data  # or the cache of the open data set would be kept
        return h5py.Dataset(h5py.h5d.open(self._file.id, where.encode(), properties))

    def _column(self, name: str) -> NDArray[Any]:
        """Ids, labels, splits or targets, of the type and shape that they must have."""
        data = self._dataset(f"obs/{name}")
        _check_rows(self.path, f"/obs/{name}", data, self.n_committed, exact=self.complete)
        kinds, ndims, what = _COLUMNS[name]
        text = h5py.check_string_dtype(data.dtype) is not None
        kind = "text" if text else data.dtype.kind.replace("u", "i")
        if kind not in kinds or data.ndim not in ndims:
            raise ValueError(f"/obs/{name} has shape {data.shape} and type {data.dtype}; {what} per sample is needed")
        if text:
            values = np.asarray(data.asstr()[: self.n_committed], dtype=np.str_)
        else:
            values = np.asarray(data[: self.n_committed], dtype=np.float64 if kind == "f" else np.int64)
        return as_ids(values) if name == "id" else values.reshape(len(values), -1) if name == "target" else values

    def _dataset(self, where: str) -> h5py.Dataset:
        """A data set of this file, once it is known to hold its own data."""
        return _own(self._file, where, self.path)

    def _block_rows(self, data: Sequence[h5py.Dataset]) -> int:
        """Rows per batch: whole chunks, so that a compressed chunk is unpacked once."""
        row_bytes = sum(source.dtype.itemsize * int(np.prod(source.shape[1:])) for source in data)
        rows = max(1, _BLOCK_BYTES // max(1, row_bytes))
        chunk = min((source.chunks[0] for source in data if source.chunks), default=1)
        return int(rows if rows < chunk else rows - rows % chunk)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None, "_raw": None, "_texts": None}  # the copy opens the file, compares its identity

    def __repr__(self) -> str:
        state = "" if self.complete else ", incomplete"
        return f"<Store {self.path}: {len(self)} samples, {len(self.layers)} layers{state}>"


def _read(source: h5py.Dataset, rows: slice) -> NDArray[Any]:
    array = np.empty((rows.stop - rows.start, *source.shape[1:]), source.dtype)
    if array.size:
        source.read_direct(array, rows)
    return array


def _damaged(path: Path | str, error: BaseException | str) -> str:
    return f"{path} is damaged ({error}). Copy it again from where it was written, or extract it again."


def _open(path: Path) -> tuple[h5py.File, RawFile | None]:
    if path.is_dir():
        raise FormatError(f"{path} is a folder, not an activations file.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    raw = open_bytes(path)
    try:
        return (h5py.File(path, "r") if raw is None else open_hdf5(raw, writable=False)), raw
    except OSError as error:
        damage = None if raw is None else raw.error
        if raw is not None:
            raw.close()
        what = "it ends before its data does" if "truncated" in str(error) else str(error)
        raise (damage or FormatError(_damaged(path, what))) from error


def _mapping(text: Any, kind: Callable[[Any], Any]) -> dict[str, Any]:
    """A JSON object whose values are of one kind."""
    value = json.loads(text or "{}")
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no mapping")
    return {str(key): kind(item) for key, item in value.items()}


def _attributes(file: h5py.File) -> dict[str, Any]:
    """Attributes of the root as Python's own types: texts and numbers, nothing else."""
    attrs = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items() if key != "seal"
    }
    for key, value in attrs.items():
        if not isinstance(value, str | int | float) or (key in ("shard", "shards") and not isinstance(value, int)):
            raise TypeError(f"the attribute {key} is of type {type(value).__name__}")
    return attrs


def _identity(file: h5py.File, raw: RawFile | None, path: Path) -> tuple[Any, ...]:
    """What tells a file from the one that replaces it, after the checks of its header that need no data.

    A file's uuid, and the rows that it had: one whose writing goes on is another. Version 1 had no uuid.
    """
    attrs = {name: file.attrs.get(name) for name in ("format", "format_version", "n_committed", "complete", "seal", "created")}
    attrs = {key: value.item() if isinstance(value, np.generic) else value for key, value in attrs.items()}
    if attrs["format"] != FORMAT:
        raise FormatError(f"{path} is an HDF5 file, but not an activations file (attribute format).")
    version, n, complete = attrs["format_version"], attrs["n_committed"], attrs["complete"]
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise FormatError(f"{path} has format version {version}; this repanalysis reads 1 to {FORMAT_VERSION}: update it.")
    if version > 1 and raw is None:
        raise FormatError(_damaged(path, "it has lost its seal"))
    if not isinstance(n, int) or n < 0 or complete not in (0, 1):
        raise FormatError(_damaged(path, f"n_committed is {n}, complete is {complete}"))
    if raw is not None:
        return (attrs["seal"], attrs["created"], n, complete, raw.is_interrupted)
    status = path.stat()
    return (attrs["created"], n, complete, status.st_ino, status.st_size, status.st_mtime_ns)


def _own(file: h5py.File, where: str, path: Path) -> h5py.Dataset:
    """A data set, on a way without links, whose data lies in this file and goes through known filters."""
    group, parts = file, where.strip("/").split("/")
    for part in parts[:-1]:
        group = _member(group, part, path)
        if not isinstance(group, h5py.Group):
            raise KeyError(f"{group.name} is no group")
    data = _member(group, parts[-1], path)
    if not isinstance(data, h5py.Dataset):
        raise KeyError(f"{data.name} is no data set")
    _refuse_foreign_data(data, path)
    return data


def _member(group: h5py.Group, name: str, path: Path) -> h5py.Group | h5py.Dataset:
    """What a group holds under a name, itself and not by a link."""
    if name not in group:
        raise KeyError(f"{group.name.rstrip('/')}/{name} is missing")
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise FormatError(
            f"{path} is refused: {group.name.rstrip('/')}/{name} is a link; activations files hold their own data."
        )
    return group[name]


def _refuse_foreign_data(data: h5py.Dataset, path: Path) -> None:
    """Refuse data that lies elsewhere, or goes through a filter that is not ours."""
    if data.external or data.is_virtual:
        raise FormatError(f"{path} is refused: the data of {data.name} lies in another file.")
    for code in filters_of(data):
        if code not in FILTERS:
            raise FormatError(f"{path} is refused: {data.name} goes through the unknown filter {code}.")
        if code > 32000:
            load_plugins(f"{path}, which is packed with {FILTERS[code]},")


def _refuse_foreign(file: h5py.File, path: Path) -> None:
    """Refuse every way in which an HDF5 file can lead a reader to other files or round in circles, also where we never read."""
    seen: set[int] = set()
    waiting: list[h5py.Group] = [file]
    while waiting:
        group = waiting.pop()
        for name in group:
            node = _member(group, name, path)
            address = h5py.h5o.get_info(node.id).addr
            if address in seen or len(seen) > _MAX_NODES:
                where = f"{group.name.rstrip('/')}/{name}"
                raise FormatError(f"{path} is refused: {where} is there twice, or there are too many groups.")
            seen.add(address)
            if isinstance(node, h5py.Group):
                waiting.append(node)
            elif isinstance(node, h5py.Dataset):
                _refuse_foreign_data(node, path)


def read_layers(file: h5py.File, n: int, path: Path, table: Any = None) -> dict[str, LayerInfo]:
    """LayerInfo of every layer, in order of execution.

    Parameters
    ----------
    file : h5py.File
        An activations file.
    n : int
        Rows that are promised.
    path : pathlib.Path
        What messages call the file.
    table : str, optional
        The descriptions of all layers, JSON; before version 3 each stood with its layer only.

    Raises
    ------
    FormatError
        If a description is missing or contradicts itself, or there are no samples where there should be.
    """
    groups = [f"layers/{key}" for key in file.get("layers", ())]
    if n and ("obs/id" not in file or not groups):
        raise FormatError(_damaged(path, f"it names {n} samples but holds no ids or no layers"))
    if table is None:
        infos = [_described(_own(file, f"{group}/x", path), group[7:]) for group in groups]
    else:
        infos = [_layer_info(values) for values in json.loads(table)]
    if mismatched := {group_of(info.name) for info in infos} ^ set(groups):
        raise ValueError(
            f"layer {min(mismatched)[7:]!r} lacks its description or its data; or its name is not that of its data"
        )
    return {info.name: info for info in sorted(infos, key=lambda info: info.order)}


_TEXTS = ("name", "pool", "module_type", "dtype_source", "axes_from", "padding")
_COUNTS = ("order", "call_index", "prefix_tokens")
_LISTS = ("dims", "source_shape", "source_dims")


def _described(data: h5py.Dataset, name: str) -> LayerInfo:
    """A layer's description as it stands with the layer."""
    attrs = {key: value.item() if isinstance(value, np.generic) else value for key, value in data.attrs.items()}
    values = {key: attrs[key] for key in LAYER_FIELDS if key in attrs}
    try:
        return _layer_info(values | {key: json.loads(values[key]) for key in _LISTS if key in values})
    except (KeyError, TypeError) as error:
        raise ValueError(f"layer {name!r} lacks its description: {error}") from error


def _layer_info(values: Mapping[str, Any]) -> LayerInfo:
    """A layer's description, each part of the type that it must have; parts that a later version added are passed over."""
    values = {name: values[name] for name in LAYER_FIELDS if name in values}
    texts = [*(values.get(name, "") for name in _TEXTS), *values["dims"], *values.get("source_dims", ())]
    counts = [*(values.get(name, 0) for name in _COUNTS), *values.get("source_shape", ())]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(count, int) for count in counts):
        raise TypeError("an attribute has another type than it should")
    lists = {name: tuple(values[name]) for name in _LISTS if name in values}
    return LayerInfo(**values | lists | {"depth": float(values["depth"]), "averaged": float(values.get("averaged", 1.0))})


def _class_names(data: h5py.Dataset) -> list[str]:
    if data.ndim != 1 or h5py.check_string_dtype(data.dtype) is None:
        raise ValueError(f"{data.name} has shape {data.shape} and type {data.dtype}; a text per class is needed")
    return list(data.asstr()[:])


def _check_rows(path: Path, where: str, data: h5py.Dataset, n: int, *, exact: bool) -> None:
    """Refuse data that has not the rows that are promised, was never written, or unpacks into absurd amounts."""
    if not data.ndim or len(data) < n or (exact and len(data) != n):
        rows = f"{len(data)} rows, {n} are promised" if data.ndim else "no rows"
        raise FormatError(_damaged(path, f"{where} has {rows}"))
    if data.chunks is None:
        stored, needed = data.id.get_storage_size(), n * data.dtype.itemsize * int(np.prod(data.shape[1:], dtype=object))
    else:
        stored, needed = data.id.get_num_chunks(), -(-n // data.chunks[0])
        if data.chunks[1:] != data.shape[1:]:
            raise FormatError(_damaged(path, f"the chunks of {where} do not hold whole rows"))
        size = int(np.prod(data.chunks, dtype=object)) * data.dtype.itemsize
        if size > _MAX_CHUNK and data.chunks[0] > 1:
            raise FormatError(f"{path} is refused: the chunks of {where} have {size >> 20} MB each.")
    if stored < needed:
        raise FormatError(_damaged(path, f"{where} has {len(data)} rows, but not all of them were written"))

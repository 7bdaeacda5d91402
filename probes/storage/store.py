"""Reading an activations file: lazily, with checks, and without torch.

`docs/format.md` describes the format. A read returns committed data or raises: bytes are checked against the file's seal
(`seal.py`). Content that would make a reader open another file, run an unknown filter or allocate absurd amounts of memory is
refused before any data is read. Opening a file checks its header and its sample columns. Each layer is checked before its first
read, so that a file of 20,000 layers opens in a second.
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
_BATCH_BYTES = 32 << 20  # target size of a batch in `iter`
_MAX_CHUNK = 1 << 30  # limit of a chunk with several rows: chunks are decompressed as a whole
_MAX_NODES = 1_000_000
_OPEN: WeakSet[Store] = WeakSet()


@atexit.register
def _close_all() -> None:
    """Close all stores; else HDF5 closes their files after Python has ended, through a Python object."""
    for store in list(_OPEN):
        store.close()


class Store(Source):
    """A lazily read activations file: data is loaded on access, and torch is never imported.

    Parameters
    ----------
    path : path-like
        The file.
    partial : bool, default False
        Whether to read the committed samples of an incomplete file.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    FormatError
        If it is not an activations file, is damaged, or points to other files. Also while reading: bytes are checked
        as they are read.
    IncompleteError
        If the file is incomplete and `partial` is false.

    Attributes
    ----------
    identity : tuple
        Values that distinguish this file from any other, such as its uuid.

    Notes
    -----
    A store can be pickled. The copy opens the file at its first read, and so does a store that was closed. If the file was
    replaced or extended in the meantime, that read raises `FormatError`.
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
                f"{self.path} is incomplete: its writing stopped after {self.n_committed} samples. Continue it with --resume "
                f"(resume=True), or read these samples: --partial on the command line, probes.open(path, partial=True)."
            )

    @property
    def _file(self) -> h5py.File:
        if self._handle is None:
            self._handle, self._raw = _open(self.path)
            _OPEN.add(self)
            self._checked_data: set[str] = set()
            if self.identity is None:
                self.identity = _identity(self._handle, self._raw, self.path)
            self.refuse_replaced(self.identity)
        return self._handle

    def refuse_replaced(self, identity: tuple[Any, ...] | None) -> None:
        """Raise `FormatError` if the file's identity is not `identity`."""
        if _identity(self._file, self._raw, self.path) != identity:
            self.close()
            raise FormatError(
                f"{self.path} was replaced or written to since it was opened: earlier and later reads would belong to "
                f"different files. Open it again."
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
        if are_texts(ids):  # cached: reading a million texts takes seconds, and each layer's rows are read with their ids
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
        """Continuous targets of each sample, (n, t), NaN where a target is missing; or None."""
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
        """Weights (K, d) and offsets (K,) of the network's final linear layer, or None."""
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
        """Number of NaN and inf values of each layer that has any."""
        return dict(self._non_finite)

    def __len__(self) -> int:
        return self.n_committed

    def __getitem__(self, layer: str) -> NDArray[Any]:
        """All rows of one layer, (n, ...)."""
        with self._wrap_errors():
            return _read(self._data(layer), slice(0, self.n_committed))

    def take(self, layer: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """The given rows of one layer, (len(rows), ...); other rows are not read."""
        with self._wrap_errors():
            data = self._data(layer)
            return np.concatenate([_read(data, slice(int(row), int(row) + 1)) for row in rows])

    def shape(self, layer: str) -> tuple[int, ...]:
        """Shape of one layer's rows, (n, ...), without reading them."""
        with self._wrap_errors():
            return (self.n_committed, *self._data(layer).shape[1:])

    def iter(self, layers: Sequence[str] | None = None, size: int | None = None) -> Iterator[Batch]:
        """Batches of rows in file order, by default whole chunks of together about 32 MB. See `Source.iter`."""
        with self._wrap_errors():
            data = {name: self._data(name) for name in (self.layers if layers is None else layers)}
            step = size or self._batch_rows(list(data.values()))
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
        """Check all objects of the file, also those that are never read, without reading layer data.

        Raises
        ------
        FormatError
            If a link or data set leads to another file, if links form a cycle, if a layer does not have one row per sample, or
            if its two descriptions differ.
        """
        with self._wrap_errors():
            _refuse_foreign(self._file, self.path)
            scale = self._dataset("sample")
            if self.complete and scale.shape != (self.n_committed,):
                raise ValueError(f"the axis of samples has shape {scale.shape}, but the file has {self.n_committed} samples")
            for name in self.layers:
                if _stored_info(self._data(name), name) != self.info[name]:
                    raise ValueError(f"layer {name!r} is described in two ways")

    def _check_samples(self) -> None:
        """Raise if a column does not fit the n samples: wrong length, repeated ids, or labels outside the classes."""
        columns = {"id": self.ids, "label": self.labels, "split": self.split, "target": self.targets}
        for name, values in columns.items():
            if values is not None and len(values) != self.n_committed:
                raise ValueError(f"/obs/{name} has {len(values)} rows, but the file has {self.n_committed} samples")
        if (repeated := duplicate(self.ids)) is not None:
            raise ValueError(f"sample id {repeated!r} is repeated")
        class_names, labels = self.class_names, columns["label"]
        if class_names is not None and labels is not None and labels.max(initial=-1) >= len(class_names):
            raise ValueError(f"there is a label {labels.max()}, and {len(class_names)} class names")
        if labels is not None and labels.min(initial=0) < -1:
            raise ValueError(f"there is a label {labels.min()}; a sample without a class has -1")

    def close(self) -> None:
        """Close the file; it opens again at the next read."""
        if self._handle is not None:
            with suppress(Exception):  # nothing is written, so errors of closing a damaged file do not matter
                self._handle.close()
            if self._raw is not None:
                self._raw.close()
            self._forget()
            _OPEN.discard(self)

    @contextmanager
    def _wrap_errors(self) -> Iterator[None]:
        """Turn any exception of a damaged file into a `FormatError` of one sentence."""
        try:
            yield
        except (ReportedError, FileNotFoundError):
            self.close()
            raise
        except Exception as error:
            damage = None if self._raw is None else self._raw.error
            self.close()
            raise (damage or FormatError(_damage_message(self.path, error))) from error

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
        properties = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)  # cache one chunk: it is decompressed once, not for each row
        properties.set_chunk_cache(521, int(np.prod(data.chunks)) * data.dtype.itemsize, 0.0)
        del data  # else the cache size of the open data set would be used
        return h5py.Dataset(h5py.h5d.open(self._file.id, where.encode(), properties))

    def _column(self, name: str) -> NDArray[Any]:
        """Ids, labels, splits or targets, after checking their type and shape."""
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
        """A data set of this file, after checking that its data lies in this file."""
        return _own_dataset(self._file, where, self.path)

    def _batch_rows(self, data: Sequence[h5py.Dataset]) -> int:
        """Rows per batch: whole chunks, so that each compressed chunk is decompressed once."""
        row_bytes = sum(source.dtype.itemsize * int(np.prod(source.shape[1:])) for source in data)
        rows = max(1, _BATCH_BYTES // max(1, row_bytes))
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


def _damage_message(path: Path | str, error: BaseException | str) -> str:
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
        reason = "it ends before its data does" if "truncated" in str(error) else str(error)
        raise (damage or FormatError(_damage_message(path, reason))) from error


def _mapping(text: Any, kind: Callable[[Any], Any]) -> dict[str, Any]:
    """A JSON object whose values are of one kind."""
    value = json.loads(text or "{}")
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is not a mapping")
    return {str(key): kind(item) for key, item in value.items()}


def _attributes(file: h5py.File) -> dict[str, Any]:
    """Attributes of the root as Python's own types; any other type than text and numbers raises TypeError."""
    attrs = {
        key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items() if key != "seal"
    }
    for key, value in attrs.items():
        if not isinstance(value, str | int | float) or (key in ("shard", "shards") and not isinstance(value, int)):
            raise TypeError(f"the attribute {key} is of type {type(value).__name__}")
    return attrs


def _identity(file: h5py.File, raw: RawFile | None, path: Path) -> tuple[Any, ...]:
    """Check a file's header and return the values that distinguish the file from any other.

    These are the uuid, the number of rows and the completeness, since a file that grows counts as another file. Files of
    version 1 have no uuid; there they include inode, size and modification time.
    """
    attrs = {name: file.attrs.get(name) for name in ("format", "format_version", "n_committed", "complete", "seal", "created")}
    attrs = {key: value.item() if isinstance(value, np.generic) else value for key, value in attrs.items()}
    if attrs["format"] != FORMAT:
        raise FormatError(f"{path} is an HDF5 file, but not an activations file (attribute format).")
    version, n, complete = attrs["format_version"], attrs["n_committed"], attrs["complete"]
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise FormatError(f"{path} has format version {version}; this repanalysis reads 1 to {FORMAT_VERSION}: update it.")
    if version > 1 and raw is None:
        raise FormatError(_damage_message(path, "its seal is missing"))
    if not isinstance(n, int) or n < 0 or complete not in (0, 1):
        raise FormatError(_damage_message(path, f"n_committed is {n}, complete is {complete}"))
    if raw is not None:
        return (attrs["seal"], attrs["created"], n, complete, raw.is_interrupted)
    status = path.stat()
    return (attrs["created"], n, complete, status.st_ino, status.st_size, status.st_mtime_ns)


def _own_dataset(file: h5py.File, where: str, path: Path) -> h5py.Dataset:
    """A data set whose path has no links, whose data lies in this file, and whose filters are all known."""
    group, parts = file, where.strip("/").split("/")
    for part in parts[:-1]:
        group = _member(group, part, path)
        if not isinstance(group, h5py.Group):
            raise KeyError(f"{group.name} is not a group")
    data = _member(group, parts[-1], path)
    if not isinstance(data, h5py.Dataset):
        raise KeyError(f"{data.name} is not a data set")
    _refuse_foreign_data(data, path)
    return data


def _member(group: h5py.Group, name: str, path: Path) -> h5py.Group | h5py.Dataset:
    """The member of a group with a name; a soft or external link raises `FormatError`."""
    if name not in group:
        raise KeyError(f"{group.name.rstrip('/')}/{name} is missing")
    if group.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
        raise FormatError(
            f"{path} is refused: {group.name.rstrip('/')}/{name} is a link; activations files hold their own data."
        )
    return group[name]


def _refuse_foreign_data(data: h5py.Dataset, path: Path) -> None:
    """Raise `FormatError` if data lies in another file or uses an unknown filter."""
    if data.external or data.is_virtual:
        raise FormatError(f"{path} is refused: the data of {data.name} lies in another file.")
    for code in filters_of(data):
        if code not in FILTERS:
            raise FormatError(f"{path} is refused: {data.name} uses the unknown filter {code}.")
        if code > 32000:
            load_plugins(f"{path}, which is compressed with {FILTERS[code]},")


def _refuse_foreign(file: h5py.File, path: Path) -> None:
    """Raise `FormatError` if any object of a file leads to another file or closes a cycle, also objects that are never read."""
    seen: set[int] = set()
    unvisited: list[h5py.Group] = [file]
    while unvisited:
        group = unvisited.pop()
        for name in group:
            node = _member(group, name, path)
            address = h5py.h5o.get_info(node.id).addr
            if address in seen or len(seen) > _MAX_NODES:
                where = f"{group.name.rstrip('/')}/{name}"
                raise FormatError(f"{path} is refused: {where} is there twice, or there are too many groups.")
            seen.add(address)
            if isinstance(node, h5py.Group):
                unvisited.append(node)
            elif isinstance(node, h5py.Dataset):
                _refuse_foreign_data(node, path)


def read_layers(file: h5py.File, n: int, path: Path, table: Any = None) -> dict[str, LayerInfo]:
    """LayerInfo of every layer, in order of execution.

    Parameters
    ----------
    file : h5py.File
        An activations file.
    n : int
        Number of committed rows.
    path : pathlib.Path
        Path of the file, for messages.
    table : str, optional
        The descriptions of all layers, JSON. Files before version 3 have only the description at each layer.

    Raises
    ------
    FormatError
        If there are samples but no ids or layers.
    ValueError
        If the description or the data of a layer is missing.
    """
    groups = [f"layers/{key}" for key in file.get("layers", ())]
    if n and ("obs/id" not in file or not groups):
        raise FormatError(_damage_message(path, f"it has {n} samples, but no ids or no layers"))
    if table is None:
        infos = [_stored_info(_own_dataset(file, f"{group}/x", path), group[7:]) for group in groups]
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


def _stored_info(data: h5py.Dataset, name: str) -> LayerInfo:
    """A layer's description, from the attributes of its data set."""
    attrs = {key: value.item() if isinstance(value, np.generic) else value for key, value in data.attrs.items()}
    values = {key: attrs[key] for key in LAYER_FIELDS if key in attrs}
    try:
        return _layer_info(values | {key: json.loads(values[key]) for key in _LISTS if key in values})
    except (KeyError, TypeError) as error:
        raise ValueError(f"layer {name!r} lacks its description: {error}") from error


def _layer_info(values: Mapping[str, Any]) -> LayerInfo:
    """A layer's description, after checking the type of each field; fields of later versions are ignored."""
    values = {name: values[name] for name in LAYER_FIELDS if name in values}
    texts = [*(values.get(name, "") for name in _TEXTS), *values["dims"], *values.get("source_dims", ())]
    counts = [*(values.get(name, 0) for name in _COUNTS), *values.get("source_shape", ())]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(count, int) for count in counts):
        raise TypeError("an attribute has the wrong type")
    lists = {name: tuple(values[name]) for name in _LISTS if name in values}
    return LayerInfo(**values | lists | {"depth": float(values["depth"]), "averaged": float(values.get("averaged", 1.0))})


def _class_names(data: h5py.Dataset) -> list[str]:
    if data.ndim != 1 or h5py.check_string_dtype(data.dtype) is None:
        raise ValueError(f"{data.name} has shape {data.shape} and type {data.dtype}; a text per class is needed")
    return list(data.asstr()[:])


def _check_rows(path: Path, where: str, data: h5py.Dataset, n: int, *, exact: bool) -> None:
    """Raise `FormatError` if data has fewer than n rows, has unwritten rows, or has chunks that are too large."""
    if not data.ndim or len(data) < n or (exact and len(data) != n):
        rows = f"{len(data)} rows, but the file has {n} samples" if data.ndim else "no rows"
        raise FormatError(_damage_message(path, f"{where} has {rows}"))
    if data.chunks is None:
        stored, needed = data.id.get_storage_size(), n * data.dtype.itemsize * int(np.prod(data.shape[1:], dtype=object))
    else:
        stored, needed = data.id.get_num_chunks(), -(-n // data.chunks[0])
        if data.chunks[1:] != data.shape[1:]:
            raise FormatError(_damage_message(path, f"the chunks of {where} do not hold whole rows"))
        size = int(np.prod(data.chunks, dtype=object)) * data.dtype.itemsize
        if size > _MAX_CHUNK and data.chunks[0] > 1:
            raise FormatError(f"{path} is refused: the chunks of {where} have {size >> 20} MB each.")
    if stored < needed:
        raise FormatError(_damage_message(path, f"{where} has {len(data)} rows, but not all of them were written"))

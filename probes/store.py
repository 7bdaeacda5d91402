"""Reading an activations file: lazily, checked, and without torch.

`docs/format.md` describes the file. What is read is what was committed, or an error: bytes are checked against the file's
seal (`sealed.py`), and whatever could make a reader open another file, run a filter that is not ours, or ask for absurd
amounts of memory is refused before any data is read.
"""

from __future__ import annotations

import atexit
import json
from collections.abc import Callable, Iterator, Sequence
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
from probes.format import FILTERS, FORMAT, FORMAT_VERSION, LAYER_FIELDS, filters_of, group_of, load_plugins, open_hdf5
from probes.ids import are_texts, as_ids
from probes.sealed import RawFile, is_interrupted, open_bytes
from probes.source import Source

__all__ = ["Store", "read_ids", "read_layers"]

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

    Notes
    -----
    A store can be pickled: the copy opens the file anew, where it is first read.
    """

    def __init__(self, path: str | PathLike[str], *, partial: bool = False) -> None:
        self.path = Path(path)
        self.partial = partial
        self._handle: h5py.File | None = None
        self._raw: RawFile | None = None
        self._texts: NDArray[Any] | None = None
        with self._checked():
            self.attrs = _header(self._file, self.path, sealed=self._raw is not None)
            self.n_committed = int(self.attrs["n_committed"])
            self.complete = bool(self.attrs["complete"]) and not is_interrupted(self.path)
            self.info = read_layers(self._file, self.n_committed, self.path)
            self._left_out = _mapping(self.attrs.get("left_out"), str)
            self._non_finite = _mapping(self.attrs.get("non_finite"), int)
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
        return self._handle

    @property
    def title(self) -> str:
        """The path."""
        return str(self.path)

    @property
    def ids(self) -> NDArray[Any]:
        """Sample ids, (n,): integers or texts."""
        if self._texts is not None:
            return self._texts
        with self._checked():
            ids = read_ids(self._file, self.n_committed, self.path) if self.info else np.zeros(0, np.int64)
        if are_texts(ids):  # a million of them take seconds to read, and every layer's rows come with them
            ids.setflags(write=False)
            self._texts = ids
        return ids

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each sample, (n,), or None."""
        with self._checked():
            return np.asarray(self._file["obs/label"][: self.n_committed]) if "obs/label" in self._file else None

    @property
    def targets(self) -> NDArray[np.float64] | None:
        """Continuous targets of each sample, (n, t), NaN where it has none; or None."""
        with self._checked():
            if "obs/target" not in self._file:
                return None
            targets = np.asarray(self._file["obs/target"][: self.n_committed], dtype=np.float64)
            return targets.reshape(len(targets), -1)

    @property
    def split(self) -> NDArray[np.str_] | None:
        """Split of each sample, (n,), or None."""
        with self._checked():
            if "obs/split" not in self._file:
                return None
            return np.asarray(self._file["obs/split"].asstr()[: self.n_committed], dtype=np.str_)

    @property
    def class_names(self) -> list[str] | None:
        """Name of class 0, 1, ..., or None."""
        with self._checked():
            return list(self._file["obs/class_names"].asstr()[:]) if "obs/class_names" in self._file else None

    @property
    def head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Weights (K, d) and offsets (K,) of the linear layer that the network ends with, or None."""
        with self._checked():
            if "head" not in self._file:
                return None
            weight, bias = (np.asarray(self._file[f"head/{part}"][()], np.float32) for part in ("weight", "bias"))
            if weight.ndim != 2 or bias.shape != weight.shape[:1]:
                raise FormatError(_damaged(self.path, f"its head has weights {weight.shape} and offsets {bias.shape}"))
            return weight, bias

    @property
    def left_out(self) -> dict[str, str]:
        """Layers that ran but were not recorded, each with its reason."""
        return dict(self._left_out)

    @property
    def non_finite(self) -> dict[str, int]:
        """Layers that hold NaN or inf, and how many of them."""
        return dict(self._non_finite)

    def __len__(self) -> int:
        return self.n_committed

    def __getitem__(self, layer: str) -> NDArray[Any]:
        """All rows of one layer, (n, ...)."""
        with self._checked():
            return _read(self._data(layer), slice(0, self.n_committed))

    def take(self, layer: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Chosen rows of one layer, (len(rows), ...); the others are not read."""
        with self._checked():
            data = self._data(layer)
            return np.concatenate([_read(data, slice(int(row), int(row) + 1)) for row in rows])

    def shape(self, layer: str) -> tuple[int, ...]:
        """Shape of one layer's rows, (n, ...), without reading them."""
        with self._checked():
            return (self.n_committed, *self._data(layer).shape[1:])

    def iter(self, layers: Sequence[str] | None = None, size: int | None = None) -> Iterator[Batch]:
        """Batches of rows in file order; by default of whole chunks, about 32 MB. See `Source.iter`."""
        with self._checked():
            data = {name: self._data(name) for name in (self.layers if layers is None else layers)}
            step = size or self._block_rows(list(data.values()))
        ids, labels, split, targets, names = self.ids, self.labels, self.split, self.targets, self.target_names
        for start in range(0, self.n_committed, step):
            rows = slice(start, min(start + step, self.n_committed))
            with self._checked():
                arrays = {name: _read(source, rows) for name, source in data.items()}
            yield Batch(
                ids=ids[rows],
                layers=arrays,
                labels=None if labels is None else labels[rows],
                split=None if split is None else split[rows],
                info={name: self.info[name] for name in data},
                left_out=self.left_out,
                ids_from=str(self.attrs.get("ids_from", "")),
                targets=None if targets is None else targets[rows],
                target_names=names,
            )

    def close(self) -> None:
        """Close the file; it opens again at the next read."""
        if self._handle is not None:
            with suppress(Exception):  # nothing is written: what a damaged file says on being closed is of no use
                self._handle.close()
            if self._raw is not None:
                self._raw.close()
            self._handle = self._raw = None
            _OPEN.discard(self)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Turn whatever a damaged file provokes into one sentence."""
        try:
            yield
        except (ReportedError, FileNotFoundError):
            self.close()
            raise
        except Exception as error:
            found = None if self._raw is None else self._raw.error
            self.close()
            raise (found or FormatError(_damaged(self.path, error))) from error

    def _data(self, layer: str) -> h5py.Dataset:
        self.check_layer(layer)
        data = self._file[group_of(layer)]["x"]
        if not filters_of(data):
            return data
        properties = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)  # hold one chunk, so that it is unpacked once, not row by row
        properties.set_chunk_cache(521, int(np.prod(data.chunks)) * data.dtype.itemsize, 0.0)
        del data  # or the cache of the open data set would be kept
        return h5py.Dataset(h5py.h5d.open(self._file.id, f"{group_of(layer)}/x".encode(), properties))

    def _block_rows(self, data: Sequence[h5py.Dataset]) -> int:
        """Rows per batch: whole chunks, so that a compressed chunk is unpacked once."""
        row_bytes = sum(source.dtype.itemsize * int(np.prod(source.shape[1:])) for source in data)
        rows = max(1, _BLOCK_BYTES // max(1, row_bytes))
        chunk = min((source.chunks[0] for source in data if source.chunks), default=1)
        return int(rows if rows < chunk else rows - rows % chunk)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_handle": None, "_raw": None, "_texts": None}

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
        found = None if raw is None else raw.error
        if raw is not None:
            raw.close()
        what = "it ends before its data does" if "truncated" in str(error) else str(error)
        raise (found or FormatError(_damaged(path, what))) from error


def _mapping(text: Any, kind: Callable[[Any], Any]) -> dict[str, Any]:
    """A JSON object whose values are of one kind."""
    value = json.loads(text or "{}")
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no mapping")
    return {str(key): kind(item) for key, item in value.items()}


def _header(file: h5py.File, path: Path, *, sealed: bool) -> dict[str, Any]:
    """Root attributes of a file of ours, after the checks that need no data."""
    attrs = {key: value.item() if isinstance(value, np.generic) else value for key, value in file.attrs.items()}
    if attrs.get("format") != FORMAT:
        raise FormatError(f"{path} is an HDF5 file, but not an activations file (attribute format).")
    version = attrs.get("format_version")
    if not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise FormatError(f"{path} has format version {version}; this repanalysis reads 1 to {FORMAT_VERSION}: update it.")
    if version > 1 and not sealed:
        raise FormatError(_damaged(path, "it has lost its seal"))
    _refuse_foreign(file, path)
    if not isinstance(attrs.get("n_committed"), int) or attrs["n_committed"] < 0 or "complete" not in attrs:
        raise FormatError(_damaged(path, "n_committed or complete is missing"))
    attrs.pop("seal", None)
    return attrs


def _refuse_foreign(file: h5py.File, path: Path) -> None:
    """Refuse every way in which an HDF5 file can make a reader open another file, run an unknown filter, or run for ever."""
    seen: set[int] = set()
    waiting: list[h5py.Group] = [file]
    while waiting:
        group = waiting.pop()
        for name in group:
            where = f"{group.name.rstrip('/')}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise FormatError(f"{path} is refused: {where} is a link; activations files hold their own data.")
            node = group[name]
            address = h5py.h5o.get_info(node.id).addr
            if address in seen or len(seen) > _MAX_NODES:
                raise FormatError(f"{path} is refused: {where} is there twice, or there are too many groups.")
            seen.add(address)
            if isinstance(node, h5py.Group):
                waiting.append(node)
            elif isinstance(node, h5py.Dataset):
                if node.external or node.is_virtual:
                    raise FormatError(f"{path} is refused: the data of {where} lies in another file.")
                for code in filters_of(node):
                    if code not in FILTERS:
                        raise FormatError(f"{path} is refused: {where} goes through the unknown filter {code}.")
                    if code > 32000:
                        load_plugins(f"{path}, which is packed with {FILTERS[code]},")


def read_layers(file: h5py.File, n: int, path: Path) -> dict[str, LayerInfo]:
    """LayerInfo of every layer, in order of execution, after a check that all rows are there.

    Parameters
    ----------
    file : h5py.File
        An activations file.
    n : int
        Rows that are promised.
    path : pathlib.Path
        What messages call the file.

    Raises
    ------
    FormatError
        If a description is missing, a layer has fewer rows, or its data can't be what it says.
    """
    found: dict[str, LayerInfo] = {}
    columns = {f"/obs/{key}": file[f"obs/{key}"] for key in ("id", "label", "split", "target") if f"obs/{key}" in file}
    groups = file.get("layers", {})
    if n and ("/obs/id" not in columns or not groups):
        raise FormatError(_damaged(path, f"it names {n} samples but holds no ids or no layers"))
    key = ""
    try:
        for key in groups:
            data = columns[f"/layers/{key}/x"] = groups[key]["x"]
            info = _layer_info(data)
            if group_of(info.name) != f"layers/{key}" or info.name in found or len(info.dims) != data.ndim:
                raise ValueError(f"its name or dims do not fit: {info.name!r}, {info.dims}")
            if data.dtype.kind not in "fiub" or data.dtype.itemsize > 16:
                raise ValueError(f"its type is {data.dtype}")
            found[info.name] = info
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise FormatError(_damaged(path, f"layer {key!r} lacks its description: {error}")) from error
    for where, data in columns.items():
        _check_rows(path, where, data, n)
    return dict(sorted(found.items(), key=lambda item: item[1].order))


def read_ids(file: h5py.File, n: int, path: Path) -> NDArray[Any]:
    """The first n sample ids of an activations file, integers or texts.

    Raises
    ------
    FormatError
        If they are anything else.
    """
    data = file["obs/id"]
    if data.dtype.kind in "OS":
        return as_ids(np.asarray(data.asstr()[:n], dtype=np.str_))
    if data.dtype.kind not in "iu":
        raise FormatError(_damaged(path, f"its sample ids are {data.dtype}"))
    return as_ids(data[:n])


_TEXTS = ("name", "pool", "module_type", "dtype_source", "axes_from", "padding")
_COUNTS = ("order", "call_index", "prefix_tokens")


def _layer_info(data: h5py.Dataset) -> LayerInfo:
    attrs = {name: value.item() if isinstance(value, np.generic) else value for name, value in data.attrs.items()}
    values = {name: attrs[name] for name in LAYER_FIELDS if name in attrs}
    values |= {name: tuple(json.loads(values[name])) for name in ("dims", "source_shape", "source_dims") if name in values}
    texts = [*(values.get(name, "") for name in _TEXTS), *values["dims"], *values.get("source_dims", ())]
    counts = [*(values.get(name, 0) for name in _COUNTS), *values.get("source_shape", ())]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(count, int) for count in counts):
        raise TypeError("an attribute has another type than it should")
    return LayerInfo(**values | {"depth": float(values["depth"]), "averaged": float(values.get("averaged", 1.0))})


def _check_rows(path: Path, where: str, data: h5py.Dataset, n: int) -> None:
    """Refuse data that is shorter than promised, was never written, or unpacks into absurd amounts."""
    if len(data) < n:
        raise FormatError(_damaged(path, f"{where} has {len(data)} rows, {n} are promised"))
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

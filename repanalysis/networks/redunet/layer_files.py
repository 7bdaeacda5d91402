"""A safetensors file to which a network's layers are appended as they are constructed.

The header of `FILE.part` is written first, for the planned number of layers: it lists the shapes and places of all tensors, so
that a layer is appended by writing its bytes. Each layer ends with a checksum (XXH3-64 of its bytes). A construction that was
killed continues after the last layer whose checksum is right. At the end `FILE.part` becomes `FILE`; if fewer layers were built
than planned, their bytes are first copied behind a header of their number. Until then no program can load it, since tensors
that its header lists are missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from probes.atomic_files import plain_file, replacing, sync_folder, try_lock
from probes.errors import FormatError, UsageError
from probes.storage.writer import part_path

__all__ = ["LayerFile", "read_layers"]

_TYPES = {"float64": "F64", "float32": "F32", "uint64": "U64", "uint8": "U8"}
_ALIGNED = 64  # bytes: operators are read in place, and products of complex numbers that are not aligned crash
_MOST_HEADER = 100_000_000  # limit of safetensors
_MARK = "repanalysis_redunet"


class _Entry(NamedTuple):
    """One tensor of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Size of its data."""
        return int(np.dtype(self.dtype).itemsize * np.prod(self.shape, dtype=np.int64))


class LayerFile:
    """An open `FILE.part`, locked for this process.

    Parameters
    ----------
    path : pathlib.Path
        FILE.
    metadata : dict
        What identifies the construction, in JSON's types.
    first : mapping of str to numpy array
        Tensors before the layers.
    layer : mapping of str to (dtype, shape)
        Tensors of every layer.
    layers : int
        Planned number of layers.
    resume, overwrite : bool
        Continue `FILE.part`, or replace what exists.

    Raises
    ------
    UsageError
        If a file exists and neither is asked for, if `FILE.part` belongs to another construction, or another process writes it.
    """

    def __init__(
        self,
        path: Path,
        metadata: Mapping[str, Any],
        first: Mapping[str, NDArray[Any]],
        layer: Mapping[str, tuple[str, tuple[int, ...]]],
        layers: int,
        *,
        resume: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.path = plain_file(path)
        self.part = part_path(path)
        _refuse_existing(self.path, self.part, resume=resume, overwrite=overwrite)
        padding = _padding("padding", sum(value.nbytes for value in first.values()))
        self._first = {**first, **{entry.name: np.zeros(entry.shape, np.uint8) for entry in padding}}
        self._metadata, self._layer, self._layers = metadata, layer, layers
        self._header = self._header_of(layers)
        self.done = 0
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = os.fdopen(os.open(self.part, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        try:
            if try_lock(self._file.fileno()) is False:
                raise UsageError(f"{self.part} is being written by another process; wait for it, or give another name.")
            if resume and self.part.stat().st_size:
                self._continue()
            else:
                self._file.truncate(0)
                self._file.write(self._header + b"".join(value.tobytes() for value in self._first.values()))
                self._file.flush()
        except BaseException:
            self._file.close()
            raise

    @property
    def _start(self) -> int:
        return len(self._header) + sum(value.nbytes for value in self._first.values())

    @property
    def _layer_bytes(self) -> int:
        return sum(entry.bytes for entry in self._entries(0))

    def _entries(self, index: int) -> list[_Entry]:
        named = [_Entry(f"layers.{index}.{name}", *kind) for name, kind in self._layer.items()]
        padding = _padding(f"layers.{index}.padding", sum(entry.bytes for entry in named) + 8)
        return [*named, *padding, _Entry(f"layers.{index}.checksum", "uint64", (1,))]

    def _header_of(self, layers: int) -> bytes:
        entries = [_Entry(name, str(value.dtype), value.shape) for name, value in self._first.items()]
        entries += [entry for index in range(layers) for entry in self._entries(index)]
        header: dict[str, Any] = {"__metadata__": {_MARK: json.dumps({**self._metadata, "layers": layers})}}
        place = 0
        for entry in entries:
            header[entry.name] = {
                "dtype": _TYPES[entry.dtype],
                "shape": list(entry.shape),
                "data_offsets": [place, place + entry.bytes],
            }
            place += entry.bytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(len(text) + 8) % _ALIGNED)
        if len(text) > _MOST_HEADER:
            raise UsageError(f"A header of {layers:,} layers is larger than safetensors allows; construct fewer.")
        return len(text).to_bytes(8, "little") + text

    def _continue(self) -> None:
        """Find the layers that are complete, and cut what follows them."""
        self._file.seek(0)
        if self._file.read(len(self._header)) != self._header:
            raise UsageError(
                f"{self.part} holds another construction (other data, labels or options); give another name, or --overwrite."
            )
        self._file.seek(self._start)
        while self.done < self._layers and self._read(self.done) is not None:
            self.done += 1
        self._file.seek(self._start + self.done * self._layer_bytes)
        self._file.truncate()

    def _read(self, index: int) -> dict[str, NDArray[Any]] | None:
        """A layer's arrays; None if it is incomplete."""
        self._file.seek(self._start + index * self._layer_bytes)
        content = self._file.read(self._layer_bytes)
        if len(content) < self._layer_bytes or xxhash.xxh3_64_intdigest(content[:-8]) != int.from_bytes(content[-8:], "little"):
            return None
        arrays, place = {}, 0
        for entry in self._entries(index)[: len(self._layer)]:
            flat = np.frombuffer(content, entry.dtype, int(np.prod(entry.shape)), place)
            arrays[entry.name.split(".", 2)[2]] = flat.reshape(entry.shape)
            place += entry.bytes
        return arrays

    def layer(self, index: int) -> dict[str, NDArray[Any]]:
        """Arrays of a complete layer."""
        arrays = self._read(index)
        if arrays is None:
            raise FormatError(f"Layer {index} of {self.part} was changed while the construction continued.")
        return arrays

    def append(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write the next layer."""
        self._file.seek(self._start + self.done * self._layer_bytes)
        content = b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in self._layer)
        content += bytes(self._layer_bytes - 8 - len(content))
        self._file.write(content + xxhash.xxh3_64_intdigest(content).to_bytes(8, "little"))
        self._file.flush()
        self.done += 1

    def finish(self, layers: int) -> None:
        """Make FILE of the first `layers` layers."""
        self._file.truncate(self._start + self.done * self._layer_bytes)
        os.fsync(self._file.fileno())
        if layers == self._layers:
            self.part.replace(self.path)
        else:
            with replacing(self.path) as draft, draft.open("r+b") as output:
                output.write(self._header_of(layers))
                self._file.seek(len(self._header))
                remaining = self._start - len(self._header) + layers * self._layer_bytes
                while remaining:
                    block = self._file.read(min(remaining, 1 << 24))
                    output.write(block)
                    remaining -= len(block)
            self.part.unlink()
        sync_folder(self.path.parent)

    def close(self) -> None:
        """Close the file; an incomplete one can be continued."""
        self._file.close()

    def __enter__(self) -> LayerFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _padding(name: str, size: int) -> list[_Entry]:
    """The entry that fills up to a multiple of 64 bytes, if one is needed."""
    return [_Entry(name, "uint8", (-size % _ALIGNED,))] if size % _ALIGNED else []


def _refuse_existing(path: Path, part: Path, *, resume: bool, overwrite: bool) -> None:
    if overwrite:
        return
    if path.exists():
        raise UsageError(f"{path} exists already; nothing was written. Give another name, or --overwrite to replace it.")
    if part.exists() and not resume:
        raise UsageError(f"{part} is an incomplete construction; --resume continues it, --overwrite starts anew.")


def read_layers(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metadata and tensors of a file; the tensors are read when they are used.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError
        If it is not a file of a ReduNet, or was cut or changed.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    if not path.is_file():
        part = part_path(path)
        hint = f" {part.name} is an incomplete construction: --resume continues it." if part.exists() else ""
        raise FileNotFoundError(f"There is no ReduNet file {path}.{hint}")
    try:
        with safe_open(path, "pt") as file:
            metadata = (file.metadata() or {}).get(_MARK)
        tensors = load_file(path) if metadata is not None else {}
        tensors = {name: value if value.data_ptr() % _ALIGNED == 0 else value.clone() for name, value in tensors.items()}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise FormatError(
            f"{path} can't be read ({str(error).partition(chr(10))[0]}): it was cut, or is another kind."
        ) from error
    if metadata is None:
        raise FormatError(f"{path} holds no ReduNet; `repanalysis redunet build` writes them.")
    return json.loads(metadata), tensors

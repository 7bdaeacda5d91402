"""Arrays that numpy saved: `.npy`, a folder of `.npy` files, and `.npz`. Pickled objects are refused.

An `.npy` file is mapped into memory. An array of an `.npz` file is read as a whole, and its checksum verified, at the first
access; only the latest array stays in memory.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import FormatError, reason_of
from probes.features.layout import Content
from probes.features.rows import ReadRows, Rows

__all__ = ["read_npy", "read_npy_folder", "read_npz"]

_OBJECTS = "it holds Python objects, which only unpickling reads; save arrays of numbers or text"


def read_npy(path: Path) -> Content:
    """One array: the layer `features`."""
    return Content({"features": _mapped(path)})


def read_npy_folder(path: Path) -> Content:
    """A folder of arrays, named after their files."""
    return Content({file.stem: _mapped(file) for file in sorted(path.glob("*.npy"))}, ordered=False)


def _mapped(path: Path) -> Rows:
    """An array, mapped into memory."""
    try:
        array: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        objects = "object" in str(error).lower() or "pickle" in str(error).lower()
        reason = _OBJECTS if objects else "it was cut off" if "mmap length" in str(error) else reason_of(error)
        raise FormatError(f"{path} can't be read as an npy file: {reason}.") from error
    if array.dtype.names:
        raise FormatError(
            f"{path} holds a table of named columns ({', '.join(array.dtype.names[:4])}); save it as .csv or .parquet."
        )
    return array  # type: ignore[no-any-return]


class _Archive:
    """The arrays of an npz file; the latest one read stays in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: tuple[str, NDArray[Any]] | None = None

    def read(self, name: str, rows: slice) -> NDArray[Any]:
        if self.last is None or self.last[0] != name:
            self.last = None
            with np.load(self.path, allow_pickle=False) as file:
                self.last = name, file[name]
        return self.last[1][rows]


def read_npz(path: Path) -> Content:
    """Several arrays, in the order in which they were saved."""
    archive = _Archive(path)
    arrays: dict[str, Rows] = {}
    attrs: dict[str, Any] = {}
    try:
        with zipfile.ZipFile(path) as file:
            for member in file.namelist():
                if not member.endswith(".npy"):
                    raise ValueError(f"it holds {member}, no array")
                name = member.removesuffix(".npy")
                if name in arrays or name in attrs:
                    raise ValueError(f"it holds {name} twice")
                with file.open(member) as array:
                    shape, dtype = _header(array)
                if dtype.hasobject:
                    raise ValueError(f"{name}: {_OBJECTS}")
                if shape:
                    arrays[name] = ReadRows(shape, dtype, lambda rows, name=name: archive.read(name, rows))  # type: ignore[misc]
                elif dtype.kind in "iufbU":
                    with np.load(path, allow_pickle=False) as content:
                        attrs[name] = content[name].item()
    except (ValueError, OSError, EOFError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} can't be read as an npz file of plain arrays ({reason_of(error)}).") from error
    return Content(arrays, attrs=attrs)


def _header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array in an npy file, from the header."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype

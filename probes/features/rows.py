"""Arrays in files, read a few rows at a time and converted to floating-point numbers.

float16, float32, float64    the same type, in native byte order
bfloat16                     float32, without loss
bool, integers of 8, 16 bits float32, without loss
wider integers, long double  float64
complex, text, objects       no features: refused
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["ReadRows", "Rows", "SparseRows", "as_floats", "unfit"]


class Rows(Protocol):
    """An array whose rows can be read: a numpy array or memory map, an h5py data set, `ReadRows` or `SparseRows`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole array, the number of rows first."""

    @property
    def dtype(self) -> Any:
        """Type of the stored numbers."""

    def __getitem__(self, rows: slice, /) -> Any:
        """The rows of a slice."""


@dataclass(frozen=True)
class ReadRows:
    """An array whose rows are read by a function.

    Attributes
    ----------
    shape : tuple of int
        Shape of the whole array.
    dtype : numpy.dtype or str
        Type of the stored numbers; a string if numpy has no such type.
    read : callable
        Takes a slice and returns an array.
    """

    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[slice], NDArray[Any]]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return self.read(rows)


@dataclass(frozen=True)
class SparseRows:
    """A compressed sparse row matrix, whose rows are read as dense arrays.

    Attributes
    ----------
    shape : tuple of int
        (n, d).
    data, indices, pointers : arrays
        Nonzero numbers, their columns, and the index of each row's first number.
    """

    shape: tuple[int, ...]
    data: Rows
    indices: Rows
    pointers: Rows

    @property
    def dtype(self) -> Any:
        """Type of the stored numbers."""
        return self.data.dtype

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        from scipy.sparse import csr_array

        start, stop, _ = rows.indices(self.shape[0])
        ends = np.asarray(self.pointers[start : max(start, stop) + 1])
        entries = slice(int(ends[0]), int(ends[-1]))
        part = csr_array((self.data[entries], self.indices[entries], ends - ends[0]), shape=(len(ends) - 1, self.shape[1]))
        return np.asarray(part.toarray())


def unfit(rows: Rows) -> str:
    """Why an array can't be features; empty if it can."""
    dtype = rows.dtype
    kind = "f" if isinstance(dtype, str) else np.dtype(dtype).kind
    if kind == "c":
        return "it holds complex numbers; give real and imaginary parts, or absolute values, as layers of their own"
    if kind not in "fiub":
        return f"it holds {'Python objects' if kind == 'O' else 'text' if kind in 'USOT' else dtype}, no numbers"
    if len(rows.shape) < 1:
        return "it is a single number"
    if 0 in rows.shape[1:]:
        return f"it has the shape {tuple(rows.shape)}, and so no features"
    return ""


def as_floats(array: Any) -> NDArray[Any]:
    """Numbers converted to floating point; see the module.

    Examples
    --------
    >>> as_floats(np.array([1, 2], ">i8")).dtype.name, as_floats(np.array([True])).dtype.name
    ('float64', 'float32')
    """
    numbers: NDArray[Any] = np.asarray(array)
    size = numbers.dtype.itemsize
    if numbers.dtype.kind == "f" and size <= 8:
        kind = numbers.dtype.newbyteorder("=")
    else:
        kind = np.dtype(np.float32 if size <= 2 else np.float64)
    return numbers.astype(kind, copy=False)

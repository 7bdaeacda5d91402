"""Rows of an array that lies in a file: what every kind of file gives, read a few rows at a time, as floating-point numbers.

float16, float32, float64    as they are, in the machine's order of bytes
bfloat16                     float32, which holds it exactly
bool, integers of 8, 16 bits float32, which holds them exactly
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
    """Rows of an array: numpy's arrays and memory maps, h5py's data sets, and those below."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array, the number of rows first."""

    @property
    def dtype(self) -> Any:
        """Of the numbers, as they are stored."""

    def __getitem__(self, rows: slice, /) -> Any:
        """Some rows."""


@dataclass(frozen=True)
class ReadRows:
    """Rows that a function reads.

    Attributes
    ----------
    shape : tuple of int
        Of the whole array.
    dtype : numpy.dtype or str
        As stored; a string where numpy has no such type.
    read : callable
        From a slice to an array.
    """

    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[slice], NDArray[Any]]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return self.read(rows)


@dataclass(frozen=True)
class SparseRows:
    """Rows of a compressed sparse row matrix, dense where they are read.

    Attributes
    ----------
    shape : tuple of int
        (n, d).
    data, indices, pointers : arrays
        Nonzero numbers, their columns, and where each row begins among them.
    """

    shape: tuple[int, ...]
    data: Rows
    indices: Rows
    pointers: Rows

    @property
    def dtype(self) -> Any:
        """Of the numbers."""
        return self.data.dtype

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        from scipy.sparse import csr_array

        start, stop, _ = rows.indices(self.shape[0])
        ends = np.asarray(self.pointers[start : max(start, stop) + 1])
        held = slice(int(ends[0]), int(ends[-1]))
        part = csr_array((self.data[held], self.indices[held], ends - ends[0]), shape=(len(ends) - 1, self.shape[1]))
        return np.asarray(part.toarray())


def unfit(rows: Rows) -> str:
    """Why an array can't be features; empty where it can."""
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
    """Numbers as features; see the module.

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

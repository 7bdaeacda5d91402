"""Data sets to which rows are appended, and the dimension scales that name their axes."""

from __future__ import annotations

from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from probes.errors import DataError
from probes.storage.format import DIMENSION, filters_of

__all__ = ["Column", "dimension", "name_axes"]


class Column:
    """A data set to which rows are appended, with a buffer of rows that are not written yet."""

    def __init__(self, data: h5py.Dataset) -> None:
        self.data = data
        self.compressed = bool(filters_of(data))
        self.rows = len(data)
        self.buffered: list[NDArray[Any]] = []

    def check(self, name: str, array: NDArray[Any], row: int) -> None:
        """Refuse rows of another shape or type than those before."""
        if array.shape[1:] != self.data.shape[1:] or array.dtype != self.data.dtype:
            raise DataError(
                f"Layer {name!r} has shape {array.shape[1:]} and type {array.dtype} from sample {row} on, but "
                f"{self.data.shape[1:]} and {self.data.dtype} before: pool it (mean, max) or leave it out."
            )

    def append(self, array: NDArray[Any]) -> None:
        """Add rows to the buffer."""
        self.buffered.append(array)

    def flush_full_chunks(self) -> None:
        """Write the buffered rows; to a compressed data set only whole chunks, so that no chunk is compressed twice."""
        if not self.buffered:
            return
        rows = self.buffered[0] if len(self.buffered) == 1 else np.concatenate(self.buffered)
        cut = len(rows) - (self.rows + len(rows)) % self.data.chunks[0] if self.compressed else len(rows)
        if cut > 0:
            self._write(rows[:cut])
        self.buffered = [rows[max(cut, 0) :].copy()] if cut < len(rows) else []

    def flush(self) -> None:
        """Write all buffered rows."""
        self.flush_full_chunks()
        if self.buffered:
            self._write(self.buffered[0])
            self.buffered = []

    def unwritten_ranges(self) -> list[tuple[int, int]]:
        """Byte ranges of the file that the next rows will fill: the part of the last chunk that has no rows yet.

        Empty for text: HDF5 reads the references that it overwrites, to free the strings they point to.
        """
        used = self.rows % self.data.chunks[0]
        if self.compressed or not used or self.data.dtype.hasobject:
            return []
        chunk = self.data.id.get_chunk_info_by_coord((self.rows, *(0 for _ in self.data.shape[1:])))
        start = chunk.byte_offset + used * (chunk.size // self.data.chunks[0])
        return [(start, chunk.byte_offset + chunk.size)]

    def _write(self, array: NDArray[Any]) -> None:
        start, self.rows = self.rows, self.rows + len(array)
        self.data.resize(self.rows, axis=0)
        self.data[start:] = array


def dimension(group: h5py.Group, name: str, size: int, maxshape: int | None = -1) -> h5py.Dataset:
    """A dimension scale without values, as netCDF-4 writes it, so that xarray names the axis."""
    data = group.create_dataset(name, (size,), ">f4", maxshape=(size if maxshape == -1 else maxshape,))
    data.make_scale(DIMENSION.format(size))
    return data


def name_axes(data: h5py.Dataset, scales: list[h5py.Dataset]) -> None:
    """Name the axes of a data set by dimension scales, one each.

    HDF5's own function also lists in an attribute of the scale every data set that uses it. An attribute holds at most
    64 KiB, so the list is full after 4,080 layers, and it is rewritten for each. No reader needs it: netCDF, xarray and h5py
    follow the references from the data to the scales. So only those references are written.
    """
    references = np.empty(len(scales), dtype=object)
    for axis, scale in enumerate(scales):
        references[axis] = np.array([scale.ref], dtype=h5py.ref_dtype)
    data.attrs.create("DIMENSION_LIST", references, dtype=h5py.vlen_dtype(h5py.ref_dtype))

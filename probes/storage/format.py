"""Names, versions and filters that the writer and the reader of an activations file share; `docs/format.md` has the format."""

from __future__ import annotations

import io
import json
from dataclasses import fields
from typing import Any
from urllib.parse import quote

import h5py

from probes.batch import LayerInfo
from probes.errors import UsageError, did_you_mean

__all__ = [
    "COMPRESSIONS",
    "DIMENSION",
    "FILTERS",
    "FORMAT",
    "FORMAT_VERSION",
    "LAYER_FIELDS",
    "LAYER_TABLE",
    "OBS",
    "RESERVED_ATTRS",
    "RUN_DEPENDENT_ATTRS",
    "encode_attr",
    "filter_arguments",
    "filters_of",
    "group_of",
    "load_plugins",
    "open_hdf5",
]

FORMAT = "repanalysis-activations"
FORMAT_VERSION = 3
COMPRESSIONS = ("none", "lzf", "gzip", "lz4", "zstd")
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf", 32004: "lz4", 32015: "zstd"}
DIMENSION = "This is a netCDF dimension but not a netCDF variable. {:>9d}"  # the netCDF-4 mark of a bare dimension
OBS = ("id", "label", "split", "target")  # columns with the metadata of each sample
LAYER_TABLE = "layer_info"  # root attribute with the descriptions of all layers
LAYER_FIELDS = [field.name for field in fields(LayerInfo)]
# Root attributes that only the writer sets: they say how to read the file.
RESERVED_ATTRS = frozenset((
    *("format", "format_version", "compression", "seal", "complete", "n_committed"),
    *("left_out", "non_finite", "resumed", LAYER_TABLE),
))  # fmt: skip
# Root attributes that say when and how a file was written, not what it contains. They may differ between the runs that wrote
# parts of one file.
RUN_DEPENDENT_ATTRS = (RESERVED_ATTRS - {"compression"}) | {"created", "command", "versions", "device", "ids_from"}


def group_of(layer: str) -> str:
    """Path of a layer's group.

    Examples
    --------
    >>> group_of("a/b.relu (1)")
    'layers/a%2Fb.relu (1)'
    """
    return f"layers/{quote(layer, safe=' ()[],:=+')}"


def encode_attr(value: Any) -> str | int | float:
    """The stored form of an attribute: text and numbers unchanged, any other value as JSON.

    Examples
    --------
    >>> encode_attr(("sample", "channel"))
    '["sample", "channel"]'
    """
    return value if isinstance(value, str | int | float) else json.dumps(value, ensure_ascii=False)


def filter_arguments(compression: str) -> dict[str, Any]:
    """Keyword arguments of `create_dataset` for a compression.

    Raises
    ------
    UsageError
        If the compression is unknown, or needs hdf5plugin, which is not installed.
    """
    if compression not in COMPRESSIONS:
        raise UsageError(
            f"Unknown compression {compression!r}.{did_you_mean(compression, COMPRESSIONS)} "
            f"The compressions are {', '.join(COMPRESSIONS)}."
        )
    if compression == "none":
        return {}
    if compression in ("lzf", "gzip"):
        return {"compression": compression, "shuffle": True}
    load_plugins(f"Compression {compression!r}")
    import hdf5plugin

    codec = hdf5plugin.LZ4() if compression == "lz4" else hdf5plugin.Zstd()
    return {"compression": codec, "shuffle": True}


def load_plugins(subject: str) -> None:
    """Register the HDF5 filters lz4 and zstd.

    Parameters
    ----------
    subject : str
        Subject of the error message: the file or compression that needs them.

    Raises
    ------
    UsageError
        If hdf5plugin is not installed.
    """
    try:
        import hdf5plugin  # noqa: F401  # importing registers the filters
    except ImportError as error:
        raise UsageError(f"{subject} needs hdf5plugin: pip install 'repanalysis[compression]'.") from error


def open_hdf5(content: io.RawIOBase, *, writable: bool) -> h5py.File:
    """Open an HDF5 file through a binary file object.

    `h5py.File(content)` does the same, but when it fails, the traceback keeps h5py's access properties alive. They hold a
    reference to `content` that HDF5 releases after Python has ended, which crashes.
    """
    properties = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    try:
        properties.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
        properties.set_cache(0, 521, 0, 0.75)  # no chunk cache: rows are read into their target array, memory stays flat
        properties.set_fileobj_driver(h5py.h5fd.fileobj_driver, content)
        flags = h5py.h5f.ACC_RDWR if writable else h5py.h5f.ACC_RDONLY
        return h5py.File(h5py.h5f.open(repr(content).encode("ascii", "replace"), flags, fapl=properties))
    finally:
        properties._close()


def filters_of(data: h5py.Dataset) -> list[int]:
    """Codes of the filters that are applied to a data set's chunks."""
    properties = data.id.get_create_plist()
    return [properties.get_filter(index)[0] for index in range(properties.get_nfilters())]

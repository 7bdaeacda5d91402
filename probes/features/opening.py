"""Opening a file of features with the reader for its ending, if its first bytes agree."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py

from probes.errors import FormatError, IgnoredWarning, did_you_mean
from probes.features.arrays_of_numpy import read_npy, read_npy_folder, read_npz
from probes.features.hdf5 import read_hdf5
from probes.features.layout import Content, laid_out
from probes.features.source import Features, Stamp
from probes.features.tables import read_csv, read_parquet
from probes.features.tensors import read_safetensors, read_torch
from probes.storage.format import FORMAT
from probes.storage.seal import is_interrupted, uuid_of

__all__ = ["ENDINGS", "is_recording", "open_features"]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_READERS: Mapping[str, Callable[[Path], Content]] = {
    "npy": read_npy, "npz": read_npz, "safetensors": read_safetensors, "torch": read_torch, "text": read_csv,
    "parquet": read_parquet,
}  # fmt: skip
ENDINGS: Mapping[str, str] = {
    ".npy": "npy", ".npz": "npz", ".safetensors": "safetensors", ".pt": "torch", ".pth": "torch", ".csv": "text",
    ".tsv": "text", ".txt": "text", ".parquet": "parquet", ".nc": "hdf5", ".h5": "hdf5", ".hdf5": "hdf5", ".h5ad": "hdf5",
}  # fmt: skip
_FIRST_BYTES = {
    b"\x93NUMPY": ("an npy file", "npy"), b"PK\x03\x04": ("a zip archive, as npz files and files of torch are", "npz torch"),
    b"PK\x05\x06": ("an empty zip archive", "npz torch"), _HDF5: ("an HDF5 file", "hdf5"),
    b"PAR1": ("a parquet file", "parquet"),
    b"CDF\x01": ("a netCDF-3 file", ""), b"CDF\x02": ("a netCDF-3 file", ""), b"CDF\x05": ("a netCDF-3 file", ""),
    b"\x1f\x8b": ("packed with gzip", ""), b"\x80": ("a Python pickle", "torch"),
}  # fmt: skip
_PICKLES = (
    "it is a Python pickle, which runs code when it is read. Save arrays: numpy.savez(path, layer=features, labels=labels). "
    "CIFAR's batches are a data set: extract --data torchvision:CIFAR10,root=DIR"
)


def is_recording(path: Path) -> bool:
    """Whether an HDF5 file is a recording of activations, possibly damaged; the reader of recordings then reports the
    damage.
    """
    if uuid_of(path) is not None or is_interrupted(path):
        return True
    try:
        with h5py.File(path, "r") as file:
            return file.attrs.get("format") == FORMAT and "_NCProperties" not in file.attrs  # which exports by to_xarray have
    except Exception:  # h5py raises various types for damaged files
        return path.suffix.lower() in (".h5", ".hdf5")


def open_features(path: Path, *, quiet: bool = False) -> Features:
    """Open a file of features, or a folder of npy files.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    quiet : bool, default False
        Suppresses the warning about skipped arrays.

    Returns
    -------
    Features
        The features; rows are read on request if the kind of file allows it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    FormatError, DataError, UsageError
        If its content does not match its ending, it is damaged, or the meaning of its arrays is ambiguous.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    close: Callable[[], Any] | None = None
    if path.is_dir():
        kind, content = "folder of npy files", read_npy_folder(path)
    elif (kind := _kind_of(path)) == "hdf5":
        content, file = read_hdf5(path)
        close = file.close
    else:
        content = _READERS[kind](path)
    try:
        with warnings.catch_warnings():
            if quiet:
                warnings.simplefilter("ignore", IgnoredWarning)
            source = Features(path, kind, laid_out(content, path), content.attrs, reopen=_reopened, close=close)
    except BaseException:
        if close is not None:
            close()
        raise
    if source.skipped and not quiet:
        name, reason = next(iter(source.skipped.items()))
        count = len(source.skipped)
        more = f" and {count - 1} more" if count > 1 else ""
        warnings.warn(f"{path}: {name!r}{more} left out, since {reason}.", IgnoredWarning, stacklevel=3)
    return source


def _reopened(path: Path, stamp: Stamp) -> Features:
    """Open the file again in another process; raises `FormatError` if it has changed."""
    source = open_features(path, quiet=True)
    if source.stamp != stamp:
        raise FormatError(f"{path} is not the file that was opened: it was written to since then.")
    return source


def _kind_of(path: Path) -> str:
    """The kind of a file, from its ending and its first bytes, which must agree."""
    if not path.is_file():
        raise FormatError(f"{path} is not a plain file.")
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        raise FormatError(f"{path} is empty (0 bytes).")
    if ENDINGS.get(path.suffix.lower()) == "safetensors":
        return "safetensors"  # begins with the header's length, so any first bytes are possible
    description, kinds = next((entry for magic, entry in _FIRST_BYTES.items() if head.startswith(magic)), ("", ""))
    ending = path.suffix.lower()
    expected = ENDINGS.get(ending)
    if head[:1] == b"\x80" and expected != "torch":
        raise FormatError(f"{path} is not read: {_PICKLES}.")
    if description.startswith("a netCDF-3"):
        raise FormatError(
            f"{path} is {description}; write it as netCDF-4: xarray.open_dataset(old).to_netcdf(new, engine='h5netcdf')."
        )
    if expected is None and description == "an HDF5 file":
        return "hdf5"
    if expected is None:
        endings = ", ".join(ENDINGS)
        raise FormatError(
            f"{path} is not a file of activations or features.{did_you_mean(ending, ENDINGS)} Features are read from {endings}."
        )
    if description and expected not in kinds:
        raise FormatError(f"{path} is {description} by its first bytes, which does not match its ending {ending}.")
    if not description and expected in ("npy", "npz", "hdf5", "parquet"):
        raise FormatError(f"{path} can't be read as {_article(expected)} file: it does not begin like one, or is damaged.")
    return expected


def _article(kind: str) -> str:
    return f"an {kind}" if kind in ("npy", "npz") else "an HDF5" if kind == "hdf5" else f"a {kind}"

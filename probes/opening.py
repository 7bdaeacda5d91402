"""Open what holds activations: a file, shards of a run, or features that somebody else has saved."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from probes.errors import FormatError
from probes.features.opening import ENDINGS, is_recording, open_features
from probes.source import Source
from probes.storage.shards import Shards
from probes.storage.store import Store

__all__ = ["open"]


def open(source: str | PathLike[str] | Sequence[str | PathLike[str]], *, partial: bool = False) -> Source:
    """Open an activations file, several shards as one, or features that you have already, for lazy reading.

    Parameters
    ----------
    source : path-like, or sequence of path-like
        A file, a folder whose `*.h5` files are shards of one run, or a list of shards; or features: a .npy, .npz, .pt, .pth,
        .safetensors, .csv, .parquet, .nc, .h5ad or plain .h5 file, or a folder of .npy files (`probes.features`).
    partial : bool, default False
        Whether to read what is committed of a file that was not written to its end.

    Returns
    -------
    Source
        A `Store`, `Shards` or `Features`: all have `layers`, `info`, `attrs`, `ids`, `labels`, `iter(layers, size)`, `[layer]`.

    Raises
    ------
    FileNotFoundError, FormatError, IncompleteError
        See `Store` and `Shards`.
    DataError
        If a file of features does not say what its arrays are.

    Warns
    -----
    IgnoredWarning
        If a file of features holds arrays that can be no layers; `skipped` has them all.

    Examples
    --------
    >>> open("nowhere.h5")
    Traceback (most recent call last):
    ...
    FileNotFoundError: There is no file nowhere.h5.
    """
    if not isinstance(source, str | PathLike):
        return Shards([Store(path, partial=partial) for path in source])
    path = Path(source)
    if not path.is_dir():
        return Store(path, partial=partial) if _is_recording(path) else open_features(path)
    files = sorted(path.glob("*.h5"))
    if not files and any(path.glob("*.npy")):
        return open_features(path)
    if not files:
        cifar = ": they are a data set: extract --data torchvision:CIFAR10,root=DIR" if any(path.glob("data_batch_*")) else ""
        raise FormatError(f"Folder {path} holds no *.h5 and no *.npy file{cifar}.")
    return Shards([Store(file, partial=partial) for file in files])


def _is_recording(path: Path) -> bool:
    """Whether a file is one of activations, by its ending or content; what is not there is taken for one by its ending."""
    if not path.exists():
        return ENDINGS.get(path.suffix.lower(), "hdf5") == "hdf5"
    return path.is_file() and ENDINGS.get(path.suffix.lower(), "hdf5") == "hdf5" and is_recording(path)

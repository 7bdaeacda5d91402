"""Record what every layer of a network gives out, and read it back.

`attach`, `capture` and `record` put hooks on a PyTorch model; `open` reads the file that `record` writes, and needs no
torch. The pieces: `batch` (what crosses), `store` (the file), `layers` (which), `pooling` (what of it), `hooks` (how),
`capturing` (over a data set).
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.arrays import Arrays, from_arrays
from probes.batch import Batch, LayerInfo
from probes.errors import (
    ArrivalOrderWarning,
    DataError,
    FormatError,
    IgnoredWarning,
    IncompleteError,
    LeftOutWarning,
    NonFiniteWarning,
    ReportedError,
    UsageError,
)
from probes.features.opening import ENDINGS, is_recording, open_features
from probes.shards import Shards, merge
from probes.source import Source
from probes.store import Store
from probes.writer import Writer, create, resume

if TYPE_CHECKING:
    from probes.capturing import capture
    from probes.hooks import Recording, attach
    from probes.recording import record

__all__ = [
    "Arrays",
    "ArrivalOrderWarning",
    "Batch",
    "DataError",
    "FormatError",
    "IgnoredWarning",
    "IncompleteError",
    "LayerInfo",
    "LeftOutWarning",
    "NonFiniteWarning",
    "Recording",
    "ReportedError",
    "Shards",
    "Source",
    "Store",
    "UsageError",
    "Writer",
    "attach",
    "capture",
    "create",
    "from_arrays",
    "merge",
    "open",
    "record",
    "resume",
]


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
        If a file of features holds arrays that can be no layers; `left_out` has them all.

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


_LAZY = {"attach": "hooks", "Recording": "hooks", "capture": "capturing", "record": "recording"}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is used: reading a file never does."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"probes.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'probes' has no attribute {name!r}")

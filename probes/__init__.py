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

from probes.arrays import Arrays, from_arrays, from_npz
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
    """Open an activations file, several shards as one, or an npz file of features, for lazy reading.

    Parameters
    ----------
    source : path-like, or sequence of path-like
        A file, a folder whose `*.h5` files are shards of one run, a list of shards, or an `.npz` file of arrays.
    partial : bool, default False
        Whether to read what is committed of a file that was not written to its end.

    Returns
    -------
    Source
        A `Store`, `Shards` or `Arrays`: all have `layers`, `info`, `attrs`, `ids`, `labels`, `iter(layers, size)`, `[layer]`.

    Raises
    ------
    FileNotFoundError, FormatError, IncompleteError
        See `Store` and `Shards`.

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
    if path.suffix == ".npz":
        return from_npz(path)
    if not path.is_dir():
        return Store(path, partial=partial)
    files = sorted(path.glob("*.h5"))
    if not files:
        raise FormatError(f"Folder {path} holds no *.h5 file.")
    return Shards([Store(file, partial=partial) for file in files])


_LAZY = {"attach": "hooks", "Recording": "hooks", "capture": "capturing", "record": "recording"}


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is used: reading a file never does."""
    if name in _LAZY:
        import importlib

        return getattr(importlib.import_module(f"probes.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'probes' has no attribute {name!r}")

"""Forged files: changed and sealed again, so that only their content can be detected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from probes.storage.journal import SEAL, AtomicFile, Journal
from probes.storage.seal import uuid_of


def unseal(path: Path) -> None:
    """Remove the seal of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: SEAL.unpack(content[-SEAL.size :])[3]])


def reseal(path: Path) -> None:
    """Seal a file without a seal."""
    uuid = uuid_of(path) or "0" * 32
    Journal(uuid, path.stat().st_size).write(path)
    atomic = AtomicFile(path, uuid, fresh=False)
    atomic.seal()
    atomic.close()


@contextmanager
def forged(path: Path) -> Iterator[h5py.File]:
    """Open a file for changes that its seal does not reveal."""
    unseal(path)
    with h5py.File(path, "r+") as raw:
        yield raw
    reseal(path)

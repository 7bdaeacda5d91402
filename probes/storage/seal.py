"""Reads the bytes of an activations file and verifies them before HDF5 sees them.

A complete file ends with its seal: a checksum for every 64 KiB and a footer, which `journal.py` writes past the end of the HDF5
file. Every page is verified when it is read: a changed bit is an error, never a wrong number, and damaged structures never
reach the C library. If writing was interrupted, the journal is applied to what is read, which gives the last commit.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import xxhash

from probes.errors import FormatError, UsageError
from probes.storage.journal import PAGE, SEAL, SEAL_MAGIC, Journal, page_checksums, read_at

__all__ = ["UUID_TAG", "RawFile", "check_bytes", "is_empty", "is_interrupted", "open_bytes", "refuse_writing", "uuid_of"]

UUID_TAG = b"repanalysis-seal:"  # near the start of every sealed file, followed by its uuid
_HEAD = 1 << 16
_CACHED_PAGES = 64  # for the small structures that HDF5 reads repeatedly
_HDF5 = b"\x89HDF\r\n\x1a\n"


def uuid_of(path: Path) -> str | None:
    """The uuid near the start of a file; None if it has none."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    at = head.find(UUID_TAG)
    uuid = head[at + len(UUID_TAG) : at + len(UUID_TAG) + 32]
    return uuid.decode() if at >= 0 and len(uuid) == 32 and uuid.isalnum() else None


def is_interrupted(path: Path) -> bool:
    """Whether writing was interrupted, so that the journal holds part of the last commit."""
    journal = Journal.read(path)
    if journal is None or not path.exists():
        return False
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - SEAL.size))
        if file.read(len(SEAL_MAGIC)) == SEAL_MAGIC:
            return False  # killed after the seal, before the journal was removed
    return journal.eof == 0 or journal.uuid == uuid_of(path)


def is_empty(path: Path) -> bool:
    """Whether writing was interrupted before the first commit."""
    journal = Journal.read(path)
    return journal is not None and journal.eof == 0


def open_bytes(path: Path) -> RawFile | None:
    """The verified content of an activations file for `h5py.File`; None for a file without a seal.

    Parameters
    ----------
    path : pathlib.Path
        An existing file.

    Raises
    ------
    UsageError
        If another process is writing it.
    FormatError
        If it is not an HDF5 file, is truncated, or its seal is damaged. While reading: if a page was changed.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        opened = _open(fd, path)
    except BaseException:
        os.close(fd)
        raise
    if opened is None:
        os.close(fd)
    return opened


def _open(fd: int, path: Path) -> RawFile | None:
    size = os.fstat(fd).st_size
    refuse_writing(fd, path)
    footer = os.pread(fd, SEAL.size, max(0, size - SEAL.size))
    uuid = uuid_of(path)
    journal = Journal.read(path)
    if footer.startswith(SEAL_MAGIC):
        return _ChecksummedReader(fd, path, _table(fd, footer, size, path, uuid))
    if journal is not None and journal.eof == 0:
        raise FormatError(f"{path} holds nothing yet: its writing stopped before anything was committed. Extract it again.")
    if journal is not None and journal.uuid == uuid and journal.eof <= size:
        return _JournaledReader(fd, path, journal)
    if os.pread(fd, 8, 0) != _HDF5:
        raise FormatError(f"{path} is not an activations file: it is no HDF5 file. `repanalysis extract` writes one.")
    if uuid is not None:
        raise FormatError(
            f"{path} is truncated or was changed after it was written: the seal at its end is missing. Copy it again from "
            f"where it was written (with {Journal.beside(path).name}, if that is there), or extract it again."
        )
    return None


def _table(fd: int, footer: bytes, size: int, path: Path, uuid: str | None) -> tuple[int, list[int]]:
    """Length of the HDF5 file and checksums of its pages, from the seal."""
    _, version, page, eof, footer_uuid, _ = SEAL.unpack(footer)
    start = eof
    length = size - start
    if version == 1 and page == PAGE and 0 < eof < size and length == 8 * -(-eof // PAGE) + SEAL.size:
        seal = os.pread(fd, length, start)
        if xxhash.xxh3_64_digest(seal[:-8]) == seal[-8:]:
            if footer_uuid.decode() != uuid:
                raise FormatError(_changed(path, 0))
            return eof, np.frombuffer(seal[: -SEAL.size], "<u8").tolist()
    raise FormatError(
        f"{path} is damaged or was changed after it was written: the seal at its end is not whole. Copy it again from where "
        f"it was written, or extract it again."
    )


def _changed(path: Path, start: int) -> str:
    return (
        f"{path} is damaged or was changed after it was written: the bytes from {start} to {start + PAGE} are not those that "
        f"were written. Copy it again from where it was written, or extract it again."
    )


def check_bytes(path: Path) -> None:
    """Read and verify every byte of a sealed file.

    Raises
    ------
    FormatError
        If one was changed.
    """
    opened = open_bytes(path)
    if opened is None:
        return
    try:
        buffer = memoryview(bytearray(256 * PAGE))
        while opened.readinto(buffer):
            pass
    finally:
        opened.close()


class RawFile(io.RawIOBase):
    """A binary file on a descriptor; `error` is the first mismatch of its bytes, or None."""

    is_interrupted = False  # whether a journal is applied

    def __init__(self, fd: int, path: Path, size: int) -> None:
        super().__init__()
        self.error: FormatError | None = None
        self._fd, self._path, self._size, self._position = fd, path, size, 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # h5py hands over memoryviews
        """Fill `buffer` from the current position on."""
        raise NotImplementedError

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The current position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        return self._position

    def close(self) -> None:
        """Close the descriptor."""
        if not self.closed:
            os.close(self._fd)
        super().close()


class _JournaledReader(RawFile):
    """Reads an interrupted file at its last commit: the journal applied to the bytes of the file."""

    is_interrupted = True

    def __init__(self, fd: int, path: Path, journal: Journal) -> None:
        super().__init__(fd, path, journal.eof)
        self._overlay = journal.overlay

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # h5py hands over memoryviews
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        filled = read_at(self._fd, view, self._position)
        view[filled:] = bytes(len(view) - filled)
        self._overlay.apply(self._position, view)
        self._position += len(view)
        return len(view)


class _ChecksummedReader(RawFile):
    """Reads a sealed file page by page and verifies the checksum of each."""

    def __init__(self, fd: int, path: Path, table: tuple[int, list[int]]) -> None:
        super().__init__(fd, path, table[0])
        self._checksums = table[1]
        self._cache: dict[int, bytes] = {}

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # likewise
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        start, stop = self._position, self._position + len(view)
        first = -(-start // PAGE)
        last = stop // PAGE if stop < self._size else len(self._checksums)
        if first < last:  # whole pages: read into the buffer and verified there
            inner = view[first * PAGE - start : min(last * PAGE, stop) - start]
            read_at(self._fd, inner, first * PAGE)
            for page, checksum in enumerate(page_checksums(inner), start=first):
                self._check(page, checksum)
            edges = [(start, first * PAGE), (min(last * PAGE, stop), stop)]
        else:
            edges = [(start, min(stop, first * PAGE)), (min(stop, first * PAGE), stop)]
        for lo, hi in edges:
            if lo < hi:
                page = lo // PAGE
                view[lo - start : hi - start] = self._page(page)[lo - page * PAGE : hi - page * PAGE]
        self._position = stop
        return len(view)

    def _page(self, page: int) -> bytes:
        if page not in self._cache:
            content = os.pread(self._fd, min(PAGE, self._size - page * PAGE), page * PAGE)
            self._check(page, xxhash.xxh3_64_intdigest(content))
            if len(self._cache) >= _CACHED_PAGES:
                self._cache.clear()
            self._cache[page] = content
        return self._cache[page]

    def _check(self, page: int, checksum: int) -> None:
        if checksum != self._checksums[page]:
            self.error = FormatError(_changed(self._path, page * PAGE))
            raise self.error


def refuse_writing(fd: int, path: Path) -> None:
    """Raise UsageError if the file is being written. Readers hold no lock afterwards, so that they never block a writer."""
    try:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
    except BlockingIOError as error:
        raise UsageError(f"{path} is being written right now; read it when that has ended.") from error
    except (ImportError, OSError):
        return

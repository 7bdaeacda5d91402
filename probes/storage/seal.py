"""Reading the bytes of an activations file, and verifying them before HDF5 sees them.

A complete file ends with its seal: a checksum of every 64 KiB page and a footer, which `journal.py` writes behind the last
byte of the HDF5 file. Each page is checked as it is read. So a changed bit raises an error and never yields a wrong number,
and damaged structures never reach the C library. An interrupted file is read with its journal laid over it, which gives its
last commit.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import xxhash

from probes.errors import FormatError, UsageError
from probes.storage.journal import FOOTER, FOOTER_MAGIC, PAGE, Journal, page_checksums, read_at

__all__ = ["UUID_TAG", "RawFile", "check_bytes", "is_empty", "is_interrupted", "open_bytes", "refuse_writing", "uuid_of"]

UUID_TAG = b"repanalysis-seal:"  # near the start of every sealed file, followed by the file's uuid
_HEAD = 1 << 16  # bytes searched for the tag
_RECENT = 64  # cached pages, for the small structures that HDF5 reads repeatedly
_HDF5 = b"\x89HDF\r\n\x1a\n"


def uuid_of(path: Path) -> str | None:
    """The uuid near the start of a file, or None if the file has no uuid."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    at = head.find(UUID_TAG)
    uuid = head[at + len(UUID_TAG) : at + len(UUID_TAG) + 32]
    return uuid.decode() if at >= 0 and len(uuid) == 32 and uuid.isalnum() else None


def is_interrupted(path: Path) -> bool:
    """Whether the writing of a file was stopped, so that it is read with its journal laid over it."""
    journal = Journal.read(path)
    if journal is None or not path.exists():
        return False
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - FOOTER.size))
        if file.read(len(FOOTER_MAGIC)) == FOOTER_MAGIC:
            return False  # killed after the footer was written, before the journal was removed
    return journal.eof == 0 or journal.uuid == uuid_of(path)


def is_empty(path: Path) -> bool:
    """Whether the writing of a file was stopped before anything was committed."""
    journal = Journal.read(path)
    return journal is not None and journal.eof == 0


def open_bytes(path: Path) -> RawFile | None:
    """A binary file object for HDF5 that verifies each byte of an activations file; None for a file without a seal.

    Parameters
    ----------
    path : pathlib.Path
        An existing file.

    Raises
    ------
    UsageError
        If the file is being written.
    FormatError
        If it is no HDF5 file, is truncated, or its seal is damaged. While reading: if a page does not match its checksum.
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
    footer = os.pread(fd, FOOTER.size, max(0, size - FOOTER.size))
    uuid = uuid_of(path)
    journal = Journal.read(path)
    if footer.startswith(FOOTER_MAGIC):
        return _ChecksummedReader(fd, path, _table(fd, footer, size, path, uuid))
    if journal is not None and journal.eof == 0:
        raise FormatError(f"{path} is empty: its writing stopped before the first commit. Extract it again.")
    if journal is not None and journal.uuid == uuid and journal.eof <= size:
        return _JournaledReader(fd, path, journal)
    if os.pread(fd, 8, 0) != _HDF5:
        raise FormatError(
            f"{path} is not an activations file: it is no HDF5 file. `repanalysis extract` writes activations files."
        )
    if uuid is not None:
        raise FormatError(
            f"{path} is truncated or was changed after it was written: the seal at its end is missing. Copy it again from "
            f"where it was written (with {Journal.beside(path).name}, if that exists), or extract it again."
        )
    return None


def _table(fd: int, footer: bytes, size: int, path: Path, uuid: str | None) -> tuple[int, list[int]]:
    """Length of the HDF5 file and the checksums of its pages, from the seal."""
    _, version, page, eof, footer_uuid, _ = FOOTER.unpack(footer)
    start = eof
    length = size - start
    if version == 1 and page == PAGE and 0 < eof < size and length == 8 * -(-eof // PAGE) + FOOTER.size:
        seal = os.pread(fd, length, start)
        if xxhash.xxh3_64_digest(seal[:-8]) == seal[-8:]:
            if footer_uuid.decode() != uuid:
                raise FormatError(_damage_message(path, 0))
            return eof, np.frombuffer(seal[: -FOOTER.size], "<u8").tolist()
    raise FormatError(
        f"{path} is damaged or was changed after it was written: the seal at its end is damaged. Copy it again from where "
        f"it was written, or extract it again."
    )


def _damage_message(path: Path, at: int) -> str:
    return (
        f"{path} is damaged or was changed after it was written: the bytes from {at} to {at + PAGE} are not those that were "
        f"written. Copy it again from where it was written, or extract it again."
    )


def check_bytes(path: Path) -> None:
    """Verify every page of a sealed file, also those that no data set uses.

    Raises
    ------
    FormatError
        If a page does not match its checksum.
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
    """A file descriptor read by position; `error` is the error of the first damaged page, or None."""

    is_interrupted = False  # whether its writing was stopped, so that the journal is laid over it

    def __init__(self, fd: int, path: Path, size: int) -> None:
        super().__init__()
        self.error: FormatError | None = None
        self._fd, self._path, self._size, self._position = fd, path, size, 0

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # h5py hands over memoryviews
        """Fill `buffer` from the position on."""
        raise NotImplementedError

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def tell(self) -> int:
        """The position."""
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
    """Reads an interrupted file: the journal's bytes laid over the file's."""

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
    """Reads a sealed file: each page that a request touches is read and checked as a whole."""

    def __init__(self, fd: int, path: Path, table: tuple[int, list[int]]) -> None:
        super().__init__(fd, path, table[0])
        self._checksums = table[1]
        self._recent: dict[int, bytes] = {}

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # likewise
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        start, stop = self._position, self._position + len(view)
        first = -(-start // PAGE)
        last = stop // PAGE if stop < self._size else len(self._checksums)
        if first < last:  # whole pages are read into the caller's buffer and checked there
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
        if page not in self._recent:
            content = os.pread(self._fd, min(PAGE, self._size - page * PAGE), page * PAGE)
            self._check(page, xxhash.xxh3_64_intdigest(content))
            if len(self._recent) >= _RECENT:
                self._recent.clear()
            self._recent[page] = content
        return self._recent[page]

    def _check(self, page: int, checksum: int) -> None:
        if checksum != self._checksums[page]:
            self.error = FormatError(_damage_message(self._path, page * PAGE))
            raise self.error


def refuse_writing(fd: int, path: Path) -> None:
    """Raise `UsageError` if a file is being written. Readers keep no lock, so they do not block writers."""
    try:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_UN)
    except BlockingIOError as error:
        raise UsageError(f"{path} is being written by another process; read it when that has ended.") from error
    except (ImportError, OSError):
        return

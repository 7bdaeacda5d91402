"""A file that always holds its last commit, whatever stops the writer: a kill, a full disk, a power cut.

HDF5 overwrites its own structures in place, so that a writer that dies in between leaves an unreadable file. Here committed
bytes stay unchanged until the next commit is safe on disk:

1. Bytes past the committed end, and rows in the unfilled part of a chunk (`free`), belong to no commit: they are written
   directly to the file. All other writes are held in memory.
2. `commit` flushes the direct writes to disk, then writes those in memory and the new length of the file to a draft of
   `FILE.journal`, flushes it and renames it. The rename is the commit.
3. Then the writes in memory are applied to the file. A reader that finds a journal applies it to what it reads; applying it
   twice changes nothing.
4. `seal` appends a checksum of every page, flushes, appends a footer, flushes, and removes the journal: the file is complete.

`AtomicFile` implements Python's binary file protocol, and `h5py.File` writes through it. `seal.py` reads such files.
"""

from __future__ import annotations

import errno
import io
import os
import struct
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import xxhash

from probes.atomic_files import sync_folder
from probes.errors import FormatError, UsageError

__all__ = ["PAGE", "SEAL", "AtomicFile", "Journal", "Overlay", "install", "page_checksums", "read_at"]

PAGE = 1 << 16
SEAL = struct.Struct("<8sIIQ32sQ")  # magic, version, page size, length of the HDF5 file, uuid, checksum of all this
SEAL_MAGIC = b"RPNLSEAL"
_JOURNAL = struct.Struct("<8sQ32sQ")  # magic, committed length, uuid, number of extents
_JOURNAL_MAGIC = b"RPNLJRN1"
_LOCK_SECONDS = 6.0  # data loading processes of a killed writer hold its lock until they notice, every five seconds


class Overlay:
    """Writes that are held in memory: disjoint ranges of bytes by position, in which the latest write wins.

    Examples
    --------
    >>> overlay = Overlay()
    >>> overlay.write(4, b"abcd")
    >>> overlay.write(6, b"XYZ")
    >>> list(overlay)
    [(4, b'abXYZ')]
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._data: list[bytearray] = []

    def write(self, start: int, data: bytes | memoryview) -> None:
        """Add `data` at position `start`; it replaces earlier writes there."""
        stop = start + len(data)
        lo = bisect_right(self._starts, start) - 1
        if lo < 0 or self._starts[lo] + len(self._data[lo]) < start:
            lo += 1
        hi = bisect_right(self._starts, stop)
        if lo < hi:
            first, last = self._starts[lo], self._starts[hi - 1] + len(self._data[hi - 1])
            merged = bytearray(max(last, stop) - min(first, start))
            base = min(first, start)
            for position, old in zip(self._starts[lo:hi], self._data[lo:hi], strict=True):
                merged[position - base : position - base + len(old)] = old
            merged[start - base : stop - base] = data
        else:
            base, merged = start, bytearray(data)
        self._starts[lo:hi], self._data[lo:hi] = [base], [merged]

    def apply(self, start: int, view: memoryview) -> None:
        """Replace the bytes of `view`, which starts at position `start`, by those that were written."""
        stop = start + len(view)
        for index in range(max(0, bisect_right(self._starts, start) - 1), bisect_left(self._starts, stop)):
            lo, data = self._starts[index], self._data[index]
            a, b = max(lo, start), min(lo + len(data), stop)
            if a < b:
                view[a - start : b - start] = data[a - lo : b - lo]

    def clear(self) -> None:
        """Forget all writes."""
        self._starts, self._data = [], []

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return ((start, bytes(data)) for start, data in zip(self._starts, self._data, strict=True))

    def __len__(self) -> int:
        return len(self._starts)


class Journal:
    """The latest commit: the length of the file, and writes that may not be in it yet.

    Parameters
    ----------
    uuid : str
        Uuid of the file, 32 hexadecimal digits.
    eof : int
        Committed length; 0 before the first commit.
    overlay : Overlay, optional
        Writes to apply to the file.
    """

    def __init__(self, uuid: str, eof: int, overlay: Overlay | None = None) -> None:
        self.uuid, self.eof, self.overlay = uuid, eof, overlay or Overlay()

    @staticmethod
    def beside(path: Path) -> Path:
        """Path of a file's journal: beside the file itself, with symbolic links resolved."""
        real = Path(os.path.realpath(path))
        return real.with_name(real.name + ".journal")

    @classmethod
    def read(cls, path: Path) -> Journal | None:
        """The journal of a file; None if there is none, or if it is incomplete."""
        try:
            content = cls.beside(path).read_bytes()
        except FileNotFoundError:
            return None
        body, check = content[:-8], content[-8:]
        if len(body) < _JOURNAL.size or xxhash.xxh3_64_digest(body) != check:
            return None
        magic, eof, uuid, count = _JOURNAL.unpack_from(body)
        if magic != _JOURNAL_MAGIC:
            return None
        overlay, offset = Overlay(), _JOURNAL.size
        for _ in range(count):
            start, length = struct.unpack_from("<QQ", body, offset)
            overlay.write(start, body[offset + 16 : offset + 16 + length])
            offset += 16 + length
        return cls(uuid.decode(), eof, overlay)

    def write(self, path: Path) -> None:
        """Write the journal of a file atomically."""
        parts = [_JOURNAL.pack(_JOURNAL_MAGIC, self.eof, self.uuid.encode(), len(self.overlay))]
        for start, data in self.overlay:
            parts += [struct.pack("<QQ", start, len(data)), data]
        body = b"".join(parts)
        target = self.beside(path)
        draft = target.with_name(target.name + ".tmp")
        with draft.open("wb") as file:
            file.write(body + xxhash.xxh3_64_digest(body))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
        sync_folder(target.parent)


class AtomicFile(io.RawIOBase):
    """A binary file, open for reading and writing, that changes on disk from commit to commit.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    uuid : str
        32 hexadecimal digits that the file itself holds too.
    fresh : bool
        Start an empty file, which replaces an existing one; otherwise continue from the last commit.

    Raises
    ------
    UsageError
        If another process is writing the file.
    FormatError
        If there is no commit to continue from.
    """

    def __init__(self, path: Path, uuid: str, *, fresh: bool) -> None:
        super().__init__()
        self.path, self.uuid = path, uuid
        self._pending = Overlay()
        self._free: tuple[list[int], list[int]] = ([], [])
        self._position = 0
        self._discard = False
        self.commits = 0  # number of commits that are safe on disk
        self._checksums = np.zeros(0, "<u8")
        self._dirty: set[int] = set()
        before = path.stat().st_size if path.exists() else None
        if fresh and before is None:
            Journal(uuid, 0).write(path)  # first: a kill must not leave a file without a journal
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(self._fd, path)
            if fresh:
                self._refuse_other(before or 0)
                Journal(uuid, 0).write(path)
                os.ftruncate(self._fd, 0)
                self._size = self._committed = 0
            else:
                self._recover()
        except BaseException:
            self.close()  # not os.close: when this object is collected, the descriptor may be another file's
            raise

    def _refuse_other(self, size: int) -> None:
        """Raise UsageError if another process wrote or moved the file while this one waited for the lock."""
        status = os.fstat(self._fd)
        if status.st_size != size or not self.path.exists() or not os.path.samestat(status, self.path.stat()):
            raise UsageError(f"{self.path} was written by another process just now; nothing was changed.")

    def _recover(self) -> None:
        journal = Journal.read(self.path)
        size = os.fstat(self._fd).st_size
        if journal is None or journal.uuid != self.uuid or size < journal.eof:
            raise FormatError(f"{self.path} can't be continued: the journal of its last commit is not beside it.")
        for start, data in journal.overlay:
            _write_at(self._fd, data, start)
        os.ftruncate(self._fd, journal.eof)
        self._size = self._committed = journal.eof
        self._dirty = set(range(-(-journal.eof // PAGE)))

    # The binary file protocol

    def readable(self) -> bool:
        """True."""
        return True

    def writable(self) -> bool:
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

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # h5py hands over memoryviews
        """Fill `buffer` from the current position on, with the latest writes."""
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        filled = read_at(self._fd, view, self._position)
        view[filled:] = bytes(len(view) - filled)
        self._pending.apply(self._position, view)
        self._position += len(view)
        return len(view)

    def write(self, data: memoryview) -> int:  # type: ignore[override]  # likewise
        """Write at the current position: to the file if the bytes belong to no commit, else to memory."""
        view = memoryview(data).cast("B")
        start = self._position
        self._position += len(view)
        if self._discard:
            return len(view)
        done = 0
        for stop, is_direct in self._pieces(start, start + len(view)):
            piece = view[done : stop - start]
            if is_direct:
                _write_at(self._fd, piece, start + done)
                self._mark_dirty(start + done, stop)
            else:
                self._pending.write(start + done, piece)
            done = stop - start
        if self._position > self._size:
            self._mark_dirty(self._size, start)  # the gap, if there is one
            self._size = self._position
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Change the length; committed bytes stay on disk until the next commit."""
        size = self._position if size is None else size
        if not self._discard:
            if size >= self._committed:
                os.ftruncate(self._fd, size)
            self._mark_dirty(min(size, self._size), max(size, self._size))
            self._size = size
        return size

    def flush(self) -> None:
        """Does nothing: `commit` writes to disk."""

    def close(self) -> None:
        """Close the file, which holds its last commit, and release the lock."""
        if not self.closed:
            os.close(self._fd)
        super().close()

    # Commits

    def commit(self, free: Sequence[tuple[int, int]] = ()) -> None:
        """Commit all writes so far.

        Parameters
        ----------
        free : sequence of (start, stop)
            Disjoint ranges of the file that hold no data yet; they may be written directly.
        """
        os.fsync(self._fd)
        Journal(self.uuid, self._size, self._pending).write(self.path)
        self.commits += 1
        for start, data in self._pending:
            _write_at(self._fd, data, start)
            self._mark_dirty(start, start + len(data))
        os.ftruncate(self._fd, self._size)
        self._pending.clear()
        self._committed = self._size
        self._free = ([start for start, _ in sorted(free)], [stop for _, stop in sorted(free)])
        self._update_checksums()

    def discard(self) -> None:
        """Drop all later writes: the file stays at its last commit."""
        self._pending.clear()
        self._discard = True

    def seal(self) -> None:
        """Append the checksums of all pages and the footer, and remove the journal."""
        self._update_checksums()
        pages = self._checksums[: -(-self._committed // PAGE)]
        head = SEAL.pack(SEAL_MAGIC, 1, PAGE, self._committed, self.uuid.encode(), 0)[:-8]
        table = pages.tobytes()
        _write_at(self._fd, table, self._committed)
        os.fsync(self._fd)  # readers ignore the journal once there is a footer: all else must be on disk first
        _write_at(self._fd, head + xxhash.xxh3_64_digest(table + head), self._committed + len(table))
        os.fsync(self._fd)
        Journal.beside(self.path).unlink(missing_ok=True)
        sync_folder(self.path.parent)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, bool]]:
        """Splits a write into parts; yields the end of each part, and whether it goes directly to the file."""
        starts, stops = self._free
        while start < stop:
            if start >= self._committed:
                yield stop, True
                return
            index = bisect_right(starts, start) - 1
            if index >= 0 and start < stops[index]:
                start, is_direct = min(stop, stops[index]), True
            else:
                next_free = starts[index + 1] if index + 1 < len(starts) else stop
                start, is_direct = min(stop, next_free, self._committed), False
            yield start, is_direct

    def _mark_dirty(self, start: int, stop: int) -> None:
        self._dirty.update(range(start // PAGE, -(-stop // PAGE)))

    def _update_checksums(self) -> None:
        """Compute the checksums of changed pages, which are still in the page cache."""
        pages = -(-self._committed // PAGE)
        if len(self._checksums) < pages:
            self._checksums = np.resize(self._checksums, max(pages, 2 * len(self._checksums)))
        for page in self._dirty:
            if page < pages:
                block = os.pread(self._fd, min(PAGE, self._committed - page * PAGE), page * PAGE)
                self._checksums[page] = xxhash.xxh3_64_intdigest(block)
        self._dirty.clear()


def install(draft: Path, path: Path) -> None:
    """Replace a file by a complete one that is on disk, and remove the journal of the former."""
    real = Path(os.path.realpath(path))
    draft.replace(real)
    sync_folder(real.parent)
    Journal.beside(real).unlink(missing_ok=True)


def page_checksums(view: memoryview) -> list[int]:
    """The checksum of every page of `view`, which starts at a page boundary; the last page may be short."""
    return [xxhash.xxh3_64_intdigest(view[at : at + PAGE]) for at in range(0, len(view), PAGE)]


def _lock(fd: int, path: Path) -> None:
    """Lock the file for one writer; does nothing on file systems without locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    for tries_left in range(int(_LOCK_SECONDS * 4), -1, -1):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
                return
            if not tries_left:
                raise UsageError(f"{path} is being written by another process; wait for it, or give another name.") from error
            time.sleep(0.25)
        else:
            return


def read_at(fd: int, view: memoryview, start: int) -> int:
    """Read into `view` from position `start`; returns the number of bytes read, which is less at the end of the file."""
    done = 0
    while done < len(view):
        count = os.preadv(fd, [view[done:]], start + done)
        if not count:
            break
        done += count
    return done


def _write_at(fd: int, data: bytes | memoryview, start: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, start)
        view, start = view[done:], start + done

"""A file that is always as it was at its last commit, whatever stops the writer: a kill, a full disk, a power cut.

HDF5 overwrites its own structures in place, so a writer that dies in between leaves a file that nobody can read. Here
nothing that was committed is touched until the next commit is safe on disk:

1. Bytes past the committed end, and rows in the unfilled part of a chunk (`free`), belong to nobody yet: they are
   written where they go. Every other write is held in memory.
2. `commit` brings the former to disk, then writes the latter, with the file's new length, to `FILE.journal` under
   another name, and renames it. The rename is the commit.
3. Then they are written into the file. Whoever finds a journal lays it over the file and sees the last commit; doing so
   twice changes nothing.
4. `seal` appends a checksum of every page, then, once all of that is on disk, a footer, and removes the journal: the file
   is complete.

The object speaks Python's binary file protocol, and `h5py.File` writes through it. `sealed.py` is the reading side.
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

__all__ = ["PAGE", "SEAL", "AtomicFile", "Extents", "Journal", "install", "page_checksums", "read_at"]

PAGE = 1 << 16
SEAL = struct.Struct("<8sIIQ32sQ")  # magic, version, page size, length of the HDF5 file, uuid, checksum of all this
SEAL_MAGIC = b"RPNLSEAL"
_JOURNAL = struct.Struct("<8sQ32sQ")  # magic, committed length, uuid, number of extents
_JOURNAL_MAGIC = b"RPNLJRN1"
_LOCK_SECONDS = 6.0  # data loading processes of a killed writer hold its lock until they notice, every five seconds


class Extents:
    """Bytes by position: disjoint stretches, the latest write winning.

    Examples
    --------
    >>> held = Extents()
    >>> held.put(4, b"abcd")
    >>> held.put(6, b"XYZ")
    >>> list(held)
    [(4, b'abXYZ')]
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._data: list[bytearray] = []

    def put(self, start: int, data: bytes | memoryview) -> None:
        """Hold `data` at `start`, over whatever was held there."""
        stop = start + len(data)
        lo = bisect_right(self._starts, start) - 1
        if lo < 0 or self._starts[lo] + len(self._data[lo]) < start:
            lo += 1
        hi = bisect_right(self._starts, stop)
        if lo < hi:
            first, last = self._starts[lo], self._starts[hi - 1] + len(self._data[hi - 1])
            merged = bytearray(max(last, stop) - min(first, start))
            base = min(first, start)
            for at, old in zip(self._starts[lo:hi], self._data[lo:hi], strict=True):
                merged[at - base : at - base + len(old)] = old
            merged[start - base : stop - base] = data
        else:
            base, merged = start, bytearray(data)
        self._starts[lo:hi], self._data[lo:hi] = [base], [merged]

    def overlay(self, start: int, view: memoryview) -> None:
        """Lay what is held over `view`, which was read from position `start`."""
        stop = start + len(view)
        for at in range(max(0, bisect_right(self._starts, start) - 1), bisect_left(self._starts, stop)):
            lo, data = self._starts[at], self._data[at]
            a, b = max(lo, start), min(lo + len(data), stop)
            if a < b:
                view[a - start : b - start] = data[a - lo : b - lo]

    def clear(self) -> None:
        """Hold nothing."""
        self._starts, self._data = [], []

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        return ((start, bytes(data)) for start, data in zip(self._starts, self._data, strict=True))

    def __len__(self) -> int:
        return len(self._starts)


class Journal:
    """What the latest commit promises: the file's length, and bytes that may not have reached it yet.

    Parameters
    ----------
    uuid : str
        Of the file, 32 hexadecimal digits.
    eof : int
        Committed length; 0 where nothing was committed yet.
    extents : Extents, optional
        Bytes to lay over the file.
    """

    def __init__(self, uuid: str, eof: int, extents: Extents | None = None) -> None:
        self.uuid, self.eof, self.extents = uuid, eof, extents or Extents()

    @staticmethod
    def beside(path: Path) -> Path:
        """Where the journal of a file lies: beside the file itself, whatever links lead there."""
        real = Path(os.path.realpath(path))
        return real.with_name(real.name + ".journal")

    @classmethod
    def read(cls, path: Path) -> Journal | None:
        """The journal beside a file; None where there is none, or none that was written to its end."""
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
        extents, at = Extents(), _JOURNAL.size
        for _ in range(count):
            start, length = struct.unpack_from("<QQ", body, at)
            extents.put(start, body[at + 16 : at + 16 + length])
            at += 16 + length
        return cls(uuid.decode(), eof, extents)

    def write(self, path: Path) -> None:
        """Write the journal beside a file; it is there as a whole, or not at all."""
        parts = [_JOURNAL.pack(_JOURNAL_MAGIC, self.eof, self.uuid.encode(), len(self.extents))]
        for start, data in self.extents:
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
    """A binary file, opened for reading and writing, that moves from commit to commit.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    uuid : str
        32 hexadecimal digits that the file carries inside.
    fresh : bool
        Start an empty file, in place of whatever is there; otherwise go on from the last commit.

    Raises
    ------
    UsageError
        If another process is writing the file.
    FormatError
        If there is no commit to go on from.
    """

    def __init__(self, path: Path, uuid: str, *, fresh: bool) -> None:
        super().__init__()
        self.path, self.uuid = path, uuid
        self._held = Extents()
        self._free: tuple[list[int], list[int]] = ([], [])
        self._position = 0
        self._discard = False
        self.commits = 0  # that are safe on disk
        self._checksums = np.zeros(0, "<u8")
        self._dirty: set[int] = set()
        before = path.stat().st_size if path.exists() else None
        if fresh and before is None:
            Journal(uuid, 0).write(path)  # first, or a kill would leave a file that nothing is known of
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
            self.close()  # not the descriptor alone: when this object goes, its number may be another file's
            raise

    def _refuse_other(self, size: int) -> None:
        """Refuse a file that another process has written, or put elsewhere, while this one waited for the lock."""
        status = os.fstat(self._fd)
        if status.st_size != size or not self.path.exists() or not os.path.samestat(status, self.path.stat()):
            raise UsageError(f"{self.path} was written by another process just now; nothing was changed.")

    def _recover(self) -> None:
        journal = Journal.read(self.path)
        size = os.fstat(self._fd).st_size
        if journal is None or journal.uuid != self.uuid or size < journal.eof:
            raise FormatError(f"{self.path} can't be continued: the journal of its last commit is not beside it.")
        for start, data in journal.extents:
            _write_at(self._fd, data, start)
        os.ftruncate(self._fd, journal.eof)
        self._size = self._committed = journal.eof
        self._dirty = set(range(-(-journal.eof // PAGE)))

    # The binary file protocol

    def readable(self) -> bool:
        """Always."""
        return True

    def writable(self) -> bool:
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

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # h5py hands over memoryviews
        """Fill `buffer` from the position on, with what was written last."""
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._position)]
        filled = read_at(self._fd, view, self._position)
        view[filled:] = bytes(len(view) - filled)
        self._held.overlay(self._position, view)
        self._position += len(view)
        return len(view)

    def write(self, data: memoryview) -> int:  # type: ignore[override]  # likewise
        """Write at the position: into the file where no commit holds these bytes, else into memory."""
        view = memoryview(data).cast("B")
        start = self._position
        self._position += len(view)
        if self._discard:
            return len(view)
        at = 0
        for stop, straight in self._pieces(start, start + len(view)):
            piece = view[at : stop - start]
            if straight:
                _write_at(self._fd, piece, start + at)
                self._mark_dirty(start + at, stop)
            else:
                self._held.put(start + at, piece)
            at = stop - start
        if self._position > self._size:
            self._mark_dirty(self._size, start)  # a gap, should there be one
            self._size = self._position
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Change the length; what was committed stays on disk until the next commit."""
        size = self._position if size is None else size
        if not self._discard:
            if size >= self._committed:
                os.ftruncate(self._fd, size)
            self._mark_dirty(min(size, self._size), max(size, self._size))
            self._size = size
        return size

    def flush(self) -> None:
        """Nothing to do: `commit` brings everything to disk."""

    def close(self) -> None:
        """Give the file and its lock back, as it was at the last commit."""
        if not self.closed:
            os.close(self._fd)
        super().close()

    # Commits

    def commit(self, free: Sequence[tuple[int, int]] = ()) -> None:
        """Make everything written so far the file's content.

        Parameters
        ----------
        free : sequence of (start, stop)
            Stretches of the file, disjoint, whose content means nothing yet: they may be written without care.
        """
        os.fsync(self._fd)
        Journal(self.uuid, self._size, self._held).write(self.path)
        self.commits += 1
        for start, data in self._held:
            _write_at(self._fd, data, start)
            self._mark_dirty(start, start + len(data))
        os.ftruncate(self._fd, self._size)
        self._held.clear()
        self._committed = self._size
        self._free = ([start for start, _ in sorted(free)], [stop for _, stop in sorted(free)])
        self._update_checksums()

    def discard(self) -> None:
        """From now on nothing is written: the file stays as it was at the last commit."""
        self._held.clear()
        self._discard = True

    def seal(self) -> None:
        """Append the checksums of all pages, bring everything to disk, and remove the journal."""
        self._update_checksums()
        pages = self._checksums[: -(-self._committed // PAGE)]
        head = SEAL.pack(SEAL_MAGIC, 1, PAGE, self._committed, self.uuid.encode(), 0)[:-8]
        table = pages.tobytes()
        _write_at(self._fd, table, self._committed)
        os.fsync(self._fd)  # a footer on disk makes readers pass over the journal: all that it vouches for comes first
        _write_at(self._fd, head + xxhash.xxh3_64_digest(table + head), self._committed + len(table))
        os.fsync(self._fd)
        Journal.beside(self.path).unlink(missing_ok=True)
        sync_folder(self.path.parent)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, bool]]:
        """The ends of the parts of a write, and whether each goes straight into the file."""
        starts, stops = self._free
        while start < stop:
            if start >= self._committed:
                yield stop, True
                return
            at = bisect_right(starts, start) - 1
            if at >= 0 and start < stops[at]:
                start, straight = min(stop, stops[at]), True
            else:
                later = starts[at + 1] if at + 1 < len(starts) else stop
                start, straight = min(stop, later, self._committed), False
            yield start, straight

    def _mark_dirty(self, start: int, stop: int) -> None:
        self._dirty.update(range(start // PAGE, -(-stop // PAGE)))

    def _update_checksums(self) -> None:
        """Compute the checksums of the pages that have changed; they are still in the system's cache."""
        pages = -(-self._committed // PAGE)
        if len(self._checksums) < pages:
            self._checksums = np.resize(self._checksums, max(pages, 2 * len(self._checksums)))
        for page in self._dirty:
            if page < pages:
                block = os.pread(self._fd, min(PAGE, self._committed - page * PAGE), page * PAGE)
                self._checksums[page] = xxhash.xxh3_64_intdigest(block)
        self._dirty.clear()


def install(draft: Path, path: Path) -> None:
    """Put a file that is whole and on disk in the place of another, of which nothing is left then."""
    real = Path(os.path.realpath(path))
    draft.replace(real)
    sync_folder(real.parent)
    Journal.beside(real).unlink(missing_ok=True)


def page_checksums(view: memoryview) -> list[int]:
    """The checksum of every page of `view`, which starts on a page; the last may be short."""
    return [xxhash.xxh3_64_intdigest(view[at : at + PAGE]) for at in range(0, len(view), PAGE)]


def _lock(fd: int, path: Path) -> None:
    """One writer per file; where a file system knows no locks, there is none."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    for left in range(int(_LOCK_SECONDS * 4), -1, -1):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
                return
            if not left:
                raise UsageError(f"{path} is being written by another process; wait for it, or give another name.") from error
            time.sleep(0.25)
        else:
            return


def read_at(fd: int, view: memoryview, start: int) -> int:
    """Read into `view` from position `start`, and say how many bytes the file has there."""
    done = 0
    while done < len(view):
        got = os.preadv(fd, [view[done:]], start + done)
        if not got:
            break
        done += got
    return done


def _write_at(fd: int, data: bytes | memoryview, start: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, start)
        view, start = view[done:], start + done

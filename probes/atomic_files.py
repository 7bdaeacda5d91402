"""Atomic replacement of files: a draft beside the target, fsync, rename, fsync of the folder.

A killed run leaves the old or the new file under the name, never an incomplete one. It may also leave a draft, a hidden file
`.NAME-XXXXXXXXXXXX.part.SUFFIX`, which the next write of that name removes. The process that writes a draft holds a lock on it
(`flock`), so that a draft without a lock is an orphan.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path

from probes.errors import UsageError

__all__ = ["locked", "plain_file", "replacing", "sync_folder", "try_lock"]

_NO_FILES = {
    stat.S_ISDIR: "a folder",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
}
_NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK)


@contextmanager
def replacing(path: str | PathLike[str]) -> Iterator[Path]:
    """A draft to write to; it replaces the file if the block ends without an error.

    Parameters
    ----------
    path : path-like
        File to write; missing folders are created. For a link, the file that it points to is replaced.

    Yields
    ------
    pathlib.Path
        An empty file in the same folder with the same ending.

    Raises
    ------
    UsageError
        If `path` is a folder, a device, a pipe or a socket.
    PermissionError
        If `path` is read-only.

    Notes
    -----
    An error or interrupt in the block removes the draft and leaves the old file unchanged. The new file has the permissions of
    the old one, or those of the umask.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with replacing(path) as draft:
    ...     _ = draft.write_text("whole")
    >>> path.read_text(), len(list(path.parent.iterdir()))
    ('whole', 1)
    """
    target = plain_file(path)
    mode = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
    if mode is not None and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "The file is read-only", str(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = Path(path).suffix
    start, end = (
        f".{target.stem[:40]}-",
        f".part{suffix if len(os.fsencode(suffix)) < 32 else ''}",
    )  # limit of a name: 255 bytes
    _remove_orphans(target.parent, start, end)
    draft, fd = _create(target.parent, start, end, 0o666 if mode is None else mode & 0o666 | 0o600, str(path))
    try:
        yield draft
        if mode is not None:
            draft.chmod(mode)
        _sync(draft)
        draft.replace(target)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(draft)):
            error.filename = str(path)  # the user's name
        raise
    finally:
        draft.unlink(missing_ok=True)  # unless it was renamed
        if fd is not None:
            os.close(fd)
    sync_folder(target.parent)


def plain_file(path: str | PathLike[str]) -> Path:
    """The file of a path, with links followed; it need not exist.

    Raises
    ------
    UsageError
        If it is not a plain file.

    Examples
    --------
    >>> plain_file("/")
    Traceback (most recent call last):
    ...
    probes.errors.UsageError: / is a folder; name a file in it.
    """
    target = Path(os.path.realpath(path))
    with contextlib.suppress(FileNotFoundError):
        mode = target.stat().st_mode
        if kind := next((kind for is_kind, kind in _NO_FILES.items() if is_kind(mode)), None):
            then = "name a file in it" if kind == "a folder" else "name a plain file"
            raise UsageError(f"{Path(path)} is {kind}; {then}.")
    return target


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process; without effect on a system without locks.

    Raises
    ------
    UsageError
        If another process holds it.
    """
    try:
        fd = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows can't open folders
        yield
        return
    try:
        if try_lock(fd) is False:
            raise UsageError(f"{folder} is being written by another process; wait for it, or give another folder.")
        yield
    finally:
        os.close(fd)


def sync_folder(folder: Path) -> None:
    """Flush a rename to disk, if the system can open folders."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        with contextlib.suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)


def _sync(path: Path) -> None:
    """Flush a file to disk."""
    fd = os.open(path, os.O_RDWR)  # opened again: the writer may have created another file of that name
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _create(folder: Path, start: str, end: str, mode: int, name: str) -> tuple[Path, int | None]:
    """An empty draft, and the descriptor of its lock, if the system has locks."""
    while True:
        draft = folder / f"{start}{secrets.token_hex(6)}{end}"
        try:
            fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            error.filename = name
            raise
        except KeyboardInterrupt:
            draft.unlink(missing_ok=True)
            raise
        if (held := try_lock(fd)) and draft.exists():
            return draft, fd
        os.close(fd)
        if held is None:
            return draft, None
        draft.unlink(missing_ok=True)  # another process removed it before it was locked


def _remove_orphans(folder: Path, start: str, end: str) -> None:
    """Remove the drafts of killed processes."""
    name = re.compile(f"{re.escape(start)}[0-9a-f]{{12}}{re.escape(end)}")
    for orphan in [entry for entry in folder.iterdir() if name.fullmatch(entry.name)]:
        with contextlib.suppress(OSError):
            fd = os.open(orphan, os.O_RDWR)
            try:
                if try_lock(fd):
                    orphan.unlink()
            finally:
                os.close(fd)


def try_lock(fd: int) -> bool | None:
    """Whether this process now holds the lock of an open file; None on a system without locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return None if error.errno in _NO_LOCKS else False
    return True

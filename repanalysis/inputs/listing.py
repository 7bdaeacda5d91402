"""Image files of a folder or tar archive; refuses truncated archives.

Files of systems and editors are ignored: hidden ones (`.ipynb_checkpoints/`, `.DS_Store`, the
`._x.png` that macOS writes), `__MACOSX/`, `@eaDir/`, the trash. Links to folders are followed, except to a folder
that contains them.

A tar archive is a sequence of blocks of 512 bytes: for each file a header and its data, then two blocks of zeros. Python's
`tarfile` reads an archive that was truncated between two files, or within a header, as a shorter one; here it is refused. Also
refused are links to nothing, repeated names, names that point out of the archive, and concatenated archives: they would omit or
repeat images.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from probes.errors import DataError, FormatError, reason_of

__all__ = ["Member", "files_of", "members_of"]

_LEFT_BEHIND = {"__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
_BLOCK = 512
_PACKED: dict[bytes, Callable[[Path], IO[bytes]]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}  # type: ignore[dict-item]  # in binary mode
_BROKEN = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


def _counts(parts: Collection[str]) -> bool:
    """Whether a file is not ignored, by the parts of its path."""
    return not any(part.startswith(".") or part in _LEFT_BEHIND for part in parts)


def files_of(folder: Path, endings: Collection[str]) -> list[str]:
    """Relative paths of a folder's files with one of these endings, in lower case; sorted.

    Raises
    ------
    DataError
        If such a file is a link to nothing or not a file, or a folder can't be listed.
    """

    def walk(directory: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[str]:
        status = Path(directory).stat()
        place = (status.st_dev, status.st_ino)
        if place in above:
            return
        with os.scandir(directory) as entries:
            for entry in entries:
                name = prefix + entry.name
                if not _counts([entry.name]):
                    continue
                if _is_folder(entry):
                    yield from walk(entry.path, f"{name}/", above | {place})
                elif PurePosixPath(entry.name).suffix.lower() in endings:
                    if not entry.is_file():
                        what = "a link to nothing" if entry.is_symlink() else "not a plain file"
                        raise DataError(f"{entry.path} is {what}; remove it, or put the file there.")
                    yield name

    try:
        return sorted(walk(os.fspath(folder), "", frozenset()))
    except OSError as error:
        raise DataError(f"{folder} can't be listed ({reason_of(error)}).") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


class Member(NamedTuple):
    """A file in an archive: name, size, offset of its data if the archive is not compressed, and a function that reads it.

    `anchored`: whether its name in the archive is `./name`. `read` must be called before the iteration continues.
    """

    name: str
    size: int
    place: tuple[int, int] | None
    read: Callable[[], bytes]
    anchored: bool = False


def members_of(path: Path, endings: Collection[str]) -> Iterator[Member]:
    """The files of a tar archive, compressed or not, in its order; a hard link to an earlier file is that file.

    Parameters
    ----------
    path : pathlib.Path
        A .tar, .tar.gz, .tar.bz2 or .tar.xz.
    endings : collection of str
        Endings of the files to yield and to check, in lower case.

    Raises
    ------
    FormatError
        If it is not an archive or is truncated, or a file is repeated, has a name outside the archive, or is a link to nothing.
    """
    try:
        with path.open("rb") as file:
            head = file.read(8)
        packed = next((opener for magic, opener in _PACKED.items() if head.startswith(magic)), None)
        with path.open("rb") if packed is None else packed(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            yield from _members(path, tar, endings, plain=packed is None)
            _refuse_cut(path, stream, tar.offset, packed is None)
    except FormatError:
        raise
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def _members(path: Path, tar: tarfile.TarFile, endings: Collection[str], *, plain: bool) -> Iterator[Member]:
    """The files, in the order of the archive."""
    seen: dict[str, Member] = {}
    for entry in tar:
        parts = PurePosixPath(posixpath.normpath(entry.name)).parts
        name = "/".join(parts)
        if entry.isdir() or not parts or not _counts(parts if ".." not in parts else parts[-1:]):
            continue
        if PurePosixPath(name).suffix.lower() not in endings:
            if entry.isreg():
                yield Member(name, entry.size, None, partial(_read, path, tar, entry), entry.name.startswith("./"))
            continue
        if ".." in parts or name.startswith("/"):
            raise FormatError(f"{path} is refused: {entry.name} lies outside of the archive; pack it with names within.")
        if name in seen:
            raise FormatError(f"{path} is refused: it holds {name} twice; unpack it, and give the folder.")
        if entry.islnk() and (target := seen.get(posixpath.normpath(entry.linkname))) is not None:
            member = target._replace(name=name)
        elif not entry.isreg():
            raise FormatError(f"{path} is refused: {name} is a link or a device; pack it with the files themselves (tar -h).")
        else:
            place = (entry.offset_data, entry.size) if plain and entry.sparse is None else None
            member = Member(name, entry.size, place, partial(_read, path, tar, entry), entry.name.startswith("./"))
        seen[name] = member
        yield member


def _read(path: Path, tar: tarfile.TarFile, entry: tarfile.TarInfo) -> bytes:
    try:
        source = tar.extractfile(entry)
        return b"" if source is None else source.read()
    except _BROKEN as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> FormatError:
    return FormatError(f"{path} can't be read as a tar archive ({reason_of(error)}); copy it again.")


def _refuse_cut(path: Path, stream: IO[bytes], end: int, plain: bool) -> None:  # noqa: FBT001  # one call, above
    """Raise FormatError unless two blocks of zeros, and nothing else, follow the last file."""
    stream.seek(end)
    blocks = stream.read(2 * _BLOCK)
    if len(blocks) < 2 * _BLOCK or any(blocks) or (plain and path.stat().st_size % _BLOCK):
        raise FormatError(f"{path} was cut off: it ends before the mark at a tar archive's end; copy it again.")
    while rest := stream.read(1 << 20):  # of a compressed one, to its own checksum
        if rest.strip(b"\0"):
            raise FormatError(
                f"{path} goes on behind its end, as archives do that were joined; unpack it, and give the folder."
            )

"""`imagefolder:DIR`: a folder of class folders, or a .tar or .tar.gz of one."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from probes.errors import DataError, FormatError, UsageError
from repanalysis.inputs.samples import Data, Transform

__all__ = ["imagefolder"]

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
_TAR_BYTES = 4 << 30  # compressed archives can't be read out of order: they are held in memory, up to this


@dataclass(frozen=True)
class _Folder:
    """Files of a folder, by name."""

    path: Path

    def names(self) -> list[str]:
        files = (file for file in self.path.rglob("*") if file.suffix.lower() in _IMAGES and file.is_file())
        return sorted(file.relative_to(self.path).as_posix() for file in files)

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")


@dataclass(frozen=True)
class _Archive:
    """Files of a tar archive, by name: where each lies, or, of a compressed one, its content."""

    path: Path
    members: Mapping[str, tuple[int, int] | bytes]

    def names(self) -> list[str]:
        return sorted(self.members)

    def open(self, name: str) -> IO[bytes]:
        member = self.members[name]
        if isinstance(member, bytes):
            return io.BytesIO(member)
        start, size = member
        with self.path.open("rb") as file:
            file.seek(start)
            return io.BytesIO(file.read(size))

    @classmethod
    def of(cls, path: Path) -> _Archive:
        try:
            with tarfile.open(path) as tar:
                plain = _is_plain(path)
                images = (member for member in tar if member.isfile() and Path(member.name).suffix.lower() in _IMAGES)
                members: dict[str, tuple[int, int] | bytes] = {}
                size = 0
                for member in images:
                    if plain and member.sparse is None:
                        members[member.name] = (member.offset_data, member.size)
                        continue
                    size += member.size
                    if size > _TAR_BYTES:
                        raise UsageError(f"{path} holds over {_TAR_BYTES >> 30} GB of images: unpack it and give the folder.")
                    source = tar.extractfile(member)
                    members[member.name] = b"" if source is None else source.read()
        except (tarfile.TarError, EOFError, OSError) as error:
            raise FormatError(f"{path} can't be read as a tar archive ({error}).") from error
        return cls(path, members)


def _is_plain(path: Path) -> bool:
    """Whether a tar archive is not compressed, so that its files can be read where they lie."""
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


@dataclass(frozen=True)
class _Images:
    """Reads image after image, in so many colours."""

    files: _Folder | _Archive
    names: Sequence[str]
    colours: int

    def __call__(self, sample: int) -> Any:
        from PIL import Image, UnidentifiedImageError

        name = self.names[sample]
        try:
            with self.files.open(name) as file, Image.open(file) as image:
                return image.convert("RGB" if self.colours == 3 else "L")
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"Image {name} of {self.files.path} can't be read ({error}).") from error


def imagefolder(spec: str, path: Path, split: str | None, transform: Transform | None, colours: int) -> Data:
    """Images of class folders, those of one split where there are several."""
    if not path.exists():
        raise FileNotFoundError(f"There is no folder or archive {path}.")
    files = _Archive.of(path) if path.is_file() else _Folder(path)
    names = files.names()
    if split is not None:
        names = [name for name in names if split in Path(name).parts[:-2]]
        if not names:
            raise UsageError(f"{path} has no folder {split!r} of class folders.")
    if not names:
        raise DataError(f"{path} holds no images ({', '.join(sorted(_IMAGES))}).")
    parents = [Path(name).parent for name in names]
    classes = sorted({parent.name for parent in parents})
    if len({parent.parent for parent in parents}) > 1:
        splits = sorted({parent.parent.name for parent in parents})
        raise UsageError(f"{path} holds class folders below {', '.join(splits[:6])}; choose one with --split.")
    labelled = any(str(parent) != "." for parent in parents)
    labels = np.array([classes.index(parent.name) for parent in parents], np.int64) if labelled else None
    return Data(
        spec, _Images(files, names, colours), np.arange(len(names)), labels, classes if labelled else None, split, transform
    )

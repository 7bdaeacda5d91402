"""`imagefolder:DIR`: a folder of class folders, or a .tar or .tar.gz of one."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from probes.errors import DataError, UsageError
from repanalysis.inputs.listing import files_of, members_of
from repanalysis.inputs.pixels import read_image
from repanalysis.inputs.samples import Data, Transform

__all__ = ["imagefolder"]

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
_TAR_BYTES = 4 << 30  # compressed archives can't be read out of order: they are held in memory, up to this


@dataclass(frozen=True)
class _Folder:
    """Files of a folder, by name."""

    path: Path

    def names(self) -> list[str]:
        return files_of(self.path, _IMAGES)

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
        members: dict[str, tuple[int, int] | bytes] = {}
        size = 0
        for member in members_of(path, _IMAGES):
            if Path(member.name).suffix.lower() not in _IMAGES:
                continue
            size += 0 if member.place else member.size
            if size > _TAR_BYTES:
                raise UsageError(f"{path} holds over {_TAR_BYTES >> 30} GB of images: unpack it and give the folder.")
            members[member.name] = member.place or member.read()
        return cls(path, members)


@dataclass(frozen=True)
class _Images:
    """Reads image after image, in so many colours."""

    files: _Folder | _Archive
    names: Sequence[str]
    colours: int

    def __call__(self, sample: int) -> Any:
        name = self.names[sample]
        try:
            file = self.files.open(name)
        except OSError as error:
            raise DataError(f"Image {name} of {self.files.path} can't be opened ({error.strerror or error}).") from error
        with file:
            return read_image(file, self.colours, f"{name} of {self.files.path}")


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
    if not names and path.is_dir() and any(path.glob("data_batch_*")):
        raise DataError(
            f"{path} holds CIFAR's batches, pickles of Python: extract --data torchvision:CIFAR10,root={path.parent}."
        )
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

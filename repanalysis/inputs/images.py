"""`imagefolder:DIR`: a folder of class folders, or a .tar or .tar.gz of one."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import DataError, FormatError, UsageError
from probes.ids import as_ids
from probes.labels import Annotations, annotated, class_order
from repanalysis.inputs.beside import BESIDE, labels_beside
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

    def beside(self) -> list[str]:
        """Names of the files that may hold labels."""
        files = (file for file in self.path.rglob("*") if file.suffix.lower() in BESIDE and file.is_file())
        return sorted(file.relative_to(self.path).as_posix() for file in files)

    def has(self, ending: str) -> bool:
        """Whether files with this ending lie in the folder itself."""
        return any(file.name.lower().endswith(ending) for file in self.path.iterdir())

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")


@dataclass(frozen=True)
class _Archive:
    """Files of a tar archive, by name: where each lies, or, of a compressed one, its content."""

    path: Path
    members: Mapping[str, tuple[int, int] | bytes]
    endings: frozenset[str] = frozenset()

    def names(self) -> list[str]:
        return sorted(name for name in self.members if Path(name).suffix.lower() in _IMAGES)

    def beside(self) -> list[str]:
        """Names of the files that may hold labels."""
        return sorted(name for name in self.members if Path(name).suffix.lower() in BESIDE)

    def has(self, ending: str) -> bool:
        """Whether files with this ending are in the archive."""
        return ending in self.endings

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
                members: dict[str, tuple[int, int] | bytes] = {}
                endings: set[str] = set()
                size = 0
                for member in filter(tarfile.TarInfo.isfile, tar):
                    endings.add(ending := Path(member.name).suffix.lower())
                    if ending not in _IMAGES | BESIDE:
                        continue
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
        return cls(path, members, frozenset(endings))


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


def imagefolder(
    spec: str, path: Path, split: str | None, transform: Transform | None, colours: int, *, labels: bool = True
) -> Data:
    """Images of class folders, those of one split where there are several; without labels, if these are not looked for."""
    if not path.exists():
        raise FileNotFoundError(f"There is no folder or archive {path}.")
    files = _Archive.of(path) if path.is_file() else _Folder(path)
    names = files.names()
    if split is not None:
        names = [name for name in names if split in Path(name).parts[:-2]] or [
            name for name in names if Path(name).parts[-2:-1] == (split,)
        ]
        if not names:
            raise UsageError(f"{path} has no folder {split!r} of class folders.")
    if not names:
        raise DataError(f"{path} holds no images ({', '.join(sorted(_IMAGES))}).")
    parents = [Path(name).parent for name in names]
    if len({parent.parent for parent in parents}) > 1:
        splits = sorted({parent.parent.name for parent in parents})
        raise UsageError(f"{path} holds class folders below {', '.join(splits[:6])}; choose one with --split.")
    known, labels_from = _labels(files, names, parents, split) if labels else (Annotations(), "")
    ids, ids_from = _ids(files, names, split)
    return Data(
        spec, _Images(files, names, colours), ids, known.labels, known.class_names, split, transform,
        rows=np.arange(len(names)), ids_from=ids_from, targets=known.targets, target_names=known.target_names,
        labels_from=labels_from,
    )  # fmt: skip


def _labels(
    files: _Folder | _Archive, names: Sequence[str], parents: Sequence[Path], split: str | None
) -> tuple[Annotations, str]:
    """Classes of the folders that images lie in, or what lies beside the images; where both are, they must agree.

    A single folder is no class: it is the one that was packed, or a split.
    """
    known, labels_from = labels_beside(files, names)
    folders = [parent.name for parent in parents]
    if len(set(folders)) < 2 and (labels_from or folders[0] in ("", split)):
        return known, labels_from
    classes = annotated(folders, what="The folders", class_names=class_order(folders))
    if known.labels is None or classes.labels is None:
        how = "; ".join(filter(None, ["class folders", labels_from]))
        return replace(classes, targets=known.targets, target_names=known.target_names), how
    pairs = set(zip(classes.labels.tolist(), known.labels.tolist(), strict=True))
    if not len(pairs) == len(set(folders)) == len({label for _, label in pairs}):
        raise UsageError(
            f"The folders of {files.path} say other classes than {labels_from}; choose with --labels FILE, or take one away."
        )
    return classes, "class folders"


def _ids(files: _Folder | _Archive, names: Sequence[str], split: str | None) -> tuple[NDArray[Any], str]:
    """What each image is called, in a folder and in an archive of it alike, and where that comes from.

    Its name below the folder; without its ending, where endings tell the parts of a sample apart (`000001.jpg`, `000001.cls`).
    """
    if isinstance(files, _Archive):
        names = _below_root(names, files.names(), split)
    keys = [name.partition(".")[0] for name in names]
    if not any("/" in name for name in names) and files.has(".cls") and len(set(keys)) == len(keys):
        return as_ids(keys), "key"
    return as_ids(names), "name"


def _below_root(names: Sequence[str], every: Sequence[str], split: str | None) -> list[str]:
    """Names in an archive as they are below the folder that was packed: `./cat/1.png` and `set/cat/1.png` are `cat/1.png`.

    A folder that all images lie in is the one that was packed, unless it holds them itself, or is the split.
    """
    parts = [PurePosixPath(name).parts for name in every]
    tops = {own[0] for own in parts}
    packed = len(tops) == 1 and min(map(len, parts)) > 2 and tops != {split} and not every[0].startswith("./")
    return ["/".join(PurePosixPath(name).parts[1 if packed else 0 :]).lstrip("/") for name in names]

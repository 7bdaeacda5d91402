"""`imagefolder:DIR`: a folder of class folders, or a .tar or .tar.gz of one."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import DataError, UsageError
from probes.ids import as_ids
from probes.labels import Annotations, annotated, class_order
from repanalysis.inputs.beside import BESIDE, labels_beside
from repanalysis.inputs.listing import files_of, members_of
from repanalysis.inputs.pixels import read_image
from repanalysis.inputs.samples import Data, Transform

__all__ = ["imagefolder"]

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
_TAR_BYTES = 4 << 30  # limit on a compressed archive, which is read into memory since it has no random access


@dataclass(frozen=True)
class _Folder:
    """Files of a folder, by name."""

    path: Path

    def names(self) -> list[str]:
        return files_of(self.path, _IMAGES)

    def beside(self) -> list[str]:
        """Names of the files that may hold labels."""
        return files_of(self.path, BESIDE)

    def has(self, ending: str) -> bool:
        """Whether files with this ending lie in the folder itself."""
        return any("/" not in name for name in files_of(self.path, {ending}))

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")


@dataclass(frozen=True)
class _Archive:
    """Files of a tar archive, by name: the position of each, or its content if the archive is compressed.

    If it is anchored, names in it begin with `./`, the packed folder.
    """

    path: Path
    members: Mapping[str, tuple[int, int] | bytes]
    endings: frozenset[str] = frozenset()
    anchored: bool = False

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
        members: dict[str, tuple[int, int] | bytes] = {}
        endings: set[str] = set()
        size, anchored = 0, False
        for member in members_of(path, _IMAGES | BESIDE):
            endings.add(ending := Path(member.name).suffix.lower())
            if ending not in _IMAGES | BESIDE:
                continue
            anchored |= member.anchored
            size += 0 if member.place else member.size
            if size > _TAR_BYTES:
                raise UsageError(f"{path} holds over {_TAR_BYTES >> 30} GB of images: unpack it and give the folder.")
            members[member.name] = member.place or member.read()
        return cls(path, members, frozenset(endings), anchored)


@dataclass(frozen=True)
class _Images:
    """Reads images with the given number of channels."""

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


def imagefolder(
    spec: str, path: Path, split: str | None, transform: Transform | None, colours: int, *, labels: bool = True
) -> Data:
    """Images of class folders, or of one split; `ignore` None skips the labels."""
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
    if not names and path.is_dir() and any(path.glob("data_batch_*")):
        raise DataError(
            f"{path} holds CIFAR's batches, pickles of Python: extract --data torchvision:CIFAR10,root={path.parent}."
        )
    if not names:
        raise DataError(f"{path} holds no images ({', '.join(sorted(_IMAGES))}).")
    parents = [Path(name).parent for name in names]
    if len({parent.parent for parent in parents}) > 1:
        splits = sorted({parent.parent.name for parent in parents})
        raise UsageError(f"{path} holds class folders below {', '.join(splits[:6])}; choose one with --split.")
    annotations, labels_from = _labels(files, names, parents, split) if labels else (Annotations(), "")
    ids, ids_from = _ids(files, names, split)
    return Data(
        spec, _Images(files, names, colours), ids, annotations.labels, annotations.class_names, split, transform,
        rows=np.arange(len(names)), ids_from=ids_from, targets=annotations.targets, target_names=annotations.target_names,
        labels_from=labels_from,
    )  # fmt: skip


def _labels(
    files: _Folder | _Archive, names: Sequence[str], parents: Sequence[Path], split: str | None
) -> tuple[Annotations, str]:
    """Labels from class folders or from files beside the images; if both exist, they must agree.

    A single folder is not a class: it is the packed folder or a split.
    """
    annotations, labels_from = labels_beside(files, names)
    folders = [parent.name for parent in parents]
    if len(set(folders)) < 2 and (labels_from or folders[0] in ("", split)):
        return annotations, labels_from
    classes = annotated(folders, what="The folders", class_names=class_order(folders))
    if annotations.labels is None or classes.labels is None:
        how = "; ".join(filter(None, ["class folders", labels_from]))
        return replace(classes, targets=annotations.targets, target_names=annotations.target_names), how
    pairs = set(zip(classes.labels.tolist(), annotations.labels.tolist(), strict=True))
    if not len(pairs) == len(set(folders)) == len({label for _, label in pairs}):
        raise UsageError(
            f"The folders of {files.path} say other classes than {labels_from}; choose with --labels FILE, or take one away."
        )
    return classes, "class folders"


def _ids(files: _Folder | _Archive, names: Sequence[str], split: str | None) -> tuple[NDArray[Any], str]:
    """Ids of images, equal for a folder and an archive of it, and their origin.

    The name below the folder; without its ending, if files of one sample differ in their endings (`000001.jpg`, `000001.cls`).
    """
    if isinstance(files, _Archive):
        names = names if files.anchored else _below_root(names, files.names(), split)
    keys = [name.partition(".")[0] for name in names]
    if not any("/" in name for name in names) and files.has(".cls") and len(set(keys)) == len(keys):
        return as_ids(keys), "key"
    return as_ids(names), "name"


def _below_root(names: Sequence[str], every: Sequence[str], split: str | None) -> list[str]:
    """Names in an archive relative to the packed folder: `set/cat/1.png` is `cat/1.png`.

    A folder that contains all images is the packed folder, unless they are directly in it, or it is the split.
    """
    parts = [PurePosixPath(name).parts for name in every]
    tops = {own[0] for own in parts}
    packed = len(tops) == 1 and min(map(len, parts)) > 2 and tops != {split}
    return ["/".join(PurePosixPath(name).parts[1 if packed else 0 :]) for name in names]

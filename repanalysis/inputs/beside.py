"""Labels in files beside images: one file per image, a table, or ImageNet's list.

    000001.cls, 000001.json     of the image 000001.jpg, as in WebDataset's archives; of JSON, the entry `label`
    metadata.csv, .jsonl        a column of names and one of labels, as in Hugging Face's image folders
    *ground_truth*.txt          one ILSVRC id per line, of the image whose name ends with the line's number

ILSVRC ids are in the order of the devkit, not of any network's outputs. They are converted to WordNet ids if its `meta.mat`
exists.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from probes.errors import FormatError, UsageError
from probes.labels import Annotations, annotated
from repanalysis.inputs.labels import Column, aligned, column_of, label_key, typed

__all__ = ["BESIDE", "Files", "labels_beside"]

BESIDE = {".cls", ".json", ".csv", ".jsonl", ".txt"}  # endings of files that may hold labels
_TABLES = ("metadata.csv", "metadata.jsonl")
_NUMBERED = re.compile(r"_(\d{8})\.[^.]+$")
_GROUND_TRUTH = re.compile(r"ground_?truth", re.IGNORECASE)


class Files(Protocol):
    """A folder or an archive."""

    @property
    def path(self) -> Path:
        """Path of the folder or archive."""

    def beside(self) -> list[str]:
        """Names of the files that may hold labels."""

    def open(self, name: str) -> IO[bytes]:
        """One of its files."""


def labels_beside(files: Files, names: Sequence[str]) -> tuple[Annotations, str]:
    """Labels or targets of images, and their origin; neither, and "", if there are no such files.

    Parameters
    ----------
    files : Files
        Folder or archive of the images.
    names : sequence of str
        Names of the images.
    """
    others = files.beside()
    for read in (_of_each, _of_table, _of_imagenet):
        if (annotations := read(files, others, names)) is not None:
            return annotations
    return Annotations(), ""


def _content(files: Files, name: str) -> bytes:
    with files.open(name) as file:
        return file.read()


def _of_each(files: Files, others: Sequence[str], names: Sequence[str]) -> tuple[Annotations, str] | None:
    """Labels from one file per image."""
    for ending in (".cls", ".json"):
        by_key = {_key(name): name for name in others if name.lower().endswith(ending)}
        if not any(_key(name) in by_key for name in names):
            continue
        texts = [
            _content(files, by_key[key]).decode("utf-8", "replace") if (key := _key(name)) in by_key else "" for name in names
        ]
        values: list[Any] = texts if ending == ".cls" else [_entry(text) for text in texts]
        if any(value not in ("", None) for value in values):
            return annotated(typed(values), what=f"The {ending} files of {files.path}"), f"{ending} beside each image"
    return None


def _key(name: str) -> str:
    """The part of a path that all files of a sample share: up to the first dot of the name."""
    folder, slash, own = name.rpartition("/")
    return folder + slash + own.partition(".")[0]


def _entry(text: str) -> Any:
    """The label in a JSON object; None if there is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    key = label_key(value) if isinstance(value, dict) else None
    entry = None if key is None else value[key]
    return entry if isinstance(entry, str | int | float) else None


def _of_table(files: Files, others: Sequence[str], names: Sequence[str]) -> tuple[Annotations, str] | None:
    """Labels from a table of names and labels."""
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    tables = [name for name in others if PurePosixPath(name).name in _TABLES and str(PurePosixPath(name).parent) in folders]
    if not tables:
        return None
    columns = []
    for table in tables:
        try:
            columns.append(column_of(_content(files, table), str(PurePosixPath(files.path.as_posix()) / table)))
        except UsageError as error:
            warnings.warn(f"No labels: {error}", stacklevel=6)
            return None
    if any(column.ids is None for column in columns):
        warnings.warn(f"No labels: {tables[0]} has no column of names (file_name).", stacklevel=5)
        return None
    inside = [
        [str(PurePosixPath(table).parent / id_) for id_ in column.ids or ()]
        for table, column in zip(tables, columns, strict=True)
    ]
    values = np.concatenate([np.asarray(column.values, object) for column in columns])
    joined = Column(columns[0].where, values, [id_ for ids in inside for id_ in ids], columns[0].by)
    return aligned(joined, np.array(list(names)), str(files.path))


def _of_imagenet(files: Files, others: Sequence[str], names: Sequence[str]) -> tuple[Annotations, str] | None:
    """Labels from ImageNet's list of the classes of its validation images."""
    numbers = [int(match[1]) if (match := _NUMBERED.search(name)) else 0 for name in names]
    if not all(numbers):
        return None
    lists = [(name, _content(files, name)) for name in others if name.endswith(".txt") and _GROUND_TRUTH.search(name)]
    around = [files.path.parent, *sorted(files.path.parent.glob("*devkit*/data"))]
    paths = [path for folder in around for path in sorted(folder.glob("*.txt")) if _GROUND_TRUTH.search(path.name)]
    lists += [(path.name, path.read_bytes()) for path in paths[: not lists]]
    if not lists:
        return None
    name, content = lists[0]
    lines = content.decode("utf-8", "replace").split()
    if not all(line.isdecimal() for line in lines) or max(numbers) > len(lines):
        raise FormatError(
            f"{name} should hold an ILSVRC id a line, and one for image {max(numbers)}; it has {len(lines)} lines."
        )
    ids = np.array([int(lines[number - 1]) for number in numbers])
    meta = next((path for folder in [files.path, *around] for path in [folder / "meta.mat"] if path.exists()), None)
    if meta is None:
        return annotated([f"ILSVRC2012_ID {own:04d}" for own in ids], what=name), f"{name} (ILSVRC ids)"
    return annotated(_wordnet(meta, ids), what=name), f"{name} and {meta.name}"


def _wordnet(meta: Path, ids: NDArray[np.int64]) -> list[str]:
    """WordNet ids of ILSVRC ids."""
    from scipy.io import loadmat

    try:
        synsets = loadmat(str(meta), squeeze_me=True)["synsets"]
        names = {int(own): str(name) for own, name in zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)}
        return [names[int(own)] for own in ids]
    except (ValueError, KeyError, TypeError, OSError, NotImplementedError) as error:
        raise FormatError(f"{meta} can't be read as the devkit's list of synsets ({error}).") from error

"""`"imagefolder:DIR"` -> labelled images with ids that do not depend on the order in which they are read.

Specifications: `digits` (scikit-learn's handwritten digits, with splits train and test of half each), `imagefolder:DIR`
(a folder of class folders, or a .tar, .tar.gz of one), `npz:FILE` (arrays x and y, or x_train, y_train, x_test, ...;
`npz:FILE,integers=tokens` keeps integers, `integers=numbers` makes them float32), and
`gaussians:K=10,d=64,sparsity=1` (vectors of a mixture of Gaussians, with the parameters of `theory.mixtures`), and
`scale-detection:task=1,dimensions=1` (two points in an image, with the parameters of `theory.scale_detection`, and `train=` and
`seed=` of the splits train, validation and test).
"""

from __future__ import annotations

import io
import tarfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from probes.errors import DataError, FormatError, UsageError, did_you_mean
from repanalysis._options import options
from repanalysis.theory.mixtures import sparse_mixture
from repanalysis.theory.scale_detection import scale_task

__all__ = ["Data", "load_data"]

_IMAGES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
_SCHEMES = ("digits", "imagefolder", "npz", "gaussians", "scale-detection")
_ALONE = ("digits", "gaussians", "scale-detection")  # need nothing behind the colon
_SPLITS = ("train", "test")
_INTEGERS = ("tokens", "numbers")
_COLOURS = (1, 3, 4)
_TAR_BYTES = 4 << 30  # compressed archives can't be read out of order: they are held in memory, up to this

Transform = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class Data(Dataset[tuple[Tensor, int, int]]):
    """Samples `(x, label, id)`, ready for a loader.

    Attributes
    ----------
    spec : str
        What was asked for.
    read : callable
        From a sample id to what the transform takes: a PIL image, or an array.
    ids : (n,) int64 array
        Sample ids: positions in the full data set.
    labels : (n,) int64 array or None
        Classes.
    class_names : list of str or None
        Name of class 0, 1, ...
    split : str or None
        The split that all samples belong to.
    transform : callable or None
        From what `read` returns to a tensor.
    """

    spec: str
    read: Callable[[int], Any]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64] | None
    class_names: list[str] | None = None
    split: str | None = None
    transform: Transform | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        sample = int(self.ids[index])
        x = (self.transform or as_tensor)(self.read(sample))
        return x, -1 if self.labels is None else int(self.labels[index]), sample

    def sample(self, n: int, *, seed: int) -> Data:
        """A random subset of n samples, drawn from the seed and in the original order."""
        if n >= len(self):
            return self
        return self._rows(np.sort(np.random.default_rng(seed).choice(len(self), n, replace=False)))

    def pick(self, ids: NDArray[np.int64]) -> Data:
        """The samples of these ids, in that order.

        Raises
        ------
        DataError
            If one is not there.
        """
        position = {int(sample): row for row, sample in enumerate(self.ids)}
        if missing := [int(sample) for sample in ids if int(sample) not in position]:
            raise DataError(f"{self.spec} has no sample {missing[0]}: these are other data, or another split.")
        return self._rows(np.array([position[int(sample)] for sample in ids], np.int64))

    def parts(self, parts: int, batch_size: int) -> list[Data]:
        """At most so many parts, one after the other, cut between batches: each batch is one that the whole would have."""
        batches = -(-len(self) // batch_size)
        size = max(1, -(-batches // parts)) * batch_size
        return [self._rows(np.arange(start, min(start + size, len(self)))) for start in range(0, len(self), size)]

    def _rows(self, rows: NDArray[np.int64]) -> Data:
        labels = None if self.labels is None else self.labels[rows]
        return Data(self.spec, self.read, self.ids[rows], labels, self.class_names, self.split, self.transform)

    @property
    def collate_fn(self) -> Callable[[Sequence[tuple[Tensor, int, int]]], tuple[Tensor, Tensor | None, Tensor]]:
        """How samples become a batch `(x, labels or None, ids)`."""
        return _Collate(labelled=self.labels is not None)

    def loader(self, batch_size: int, *, workers: int = 0, pinned: bool = False) -> DataLoader[Any]:
        """Batches `(x, labels or None, ids)` in order; in page-locked memory, if wanted, for a GPU."""
        if batch_size < 1:
            raise UsageError(f"The batch size is {batch_size}; it must be at least 1.")
        return DataLoader(self, batch_size, num_workers=workers, collate_fn=self.collate_fn, pin_memory=pinned)


@dataclass(frozen=True)
class _Collate:
    """Stacks samples; a sentence where their shapes differ."""

    labelled: bool

    def __call__(self, items: Sequence[tuple[Tensor, int, int]]) -> tuple[Tensor, Tensor | None, Tensor]:
        images, labels, ids = zip(*items, strict=True)
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            one, other = sorted(shapes)[:2]
            raise DataError(f"Images have different shapes ({one}, {other}); give --size to make them equal.")
        return torch.stack(images), torch.tensor(labels) if self.labelled else None, torch.tensor(ids)


def as_tensor(value: Any) -> Tensor:
    """Image or array -> float tensor: 8-bit images and clips to [0, 1], channels first; other arrays as they are, in float32.

    An image is (H, W) or (H, W, C), a clip (C, T, H, W).

    Examples
    --------
    >>> as_tensor(np.full((2, 2), 255, np.uint8)).tolist()
    [[[1.0, 1.0], [1.0, 1.0]]]
    """
    array = np.asarray(value)
    if array.dtype != np.uint8 or array.ndim < 2:
        return torch.from_numpy(np.array(array, dtype=np.float32))
    if array.ndim == 4:
        return torch.from_numpy(np.ascontiguousarray(array)).float() / 255
    if array.ndim == 2:
        array = array[..., None]
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))).float() / 255


def as_tokens(value: Any) -> Tensor:
    """Integers -> int64 tensor."""
    return torch.from_numpy(np.array(value, dtype=np.int64))


def load_data(
    spec: str, *, split: str | None = None, transform: Transform | None = None, colours: int = 3, tokens: bool = False
) -> Data:
    """Open the data that a specification names.

    Parameters
    ----------
    spec : str
        `digits`, `imagefolder:DIR`, `npz:FILE`, `gaussians:...` or `scale-detection:...`.
    split : str, optional
        Which split: a folder below DIR, the ending of the array names, "train" or "test" of the others.
    transform : callable, optional
        From a PIL image to a tensor, such as a model's; by default pixels in [0, 1].
    colours : int, default 3
        What images are turned into for the transform: 3 for RGB, 1 for grey.
    tokens : bool, default False
        Whether the network takes token ids: integers of an npz file then stay integers. Otherwise 8-bit images (n, H, W),
        (n, H, W, C), (n, C, H, W) and clips (n, C, T, H, W), (n, T, H, W, C), (n, T, C, H, W) of 1, 3 or 4 colours are scaled
        to [0, 1], and other integers become float32, with a warning unless the specification says `integers=numbers`.

    Returns
    -------
    Data
        A torch data set.

    Raises
    ------
    UsageError
        If the specification or the split is unknown.
    FileNotFoundError, FormatError, DataError
        If the files are not there, can't be read, or hold no image.
    """
    scheme, _, path = spec.partition(":")
    if scheme not in _SCHEMES or not (path or scheme in _ALONE):
        forms = "Write digits, imagefolder:DIR, npz:FILE, gaussians:K=10,d=64 or scale-detection:task=1."
        raise UsageError(f"Unknown data {spec!r}.{did_you_mean(scheme, _SCHEMES)} {forms}")
    if scheme == "digits":
        return _digits(spec, split, transform, colours)
    if scheme == "gaussians":
        return _gaussians(spec, path, split)
    if scheme == "scale-detection":
        return _scale_detection(spec, path, split)
    if scheme == "npz":
        return _npz(spec, path, split, transform, colours, tokens=tokens)
    return _imagefolder(spec, Path(path), split, transform, colours)


def _digits(spec: str, split: str | None, transform: Transform | None, colours: int) -> Data:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)[:, None]
    labels = digits.target.astype(np.int64)
    halves = train_test_split(np.arange(len(labels)), test_size=0.5, random_state=0, stratify=labels)
    ids = {"train": np.sort(halves[0]), "test": np.sort(halves[1]), None: np.arange(len(labels))}
    if split not in ids:
        raise UsageError(f"The digits have no split {split!r}; they have train and test.")

    def read(sample: int) -> Any:
        return images[sample] if transform is None else _picture((images[sample, 0] * 255).astype(np.uint8), colours)

    picked = ids[split]
    return Data(spec, read, picked, labels[picked], [str(digit) for digit in range(10)], split, transform)


def _gaussians(spec: str, text: str, split: str | None) -> Data:
    """Vectors of a mixture; the splits are different samples of it."""
    if split not in (None, *_SPLITS):
        raise UsageError(f"The Gaussians have no split {split!r}; they have train and test.")
    chosen = options(text, sparse_mixture, "gaussians", more={"n": 10_000})
    n, seed = int(chosen.pop("n", 10_000)), int(chosen.get("seed", 0))
    if n < 1:
        raise UsageError(f"n of gaussians is {n}; at least one sample is needed.")
    x, labels = sparse_mixture(**chosen).sample(n, seed=2 * seed + (split == "test"))
    vectors = x.astype(np.float32)
    names = [str(c) for c in range(int(labels.max()) + 1)]
    return Data(spec, vectors.__getitem__, np.arange(n), labels, names, split, None)


_VALIDATION = 128


def _scale_detection(spec: str, text: str, split: str | None) -> Data:
    """Balanced pairs of points: `train` of them, or half but at most 1,024; then 128; then the rest."""
    chosen = options(text, scale_task, "scale-detection", more={"train": 0, "seed": 0}, symbols={"xi": "scale", "N": "pixels"})
    train, seed = chosen.pop("train", 0), chosen.pop("seed", 0)
    task = scale_task(**chosen)
    rows = task.balanced(seed)
    train = train or min(1024, len(rows) // 2)
    if train >= len(rows):
        raise UsageError(f"{spec} has {len(rows)} balanced pairs; train={train} leaves none to test on.")
    rest = min(_VALIDATION, (len(rows) - train) // 2)
    ends = {"train": (0, train), "validation": (train, train + rest), "test": (train + rest, len(rows)), None: (0, len(rows))}
    if split not in ends:
        raise UsageError(f"Scale detection has no split {split!r}; it has train, validation and test.")
    first, last = ends[split]
    names = ["far", "near"] if chosen.get("task", 1) == 1 else ["different blocks", "same block"]
    ids = np.sort(rows[first:last])
    return Data(spec, task.image, ids, task.labels[ids], names, split)


def _npz(spec: str, text: str, split: str | None, transform: Transform | None, colours: int, *, tokens: bool) -> Data:
    name, comma, option = text.rpartition(",integers=")
    path = Path(name if comma else text)
    if comma and option not in _INTEGERS:
        raise UsageError(
            f"Integers can't be {option!r}.{did_you_mean(option, _INTEGERS)} Write integers=tokens or integers=numbers."
        )
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            names = set(file.files)
            ending = "" if split is None else f"_{split}"
            if f"x{ending}" not in names:
                splits = sorted(name[2:] for name in names if name.startswith("x_"))
                choice = f" It has the splits {', '.join(splits)}: choose one with --split." if splits else ""
                raise UsageError(f"{path} has no array 'x{ending}'.{choice}")
            x = file[f"x{ending}"]
            labels = file[f"y{ending}"].reshape(-1) if f"y{ending}" in names else None
            texts = [file[one] for one in sorted(names) if one == "y" or one.startswith("y_")]
    except (ValueError, OSError) as error:
        if isinstance(error, UsageError):
            raise
        raise FormatError(f"{path} can't be read as an npz file of plain arrays ({error}).") from error
    if labels is not None and len(labels) != len(x):
        raise FormatError(f"{path} has {len(x)} samples and {len(labels)} labels; each sample needs one.")
    classes = None
    if labels is not None and labels.dtype.kind in "US":
        classes = sorted({str(label) for part in texts for label in part.reshape(-1).astype(str)})  # the same in every split
        labels = np.searchsorted(classes, labels.astype(str))
    elif labels is not None and (labels.dtype.kind not in "iubf" or not np.array_equal(labels, np.trunc(labels))):
        raise FormatError(f"The labels y{ending} of {path} are no classes; store one integer per sample, or leave them out.")
    labels = None if labels is None else labels.astype(np.int64)
    x, kind = _arrays(x, f"x{ending} of {path}", option if comma else "tokens" if tokens else "")
    if kind == "images" and transform is not None:
        return Data(spec, lambda sample: _picture(x[sample], colours), np.arange(len(x)), labels, classes, split, transform)
    return Data(spec, x.__getitem__, np.arange(len(x)), labels, classes, split, as_tokens if kind == "tokens" else None)


def _arrays(x: NDArray[Any], name: str, integers: str) -> tuple[NDArray[Any], Literal["images", "tokens", "numbers"]]:
    """Stored samples as `as_tensor` and `as_tokens` take them, and what they are.

    Parameters
    ----------
    x : (n, ...) array
        As stored.
    name : str
        For messages.
    integers : {"tokens", "numbers", ""}
        What integers are; "" if nobody says it.
    """
    if x.dtype.kind not in "iubf":
        raise FormatError(f"{name} holds {x.dtype}; numbers are needed.")
    pixels = x.dtype == np.uint8 and x.ndim in (3, 4, 5)
    if x.dtype.kind in "iu" and integers == "tokens" and not (pixels and x.ndim > 3):
        return x, "tokens"
    if integers == "numbers" or x.dtype.kind in "bf":
        return x.astype(np.float32) if x.dtype == np.uint8 else x, "numbers"
    if x.dtype == np.uint8 and not pixels:
        raise UsageError(
            f"{name} holds 8-bit numbers in shape {x.shape}, which are no images; write npz:FILE,integers=tokens for token "
            f"ids, or integers=numbers for numbers as they are."
        )
    if not pixels:
        warnings.warn(
            f"{name} holds {x.dtype}, and the network gets float32; npz:FILE,integers=tokens keeps integers, and "
            f"integers=numbers says that this is meant.",
            UserWarning,
            stacklevel=4,
        )
        return x, "numbers"
    if x.ndim == 3:
        return x, "images"
    axes = [axis for axis in ((1, 3) if x.ndim == 4 else (1, 2, 4)) if x.shape[axis] in _COLOURS]
    if len(axes) != 1:
        raise UsageError(
            f"{name} has the shape {x.shape}, in which {len(axes)} axes may be the colours; store it as float32, colours first."
        )
    return (np.moveaxis(x, axes[0], -1), "images") if x.ndim == 4 else (np.moveaxis(x, axes[0], 1), "numbers")


def _picture(array: NDArray[np.uint8], colours: int) -> Any:
    from PIL import Image

    grey = array.ndim == 3 and array.shape[-1] == 1
    return Image.fromarray(array[..., 0] if grey else np.ascontiguousarray(array)).convert("RGB" if colours == 3 else "L")


def _imagefolder(spec: str, path: Path, split: str | None, transform: Transform | None, colours: int) -> Data:
    if not path.exists():
        raise FileNotFoundError(f"There is no folder or archive {path}.")
    names, content = _archive(path) if path.is_file() else _folder(path)
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

    def read(sample: int) -> Any:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(content(names[sample])) as image:
                return image.convert("RGB" if colours == 3 else "L")
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"Image {names[sample]} of {path} can't be read ({error}).") from error

    return Data(spec, read, np.arange(len(names)), labels, classes if labelled else None, split, transform)


def _folder(path: Path) -> tuple[list[str], Callable[[str], Any]]:
    """Names of the images below a folder, and how to open one."""
    files = (file for file in path.rglob("*") if file.suffix.lower() in _IMAGES and file.is_file())
    return sorted(file.relative_to(path).as_posix() for file in files), lambda name: path / name


def _archive(path: Path) -> tuple[list[str], Callable[[str], Any]]:
    """Names of the images in a tar file, and how to open one: from memory, since archives are read front to back."""
    content: dict[str, bytes] = {}
    size = 0
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                if member.isfile() and Path(member.name).suffix.lower() in _IMAGES:
                    size += member.size
                    if size > _TAR_BYTES:
                        raise UsageError(f"{path} holds over {_TAR_BYTES >> 30} GB of images: unpack it and give the folder.")
                    source = tar.extractfile(member)
                    content[member.name] = b"" if source is None else source.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise FormatError(f"{path} can't be read as a tar archive ({error}).") from error
    return sorted(content), lambda name: io.BytesIO(content[name])

"""`Data`: labelled samples, each with an id that does not depend on the order of reading, and how they become tensors.

A data set is a value: processes that load samples get a copy of it, however they are started. So what reads a sample is an
object of a class of this package, never a function made on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from probes.errors import DataError, UsageError
from probes.ids import are_texts, refuse_duplicates
from probes.labels import MISSING, Annotations
from repanalysis.statistics.draws import hashed

__all__ = ["Data", "Pictures", "Rows", "Transform", "as_picture", "as_tensor", "as_tokens"]

Transform = Callable[[Any], Tensor]


@dataclass(frozen=True, eq=False)
class Data(Dataset[tuple[Tensor, Any, int | str]]):
    """Samples `(x, label, id)`, ready for a loader; with targets, `(x, (label, targets), id)`.

    Attributes
    ----------
    spec : str
        What was asked for.
    read : callable
        From an integer, the sample's row, to what the transform takes: a PIL image, or an array. It can be pickled.
    ids : (n,) int64 or text array
        Sample ids: names of files, or positions in the full data set. Equal ids of one `spec` are the same sample.
    labels : (n,) int64 array or None
        Classes; -1 where a sample has none.
    class_names : list of str or None
        Name of class 0, 1, ...
    split : str or None
        The split that all samples belong to.
    transform : callable or None
        From what `read` returns to a tensor.
    rows : (n,) int64 array or None
        What `read` takes for each sample; None: its id.
    ids_from : str
        Where the ids come from, a key of `probes.ids.IDS_FROM`.
    targets : (n, t) float64 array or None
        Continuous targets; NaN where a sample has none.
    target_names : tuple of str
        Names of their columns; empty where they have none.
    labels_from : str
        Where labels and targets come from, for people.

    Raises
    ------
    DataError
        If an id stands twice.
    """

    spec: str
    read: Callable[[int], Any]
    ids: NDArray[Any]
    labels: NDArray[np.int64] | None
    class_names: list[str] | None = None
    split: str | None = None
    transform: Transform | None = None
    rows: NDArray[np.int64] | None = None
    ids_from: str = "index"
    targets: NDArray[np.float64] | None = None
    target_names: tuple[str, ...] = ()
    labels_from: str = ""

    def __post_init__(self) -> None:
        refuse_duplicates(self.ids, self.spec)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> tuple[Tensor, Any, int | str]:
        x = (self.transform or as_tensor)(self.read(int((self.ids if self.rows is None else self.rows)[index])))
        label = MISSING if self.labels is None else int(self.labels[index])
        return x, label if self.targets is None else (label, self.targets[index]), self.ids[index].item()

    @property
    def sample_ids(self) -> NDArray[Any]:
        """The ids, which whoever records the samples asks for without reading them."""
        return self.ids

    def sample(self, n: int, *, seed: int) -> Data:
        """A random subset of n samples, drawn from the seed and in the original order.

        Of samples with names or keys those are drawn whose hash of (name, seed) is smallest: a file that is added changes one
        at most.
        """
        if n >= len(self):
            return self
        if self.ids_from != "index":
            return self._rows(np.sort(np.argsort(hashed(self.ids, seed), kind="stable")[:n]))
        return self._rows(np.sort(np.random.default_rng(seed).choice(len(self), n, replace=False)))

    def pick(self, ids: NDArray[Any]) -> Data:
        """The samples of these ids, in that order; integers, where ids are texts, are positions, as older files have them.

        Raises
        ------
        DataError
            If one is missing.
        """
        positions = are_texts(self.ids) and not are_texts(ids)
        position = {sample: row for row, sample in enumerate(range(len(self)) if positions else self.ids.tolist())}
        if missing := [sample for sample in ids.tolist() if sample not in position]:
            raise DataError(f"{self.spec} has no sample {missing[0]!r}: these are other data, or another split.")
        rows_picked = self._rows(np.array([position[sample] for sample in ids.tolist()], np.int64))
        return replace(rows_picked, ids=ids) if positions else rows_picked

    def parts(self, parts: int, batch_size: int) -> list[Data]:
        """At most so many parts, one after the other, cut between batches: each batch is one that the whole would have."""
        batches = -(-len(self) // batch_size)
        size = max(1, -(-batches // parts)) * batch_size
        return [self._rows(np.arange(start, min(start + size, len(self)))) for start in range(0, len(self), size)]

    def _rows(self, rows: NDArray[np.int64]) -> Data:
        labels, own = (None if column is None else column[rows] for column in (self.labels, self.rows))
        targets = None if self.targets is None else self.targets[rows]
        return replace(self, ids=self.ids[rows], labels=labels, rows=own, targets=targets)

    @property
    def collate_fn(self) -> _Collate:
        """How samples become a batch `(x, labels or None, ids)`."""
        return _Collate(labelled=self.labels is not None, targets=None if self.targets is None else self.target_names)

    def loader(self, batch_size: int, *, workers: int = 0, pinned: bool = False) -> DataLoader[Any]:
        """Batches `(x, labels or None, ids)` in order; in page-locked memory, if wanted, for a GPU."""
        if batch_size < 1:
            raise UsageError(f"The batch size is {batch_size}; it must be at least 1.")
        return DataLoader(self, batch_size, num_workers=workers, collate_fn=self.collate_fn, pin_memory=pinned)


@dataclass(frozen=True)
class _Collate:
    """Stacks samples; a sentence where their shapes differ. Ids that are texts become a list."""

    labelled: bool
    targets: tuple[str, ...] | None = None  # their names, where there are any
    keeps_order: ClassVar[bool] = True

    def __call__(self, items: Sequence[tuple[Tensor, Any, Any]]) -> tuple[Tensor, Any, Tensor | list[str]]:
        images, labels, ids = zip(*items, strict=True)
        shapes = {tuple(image.shape) for image in images}
        if len(shapes) > 1:
            first, second = sorted(shapes)[:2]
            raise DataError(f"Images have different shapes ({first}, {second}); give --size to make them equal.")
        named = isinstance(ids[0], str)
        column: Any = torch.tensor(labels) if self.labelled and self.targets is None else None
        if self.targets is not None:
            classes, targets = zip(*labels, strict=True)
            column = Annotations(np.array(classes) if self.labelled else None, np.stack(targets), target_names=self.targets)
        return torch.stack(images), column, list(ids) if named else torch.tensor(ids)


@dataclass(frozen=True, eq=False)
class Rows:
    """Reads row after row of an array."""

    x: NDArray[Any]

    def __call__(self, sample: int) -> Any:
        """One row."""
        return self.x[sample]


@dataclass(frozen=True, eq=False)
class Pictures:
    """Reads rows (H, W) or (H, W, C) of an array of 8-bit images as PIL images of so many colours."""

    x: NDArray[np.uint8]
    colours: int

    def __call__(self, sample: int) -> Any:
        """One image."""
        return as_picture(self.x[sample], self.colours)


def as_picture(array: NDArray[np.uint8], colours: int) -> Any:
    """8-bit array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) -> PIL image: RGB for 3 colours, else grey."""
    from PIL import Image

    grey = array.ndim == 3 and array.shape[-1] == 1
    return Image.fromarray(array[..., 0] if grey else np.ascontiguousarray(array)).convert("RGB" if colours == 3 else "L")


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
    return torch.from_numpy(np.array(array.transpose(2, 0, 1), order="C")).float() / 255  # PIL's arrays can't be written to


def as_tokens(value: Any) -> Tensor:
    """Integers -> int64 tensor."""
    return torch.from_numpy(np.array(value, dtype=np.int64))

"""Activations with labels or targets in place of the recorded ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.batch import Batch
from probes.errors import DataError
from probes.labels import Annotations
from probes.source import Source

__all__ = ["Relabelled"]


class Relabelled(Source):
    """A source with other labels and targets.

    Parameters
    ----------
    source : Source
        Activations of n samples.
    annotations : Annotations
        New labels and targets; None keeps those of the source.
    attrs : mapping
        Provenance, including the origin of the annotations.

    Raises
    ------
    DataError
        If their number is not n.

    Examples
    --------
    >>> from probes.arrays import from_arrays
    >>> source = Relabelled(from_arrays({"x": np.eye(2)}), Annotations(np.array([1, 0])), {"labels": "by hand"})
    >>> source.labels.tolist(), next(source.iter()).labels.tolist(), source.attrs["labels"]
    ([1, 0], [1, 0], 'by hand')
    """

    def __init__(self, source: Source, annotations: Annotations, attrs: Mapping[str, Any]) -> None:
        for name, column in (("labels", annotations.labels), ("targets", annotations.targets)):
            if column is not None and len(column) != len(source):
                raise DataError(
                    f"There are {len(column)} {name} for the {len(source)} samples of {source.name}; each needs one."
                )
        self._source, self._known = source, annotations
        self.info = source.info
        self.attrs = dict(attrs)
        if annotations.targets is not None:
            self.attrs["target_names"] = list(annotations.target_names)

    @property
    def name(self) -> str:
        """Name in messages."""
        return self._source.name

    @property
    def ids(self) -> NDArray[Any]:
        """Sample ids, (n,)."""
        return self._source.ids

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Class of each sample, (n,), or None."""
        return self._source.labels if self._known.labels is None else self._known.labels

    @property
    def targets(self) -> NDArray[np.float64] | None:
        """Continuous targets of each sample, (n, t), or None."""
        return self._source.targets if self._known.targets is None else self._known.targets

    @property
    def split(self) -> NDArray[np.str_] | None:
        """Split of each sample, (n,), or None."""
        return self._source.split

    @property
    def class_names(self) -> list[str] | None:
        """Name of class 0, 1, ..., or None."""
        return self._source.class_names if self._known.labels is None else self._known.class_names

    @property
    def head(self) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
        """Weights and offsets of the linear layer that the network ends with, or None."""
        return self._source.head

    @property
    def skipped(self) -> dict[str, str]:
        """Layers that ran but were not recorded, each with its reason."""
        return self._source.skipped

    @property
    def non_finite(self) -> dict[str, int]:
        """Layers that hold NaN or inf, and how many of them."""
        return self._source.non_finite

    def __getitem__(self, layer: str) -> NDArray[Any]:
        """All rows of one layer, (n, ...)."""
        return self._source[layer]

    def take(self, layer: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Selected rows of one layer."""
        return self._source.take(layer, rows)

    def iter(self, layers: Sequence[str] | None = None, size: int | None = None) -> Iterator[Batch]:
        """Batches of rows; see `Source.iter`."""
        start, labels, targets = 0, self.labels, self.targets
        for batch in self._source.iter(layers, size):
            rows = slice(start, start + len(batch))
            yield replace(
                batch,
                labels=None if labels is None else labels[rows],
                targets=None if targets is None else targets[rows],
                target_names=self.target_names,
            )
            start += len(batch)

    def close(self) -> None:
        """Close open files."""
        self._source.close()

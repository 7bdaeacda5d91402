"""Which samples are analysed, and under which labels: a split, some classes, classes joined to superclasses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from probes.errors import DataError, UsageError, did_you_mean
from probes.labels import IGNORED, MISSING
from repanalysis.inputs.toml_files import read_toml

__all__ = ["Subset", "read_superclasses", "subset_of"]


@dataclass(frozen=True)
class Subset:
    """A choice of samples.

    Parameters
    ----------
    split : str, optional
        Samples of this split alone.
    relabel : mapping of int to int, optional
        New class of every class that is looked at; samples of others are left out.
    ignore : tuple of int
        Labels that mean "none", besides -1 and -100.
    """

    split: str | None = None
    relabel: Mapping[int, int] | None = None
    ignore: tuple[int, ...] = ()

    def missing(self, labels: Int64[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Which labels stand for none."""
        return np.isin(labels, [*IGNORED, *self.ignore])

    def choose(
        self, labels: Int64[np.ndarray, " n"] | None, split: Any
    ) -> tuple[Bool[np.ndarray, " n"] | None, Int64[np.ndarray, " n"] | None]:
        """Which rows to take (None: all), and the labels of those that are taken: -1 for none."""
        labels = None if labels is None else np.where(self.missing(labels), MISSING, labels).astype(np.int64)
        mask = None if self.split is None or split is None else np.asarray(split) == self.split
        if self.relabel is None or labels is None:
            return mask, labels if mask is None or labels is None else labels[mask]
        joined = np.array(sorted(self.relabel), np.int64)
        at = np.minimum(np.searchsorted(joined, labels), len(joined) - 1)
        named = joined[at] == labels
        mask = named if mask is None else mask & named
        new = np.array([self.relabel[int(label)] for label in joined], np.int64)
        return mask, new[at][mask]


def subset_of(
    labels: Any,
    splits: Any,
    names: Sequence[str] | None,
    *,
    split: str | None = None,
    classes: Sequence[int | str] | None = None,
    superclasses: Mapping[str, Sequence[int | str]] | None = None,
    ignore: tuple[int, ...] = (),
) -> tuple[Subset, list[str] | None]:
    """A choice of samples, checked against what there is; and the names of the superclasses, in order of their new labels.

    Raises
    ------
    UsageError
        If there is no such split or class, or a class belongs to two superclasses.
    DataError
        If there are no splits or labels to choose by.
    """
    if split is not None:
        if splits is None:
            raise DataError(f"The activations have no splits, so there is no {split!r}.")
        if split not in (split_names := sorted(set(np.asarray(splits).tolist()))):
            raise UsageError(f"Unknown split {split!r}.{did_you_mean(split, split_names)} There are {', '.join(split_names)}.")
    if classes is None and superclasses is None:
        return Subset(split, ignore=ignore), None
    if labels is None:
        raise DataError("The activations have no labels to choose classes by.")
    present_labels = set(np.unique(labels[~Subset(ignore=ignore).missing(labels)]).tolist())
    if superclasses is not None:
        relabel: dict[int, int] = {}
        for new, members in enumerate(superclasses.values()):
            for member in members:
                label = _label(member, names, present_labels)
                if relabel.setdefault(label, new) != new:
                    raise UsageError(f"Class {member!r} belongs to two superclasses.")
        selected_labels = None if classes is None else {_label(name, names, present_labels) for name in classes}
        relabel = {label: new for label, new in relabel.items() if selected_labels is None or label in selected_labels}
        return Subset(split, relabel, ignore), list(superclasses)
    return Subset(
        split, {label: label for label in (_label(name, names, present_labels) for name in classes or ())}, ignore
    ), None


def _label(member: int | str, names: Sequence[str] | None, present_labels: set[int]) -> int:
    """The label that a number or a name stands for."""
    if isinstance(member, str) and names is not None and member in names:
        return list(names).index(member)
    try:
        label = int(member)
    except ValueError:
        choices = list(names or map(str, sorted(present_labels)))
        raise UsageError(
            f"Unknown class {member!r}.{did_you_mean(str(member), choices)} Known are {', '.join(choices[:20])}."
        ) from None
    if label not in present_labels:
        raise UsageError(f"No sample is of class {label}; there are {', '.join(map(str, sorted(present_labels)[:20]))}.")
    return label


def read_superclasses(path: Path) -> dict[str, list[int | str]]:
    """Names of superclasses and the classes that they join, from a TOML file.

    Raises
    ------
    UsageError
        If it holds something else than lists of classes.
    """
    content = read_toml(path)
    names = [name for classes in content.values() for name in (classes if isinstance(classes, list) else [None])]
    if not names or not all(isinstance(name, str | int) and not isinstance(name, bool) for name in names):
        raise UsageError(f'{path} should hold a list of classes per superclass, such as animal = ["cat", "dog"].')
    return content

"""`torchvision:NAME,root=DIR`: a data set of torchvision that was downloaded before, such as CIFAR10."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import DataError, UsageError, did_you_mean, reason_of
from repanalysis.inputs.pixels import as_colours
from repanalysis.inputs.samples import Data, Transform

__all__ = ["torchvision_set"]

_ROOT = "data"


@dataclass(frozen=True, eq=False)
class _Images:
    """Reads image after image of a data set, in so many colours."""

    dataset: Any
    colours: int

    def __call__(self, sample: int) -> Any:
        return as_colours(self.dataset[sample][0], self.colours)


def torchvision_set(spec: str, text: str, split: str | None, transform: Transform | None, colours: int) -> Data:
    """The images and classes of one split.

    Raises
    ------
    UsageError
        If there is no such data set or split.
    DataError
        If its files are not there, or its samples are not images with one class each.
    """
    from torchvision import datasets

    name, _, options = text.partition(",")
    key, equals, value = options.partition("=")
    if options and (key != "root" or not equals or not value):
        raise UsageError(f"{spec!r} has {options!r} behind the name; write torchvision:{name},root=DIR.")
    split_kinds = {each: kind for each in datasets.__all__ if (kind := _kind(getattr(datasets, each, None)))}
    if name not in split_kinds:
        raise UsageError(
            f"Unknown data set {name!r} of torchvision.{did_you_mean(name, split_kinds)} There are {', '.join(split_kinds)}."
        )
    if split is None:
        choice = "train or test" if split_kinds[name] == "train" else "train or test, as torchvision names them"
        raise UsageError(f"{name} has several splits: choose one with --split ({choice}).")
    if split_kinds[name] == "train" and split not in ("train", "test"):
        raise UsageError(f"{name} has no split {split!r}; it has train and test.")
    root = Path(value or _ROOT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of torch's, on arrays that torchvision maps
            dataset = getattr(datasets, name)(
                root, **{split_kinds[name]: split == "train" if split_kinds[name] == "train" else split}
            )
    except ValueError as error:
        raise UsageError(f"{name} has no split {split!r} ({reason_of(error)}).") from error
    except (RuntimeError, OSError) as error:
        raise DataError(
            f'{name} is not in {root}, or not whole. Give root=DIR, or download it once: python -c "from torchvision.datasets '
            f"import {name}; {name}('{root}', download=True)\"."
        ) from error
    labels = _labels(dataset, name)
    classes = getattr(dataset, "classes", None)
    return Data(
        spec, _Images(dataset, colours), np.arange(len(dataset)), labels, None if classes is None else list(map(str, classes)),
        split, transform,
    )  # fmt: skip


def _kind(dataset: Any) -> str:
    """By which argument a data set chooses its split: `train` or `split`; empty where it has neither."""
    if not inspect.isclass(dataset):
        return ""
    parameters = inspect.signature(dataset).parameters
    return next((each for each in ("train", "split") if each in parameters and "root" in parameters), "")


def _labels(dataset: Any, name: str) -> NDArray[np.int64]:
    """The class of every sample."""
    for attribute in ("targets", "labels", "_labels"):
        labels = np.asarray(getattr(dataset, attribute, None))
        if labels.shape == (len(dataset),) and labels.dtype.kind in "iu":
            return labels.astype(np.int64)
    raise DataError(f"{name} has no list of one class per image; save its images as class folders: imagefolder:DIR.")

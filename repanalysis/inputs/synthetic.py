"""Data that need no file: scikit-learn's handwritten digits, mixtures of Gaussians, and scale detection."""

from __future__ import annotations

from inspect import signature
from typing import Any

import numpy as np

from probes.errors import UsageError
from repanalysis._checks import affordable
from repanalysis.inputs.samples import Data, Pictures, Rows, Transform
from repanalysis.specs import options
from repanalysis.theory.mixtures import sparse_mixture
from repanalysis.theory.scale_detection import scale_task

__all__ = ["digits", "gaussians", "scale_detection"]

_SPLITS = ("train", "test")
_VALIDATION = 128


def digits(spec: str, split: str | None, transform: Transform | None, colours: int) -> Data:
    """The handwritten digits; the splits are halves, drawn with the shares of the classes."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = (bunch.images / 16).astype(np.float32)[:, None]
    labels = bunch.target.astype(np.int64)
    halves = train_test_split(np.arange(len(labels)), test_size=0.5, random_state=0, stratify=labels)
    ids = {"train": np.sort(halves[0]), "test": np.sort(halves[1]), None: np.arange(len(labels))}
    if split not in ids:
        raise UsageError(f"The digits have no split {split!r}; they have train and test.")
    read = Rows(images) if transform is None else Pictures((images[:, 0] * 255).astype(np.uint8), colours)
    return Data(spec, read, ids[split], labels[ids[split]], [str(digit) for digit in range(10)], split, transform)


def gaussians(spec: str, text: str, split: str | None) -> Data:
    """Vectors of a mixture; the splits are different samples of it, of which the test split has the second n ids."""
    if split not in (None, *_SPLITS):
        raise UsageError(f"The Gaussians have no split {split!r}; they have train and test.")
    params = options(text, sparse_mixture, "gaussians", more={"n": 10_000})
    n, seed = int(params.pop("n", 10_000)), int(params.get("seed", 0))
    if n < 1:
        raise UsageError(f"n of gaussians is {n}; at least one sample is needed.")
    values = {name: p.default for name, p in signature(sparse_mixture).parameters.items()} | params
    d, atoms = values["d"], max(1, values["redundancy"]) * values["d"]
    affordable(spec, 8 * d * (3 * n + 2 * values["K"] + atoms))
    x, labels = sparse_mixture(**params).sample(n, seed=2 * seed + (split == "test"))
    names = [str(c) for c in range(int(labels.max()) + 1)]
    rows = np.arange(n)
    return Data(spec, Rows(x.astype(np.float32)), rows + n * (split == "test"), labels, names, split, rows=rows)


def scale_detection(spec: str, text: str, split: str | None) -> Data:
    """Balanced pairs of points: `train` of them, or half but at most 1,024; then 128; then the rest."""
    params: dict[str, Any] = options(
        text, scale_task, "scale-detection", more={"train": 0, "seed": 0}, symbols={"xi": "scale", "N": "pixels"}
    )
    train, seed = params.pop("train", 0), params.pop("seed", 0)
    dimensions = min(params.get("dimensions", 1), 3)  # there are 1 and 2
    sites = (params.get("pixels", 0) or (28 if dimensions == 2 else 128)) ** max(dimensions, 1)
    affordable(spec, 8 * 5 * sites**2)  # ten numbers for each pair of them
    task = scale_task(**params)
    rows = task.balanced(seed)
    train = train or min(1024, len(rows) // 2)
    if train >= len(rows):
        raise UsageError(f"{spec} has {len(rows)} balanced pairs; train={train} leaves none to test on.")
    rest = min(_VALIDATION, (len(rows) - train) // 2)
    ends = {"train": (0, train), "validation": (train, train + rest), "test": (train + rest, len(rows)), None: (0, len(rows))}
    if split not in ends:
        raise UsageError(f"Scale detection has no split {split!r}; it has train, validation and test.")
    first, last = ends[split]
    names = ["far", "near"] if params.get("task", 1) == 1 else ["different blocks", "same block"]
    ids = np.sort(rows[first:last])
    return Data(spec, task.image, ids, task.labels[ids], names, split)

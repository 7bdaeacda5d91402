"""Scale detection: a task on the distance of two points, which pooling up to a scale solves.

An image has two active pixels. Label of task 1: whether their distance is below xi. Task 2: whether they are in the same
aligned block of size xi. In one dimension there are N pixels of value (N/2)^(1/2), so that ||x||^2 = N, and distances are
periodic; pairs within g of xi are excluded from task 1. In two dimensions the image has d x d pixels of value d^2/2, distances
are Euclidean, and pairs within g/2 of xi are excluded; the blocks of task 2 are quadrants. Moving points by a pixel is the
task's diffeomorphism (docs/stability.md, Formulas; Tomasini et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from probes.errors import UsageError
from repanalysis._checks import one_of

__all__ = ["ScaleTask", "scale_task"]


@dataclass(frozen=True, eq=False)
class ScaleTask:
    """All pairs of a task, and their labels.

    Attributes
    ----------
    shape : tuple of int
        Height and width of the images; height 1 in one dimension.
    pairs : (n, 2) int64 array
        Active pixels, row by row.
    labels : (n,) int64 array
        1 for near or in the same block, 0 else.
    value : float
        Value of an active pixel.
    """

    shape: tuple[int, int]
    pairs: NDArray[np.int64]
    labels: NDArray[np.int64]
    value: float

    def image(self, index: int) -> NDArray[np.float32]:
        """One image, (1, height, width)."""
        pixels_on = np.zeros(self.shape[0] * self.shape[1], np.float32)
        pixels_on[self.pairs[index]] = self.value
        return pixels_on.reshape(1, *self.shape)

    def balanced(self, seed: int) -> NDArray[np.int64]:
        """Equally many samples of both labels, in random order."""
        rng = np.random.default_rng(seed)
        rows = [rng.permutation(np.flatnonzero(self.labels == label)) for label in (0, 1)]
        fewest = min(map(len, rows))
        return rng.permutation(np.concatenate([class_rows[:fewest] for class_rows in rows]))


def scale_task(
    *, task: int = 1, dimensions: int = 1, pixels: int = 0, scale: int = 0, gap: float = -1.0, distance: str = "auto"
) -> ScaleTask:
    """Build a task.

    Parameters
    ----------
    task : {1, 2}, default 1
        Distance, or block.
    dimensions : {1, 2}, default 1
        Dimensions of the image.
    pixels : int, optional
        Side of the image; by default 32 (task 1) and 128 (task 2), and 28 in two dimensions.
    scale : int, optional
        xi, in pixels; by default 11, 32, and 14.
    gap : float, optional
        g, in pixels; by default xi^(1/2) in one dimension and 2 in two. Task 2 has none.
    distance : {"auto", "periodic", "euclidean", "chebyshev"}, default "auto"
        Distance of task 1: periodic, Euclidean, or the maximum of both axes; "auto" is periodic in one dimension and
        Euclidean in two.

    Returns
    -------
    ScaleTask
        Every pair i < j that is not in the gap.

    Raises
    ------
    UsageError
        If the numbers are inconsistent.

    Examples
    --------
    >>> found = scale_task(task=1, pixels=32, scale=11, gap=11**0.5)
    >>> [int((found.labels == label).sum()) for label in (1, 0)]
    [224, 48]
    """
    if task not in (1, 2) or dimensions not in (1, 2):
        raise UsageError(f"Task {task} in {dimensions} dimensions; there are tasks 1 and 2 in 1 and 2 dimensions.")
    pixels = pixels or (28 if dimensions == 2 else 32 if task == 1 else 128)
    scale = scale or (pixels // 2 if dimensions == 2 else 11 if task == 1 else 32)
    gap = gap if gap >= 0 else 2.0 if dimensions == 2 else scale**0.5
    one_of("distance", distance, ("auto", "periodic", "euclidean", "chebyshev"))
    if not 1 < scale < pixels or (task == 1 and gap >= scale):
        raise UsageError(f"A scale of {scale} with a gap of {gap:g} does not fit into {pixels} pixels.")
    if task == 2 and pixels % scale:
        raise UsageError(f"Blocks of {scale} pixels do not tile {pixels}; choose a scale that divides them.")
    sites = np.arange(pixels**dimensions)
    i, j = (indices.astype(np.int64) for indices in np.triu_indices(len(sites), 1))
    ways = [np.abs(i % pixels - j % pixels), np.abs(i // pixels - j // pixels)][:dimensions]
    if task == 2:
        same = np.ones(len(i), bool)
        for axis in range(dimensions):
            a, b = (indices // pixels**axis % pixels // scale for indices in (i, j))
            same &= a == b
        mask, labels = np.ones(len(i), bool), same
    else:
        if distance == "periodic" or (distance == "auto" and dimensions == 1):
            ways = [np.minimum(way, pixels - way) for way in ways]
        both = np.stack(ways).astype(float)
        away = both.max(0) if distance == "chebyshev" else np.sqrt(np.square(both).sum(0))
        half = gap if dimensions == 1 else gap / 2
        labels = away < scale - half
        mask = labels | (away >= scale + half)
    value = (pixels / 2) ** 0.5 if dimensions == 1 else pixels**2 / 2
    shape = (1, pixels) if dimensions == 1 else (pixels, pixels)
    return ScaleTask(shape, np.stack([i, j], axis=1)[mask], labels[mask].astype(np.int64), float(value))

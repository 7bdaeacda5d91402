"""The standard error of a read-out by its definition: that of a proportion, and the jackknife of the fit without scoring
noise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from repanalysis.statistics import SampleSet
from repanalysis.statistics.draws import JACKKNIFE_SEED, hashed

__all__ = ["error", "left_out"]


def left_out(samples: SampleSet, groups: int = 10) -> Iterator[np.ndarray]:
    """Masks of the training rows that remain when each group is left out."""
    group = hashed(samples.ids, JACKKNIFE_SEED) % np.uint64(groups)
    for index in range(groups):
        yield samples.training() & (group != index)


def error(correct: np.ndarray, without: Sequence[np.ndarray]) -> float:
    """From the correctness of m scored samples, and of the same samples under the fits without each group."""
    m, groups, z2 = len(correct), len(without), 1.959963984540054**2
    centre = (correct.sum() + z2 / 2) / (m + z2)
    variance = centre * (1 - centre) / m
    usual = np.mean([answers.astype(float) for answers in without], axis=0)
    shift = 0.0
    for answers in without:
        e = answers - usual
        shift += e.mean() ** 2 - e.var(ddof=1) / m
    return math.sqrt(variance + max(0.0, (groups - 1) / groups * shift))

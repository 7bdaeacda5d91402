r"""Which weights stay: those between filters that serve a label in common.

A head keeps the weights of filter f to output j where j is in a cluster of f, which is where B^f[j, j] = 1; a convolution
keeps the kernels between filters that serve a label in common. Masks of as many random labels, or of as many random weights,
are the control.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from annotated_doc import Doc
from jaxtyping import Bool

from probes.errors import UsageError
from repanalysis.specs import Names, Read

ThetasOption = Annotated[Sequence[float], Doc("Threshold of clusters; repeat it."), Read(tuple, list[float]), Names("--theta")]

__all__ = ["ThetasOption", "conv_mask", "head_mask", "random_alike", "random_serves"]


def head_mask(serves: Bool[np.ndarray, "F K"], places: int = 1) -> Bool[np.ndarray, "K d"]:
    """Which weights of a head stay, (K, F P): all places of a filter for the labels that it serves.

    Examples
    --------
    >>> head_mask(np.array([[True, False], [True, True]])).tolist()
    [[True, True], [False, True]]
    """
    return np.repeat(serves.T, places, axis=1)


def conv_mask(after: Bool[np.ndarray, "G K"], before: Bool[np.ndarray, "F K"]) -> Bool[np.ndarray, "G F"]:
    """Which kernels of a convolution stay, (filters after, filters before): those between filters with a label in common.

    Examples
    --------
    >>> conv_mask(np.array([[True, False]]), np.array([[True, True], [False, True], [False, False]])).tolist()
    [[True, False, False]]
    """
    return np.asarray(after.astype(np.int64) @ before.T.astype(np.int64) > 0)


def random_serves(filters: int, labels: int, each: int, *, seed: int = 0) -> Bool[np.ndarray, "F K"]:
    """So many different random labels for every filter, each label equally often, or once more.

    Parameters
    ----------
    filters, labels, each : int
        F, K and s, the labels per filter.
    seed : int, default 0
        Of the draw.

    Returns
    -------
    (F, K) bool
        Rows sum to s, columns to F s / K, rounded down or up.

    Raises
    ------
    UsageError
        If s is not in 1 to K.

    Examples
    --------
    >>> drawn = random_serves(512, 100, 5)
    >>> set(drawn.sum(1).tolist()), set(drawn.sum(0).tolist()) <= {25, 26}
    ({5}, True)
    """
    if not 1 <= each <= labels:
        raise UsageError(f"{each} of {labels} labels can't be drawn for a filter; between 1 and {labels} can.")
    rng = np.random.default_rng(seed)
    used = np.zeros(labels, np.int64)
    serves = np.zeros((filters, labels), bool)
    for row in serves:  # those used least so far, ties at random: no label gets ahead by more than one
        row[np.lexsort((rng.random(labels), used))[:each]] = True
        used += row
    return serves[rng.permutation(filters)]


def random_alike(mask: Bool[np.ndarray, "G F"], *, seed: int = 0) -> Bool[np.ndarray, "G F"]:
    """A random mask that keeps as many weights of every row.

    Examples
    --------
    >>> random_alike(np.array([[True, False, False], [True, True, False]])).sum(1).tolist()
    [1, 2]
    """
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(row) for row in mask])

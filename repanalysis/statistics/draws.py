r"""Draws that depend on a sample's id and a seed alone: neither the order of samples nor batches or shards matter.

    h(id) = mix(mix(key(id) + seed) + seed),   mix the finaliser of SplitMix64 (Steele, Lea and Flood 2014)

with the key of `probes.ids`: an integer is its own, a text has a hash of its bytes.

Uniform over 64 bits. Different uses take different seeds, so that the half in which a sample is trained on says nothing
about the group in which it is left out.

Whatever is fitted on one half of the samples and scored on the other takes its halves from `fitted_on`. Halves by position or
within each label would depend on which other samples there are, and so differ between a file, its shards and a subset of it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt64
from numpy.typing import NDArray

from probes.ids import Ids, id_keys

__all__ = ["JACKKNIFE_SEED", "SPLIT_SEED", "SUBSAMPLE_SEED", "fitted_on", "group_of", "hashed", "uniform"]

SUBSAMPLE_SEED, JACKKNIFE_SEED, SPLIT_SEED = 1, 2, 3  # seeds: which samples are looked at, left out together, and trained on


def hashed(ids: Ids, seed: int) -> UInt64[np.ndarray, " n"]:
    """64 uniform bits per sample.

    Examples
    --------
    >>> bits = hashed(np.arange(100_000), seed=1)
    >>> len(np.unique(bits)), round(float((bits >> np.uint64(63)).mean()), 2)
    (100000, 0.5)
    """
    start = np.uint64((seed * 0x9E3779B97F4A7C15) % 2**64)
    return _mixed(_mixed(id_keys(ids).astype(np.uint64) + start) + start)


def uniform(ids: Ids, seed: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), one per sample."""
    numbers: NDArray[np.float64] = np.multiply(hashed(ids, seed) >> np.uint64(11), 2.0**-53)
    return numbers


def fitted_on(ids: Ids, *, cut: int = 1) -> Bool[np.ndarray, " n"]:
    """Which samples are fitted on; the others are scored on. Decided by the id of each sample alone.

    Parameters
    ----------
    ids : (n,) integer or text array
        Sample ids.
    cut : int, default 1
        1 halves all samples; 2 halves either half, for what is fitted within a half that has been fitted on already.

    Examples
    --------
    >>> first, second = fitted_on(np.arange(10_000)), fitted_on(np.arange(10_000), cut=2)
    >>> round(float(first.mean()), 1), round(float(second[first].mean()), 1)
    (0.5, 0.5)
    """
    return np.asarray((hashed(ids, SPLIT_SEED) >> np.uint64(64 - cut)) & np.uint64(1) == 0)


def group_of(ids: Ids, count: int) -> NDArray[np.int64]:
    """The group, of so many, with which each sample is left out."""
    return (hashed(ids, JACKKNIFE_SEED) % np.uint64(count)).astype(np.int64)


def _mixed(z: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """The finaliser of SplitMix64; products wrap around."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed

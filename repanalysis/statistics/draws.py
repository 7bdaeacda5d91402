r"""Random draws that depend only on a sample's id and a seed, not on the order of samples, batches or shards.

    h(id) = mix(mix(key(id) + seed) + seed),   mix the finaliser of SplitMix64 (Steele, Lea and Flood 2014)

with the key of `probes.ids`: integer ids are their own keys, the key of a text id is a hash of its bytes.

The hash is uniform over 64 bits. Subsampling, the jackknife and the train/test split have seeds of their own, so that they are
independent of each other.

Everything that is fitted on one half of the samples and scored on the other splits them by `fitted_on`. A split by position or
within labels would depend on the other samples, and so differ between a file, its shards and its subsets.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt64
from numpy.typing import NDArray

from probes.ids import Ids, id_keys

__all__ = ["JACKKNIFE_SEED", "SPLIT_SEED", "SUBSAMPLE_SEED", "fitted_on", "group_of", "hashed", "uniform"]

SUBSAMPLE_SEED, JACKKNIFE_SEED, SPLIT_SEED = 1, 2, 3  # for subsampling, jackknife groups, and the train/test split


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
    """Mask of the samples to fit on; the others are scored. It depends on each sample's id alone.

    Parameters
    ----------
    ids : (n,) integer or text array
        Sample ids.
    cut : int, default 1
        1 halves all samples; 2 halves each half again, for a second split within the samples to fit on.

    Examples
    --------
    >>> first, second = fitted_on(np.arange(10_000)), fitted_on(np.arange(10_000), cut=2)
    >>> round(float(first.mean()), 1), round(float(second[first].mean()), 1)
    (0.5, 0.5)
    """
    return np.asarray((hashed(ids, SPLIT_SEED) >> np.uint64(64 - cut)) & np.uint64(1) == 0)


def group_of(ids: Ids, count: int) -> NDArray[np.int64]:
    """Jackknife group of each sample, 0 to count - 1."""
    return (hashed(ids, JACKKNIFE_SEED) % np.uint64(count)).astype(np.int64)


def _mixed(z: UInt64[np.ndarray, " n"]) -> UInt64[np.ndarray, " n"]:
    """The finaliser of SplitMix64, modulo 2^64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed

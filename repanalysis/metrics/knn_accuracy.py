"""knn_accuracy: accuracy of a vote of the k nearest other samples."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from repanalysis.metrics._neighbours import neighbours
from repanalysis.metrics._readout import accuracy
from repanalysis.metrics._registry import Noted, metric
from repanalysis.statistics import Samples, SampleSet


def _needed(*, max_samples: int = 5000, k: int = 5, distance: str = "euclidean") -> Samples:  # noqa: ARG001
    return Samples(limit=max_samples)


@metric(needs=_needed, invariant={"translation", "rotation", "scaling"})
def knn_accuracy(
    samples: SampleSet,
    *,
    k: int = 5,
    distance: Literal["euclidean", "cosine"] = "euclidean",
    max_samples: int = 5000,  # noqa: ARG001  # read by `needs`
) -> Noted:
    r"""Share of samples whose k nearest other samples are mostly of their own class.

    .. math:: \frac1n \sum_i \Bigl[\arg\max_c \#\{j \in N_k(i) : y_j = c\} = y_i\Bigr], \qquad i \notin N_k(i)

    Parameters
    ----------
    samples : SampleSet
        Labelled samples of d features.
    k : int, default 5
        Neighbours that vote; of classes with as many votes the first label wins.
    distance : {"euclidean", "cosine"}, default "euclidean"
        "cosine" scales every sample to norm 1 first, and is not invariant to translations.
    max_samples : int, default 5000
        Samples to look at, drawn by id; 0 for all.

    Returns
    -------
    float
        In [0, 1]; every sample is scored with all others to vote, never itself (leave-one-out).

    Notes
    -----
    Accuracy grows with the number of samples: compare layers on the same. Duplicates of a sample do vote. Standard error:
    that of a bootstrap over the scored samples, which takes the voters as given. Time n^2 d, memory n d.

    References
    ----------
    T. Cover, P. Hart, "Nearest neighbor pattern classification", IEEE Trans. Information Theory 13, 1967.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.arange(40) // 20
    >>> float(knn_accuracy(Samples().of(np.linspace(0, 1, 40)[:, None] + 3 * y[:, None], y)))
    1.0
    """
    if samples.k < 2:
        return Noted(math.nan, "needs two classes")
    if k < 1 or samples.n <= k:
        return Noted(math.nan, f"{samples.n} samples have no {k} neighbours each")
    x = samples.x.astype(np.float64)
    if distance == "cosine":
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        if not norms.all():
            return Noted(math.nan, "a sample is 0 and has no direction")
        x /= norms
    labels, y = np.unique(samples.labels, return_inverse=True)
    voters = y[neighbours(x, k)[1]]
    votes = np.zeros((len(y), len(labels)), np.int64)
    np.add.at(votes, (np.arange(len(y))[:, None], voters), 1)
    return accuracy(votes.argmax(axis=1) == y, samples.note)

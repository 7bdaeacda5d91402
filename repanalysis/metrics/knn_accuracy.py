"""knn_accuracy: accuracy of the majority vote of the k nearest other samples."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repanalysis.metrics._neighbours import neighbours
from repanalysis.metrics._readout import scoring_variance
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import Samples, SampleSet
from repanalysis.statistics.draws import group_of
from repanalysis.statistics.shares import share_error

_GROUPS = 20
_SPARE = 4  # neighbours beyond those that vote: of nine, five are left out together once in a thousand samples


def _needed(*, max_samples: int = 5000, k: int = 5, distance: str = "euclidean") -> Samples:  # noqa: ARG001
    return Samples(limit=max_samples)


@metric(needs=_needed, invariant={"translation", "rotation", "scaling"}, structure="up")
def knn_accuracy(
    samples: SampleSet,
    *,
    k: int = 5,
    distance: Literal["euclidean", "cosine"] = "euclidean",
    max_samples: int = 5000,  # noqa: ARG001  # read by `needs`
) -> Value:
    r"""Share of samples whose k nearest other samples are mostly of their own class.

    .. math:: \frac1n \sum_i \Bigl[\arg\max_c \#\{j \in N_k(i) : y_j = c\} = y_i\Bigr], \qquad i \notin N_k(i)

    Parameters
    ----------
    samples : SampleSet
        Labelled samples of d features.
    k : int, default 5
        Neighbours that vote; ties go to the first label.
    distance : {"euclidean", "cosine"}, default "euclidean"
        "cosine" scales every sample to norm 1 first, and is not invariant to translations.
    max_samples : int, default 5000
        Maximal number of samples, drawn by id; 0 uses all.

    Returns
    -------
    float
        In [0, 1]; leave-one-out: a sample never votes for itself.

    Notes
    -----
    Accuracy grows with the number of samples: compare layers on the same number. Duplicates of a sample vote. Standard error: a
    jackknife over 20 groups of samples, which neither vote nor are scored (the next nearest vote in their place), less what the
    choice of the scored samples adds to it, and at least the error of a share. Time n^2 d, memory n d.

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
        return Value(math.nan, "needs two classes")
    if k < 1 or samples.n <= k:
        return Value(math.nan, f"{samples.n} samples have no {k} neighbours each")
    x = samples.x.astype(np.float64)
    if distance == "cosine":
        norms = np.linalg.norm(x, axis=1, keepdims=True)
        if not norms.all():
            return Value(math.nan, "a sample is 0 and has no direction")
        x /= norms
    labels, y = np.unique(samples.labels, return_inverse=True)
    others = neighbours(x, min(len(y) - 1, k + _SPARE + k // 2))[1]
    correct = _votes(y, others[:, :k], len(labels), np.ones((len(y), k), np.bool_)) == y
    error = _error(correct, y, others, group_of(samples.ids, _GROUPS), k)
    return Value(float(correct.mean()), samples.note, se=error)


def _votes(y: NDArray[np.int64], others: NDArray[np.int64], classes: int, count: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Majority class of each sample's neighbours where `count` is true."""
    votes = np.zeros((len(y), classes))
    np.add.at(votes, (np.arange(len(y))[:, None], y[others]), count)
    return np.asarray(votes.argmax(axis=1))


def _error(
    correct: NDArray[np.bool_], y: NDArray[np.int64], others: NDArray[np.int64], groups: NDArray[np.int64], k: int
) -> float:
    """The larger of the error of a share and of the jackknife over groups that neither vote nor are scored, less flips."""
    n, classes = len(y), int(y.max()) + 1
    changes, scores = [], []
    for group in np.unique(groups):
        stays = groups[others] != group
        again = _votes(y, others, classes, stays & (np.cumsum(stays, axis=1) <= k)) == y
        changes.append(again.astype(np.float64) - correct)
        scores.append(float(again[groups != group].mean()))
    g = len(scores)
    e = np.array(changes) - np.mean(changes, axis=0)
    variance = (g - 1) / g * float((np.square(np.array(scores) - np.mean(scores)) - scoring_variance(e)).sum())
    return max(share_error(float(correct.mean()), n), math.sqrt(max(0.0, variance)))

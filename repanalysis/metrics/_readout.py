"""What metrics share that fit on one half of the samples and score on the other."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy.linalg import blas, eigh

from repanalysis.metrics._registry import Noted
from repanalysis.statistics import ClassGeometry, SampleSet

__all__ = ["Halves", "accuracy", "centres_of", "halves", "left_singular", "nearest", "one_hot", "standardized"]


class Halves(NamedTuple):
    """Samples to fit on and samples to score on, centred on the mean of the first.

    Attributes
    ----------
    train, test : (m, d) float64
    train_y, test_y : (m,) int64
        Positions in `labels`.
    labels : (K,) int64
        Classes of the samples to fit on, and others after them.
    note : str
        That these are not all samples.
    """

    train: Float64[np.ndarray, "m d"]
    train_y: Int64[np.ndarray, " m"]
    test: Float64[np.ndarray, "t d"]
    test_y: Int64[np.ndarray, " t"]
    labels: Int64[np.ndarray, " K"]
    note: str


def halves(samples: SampleSet) -> Halves | str:
    """Split samples by their ids; a sentence if that can't be done."""
    if samples.k < 2:
        return "needs two classes"
    chosen = samples.training()
    labels, y = np.unique(samples.labels, return_inverse=True)
    if len(np.unique(y[chosen])) < 2 or chosen.all():
        return f"{samples.n} samples are too few to fit on one half and score on the other"
    x = samples.x.astype(np.float64)
    x -= x[chosen].mean(axis=0)
    missing = len(labels) - len(np.unique(y[chosen]))
    lacking = f"{missing} classes have no samples to fit on, so theirs count as wrong" if missing else ""
    note = "; ".join(filter(None, [samples.note, lacking]))
    return Halves(x[chosen], y[chosen], x[~chosen], y[~chosen], labels, note)


def standardized(split: Halves) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Both halves with features scaled to unit variance on the first, without constant ones; None if all are constant."""
    scale = split.train.std(axis=0)
    if not scale.any():
        return None
    alive = scale > 1e-12 * scale.max()
    return split.train[:, alive] / scale[alive], split.test[:, alive] / scale[alive]


def centres_of(moments: ClassGeometry, k: int) -> NDArray[np.float64]:
    """Class means as rows 0 to k - 1, (k, d); NaN for classes without samples."""
    centres = np.full((k, moments.mean.shape[1]), np.nan)
    centres[moments.classes] = moments.mean
    return centres


def left_singular(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Left singular vectors (n, r) and squared singular values (r,) of x, from the smaller of x^T x and x x^T."""
    wide = x.shape[1] > len(x)
    squares, vectors = eigh(blas.dsyrk(1.0, x.T, trans=int(wide)), lower=False, overwrite_a=True, check_finite=False)
    kept = squares > len(squares) * np.finfo(np.float64).eps * squares[-1]
    squares, vectors = squares[kept], vectors[:, kept]
    return (vectors if wide else blas.dgemm(1.0, x.T, vectors, trans_a=1) / np.sqrt(squares)), squares


def accuracy(correct: NDArray[np.bool_], note: str = "") -> Noted:
    """Share of correct answers, with the standard error that a bootstrap over the scored samples tends to."""
    share = float(correct.mean())
    return Noted(share, note, se=math.sqrt(share * (1.0 - share) / len(correct)))


def one_hot(y: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Rows of zeros with a one at each sample's class, (n, K)."""
    found = np.zeros((len(y), k))
    found[np.arange(len(y)), y] = 1.0
    return found


def nearest(x: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    """Position of the nearest centre of every row, by Euclidean distance; the first of equals. Centres may be NaN."""
    cross = blas.dgemm(-2.0, x.T, np.nan_to_num(centres).T, trans_a=1)
    scores = cross + np.square(centres).sum(axis=1)
    found: NDArray[np.int64] = np.argmin(np.where(np.isnan(scores), np.inf, scores), axis=1)
    return found

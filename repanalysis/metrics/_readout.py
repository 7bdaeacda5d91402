r"""Shared code of metrics that fit on one half of the samples and score on the other, and the standard error of such a score.

The score varies for two reasons: the choice of the samples that are scored, and of those that are fitted on.

    se^2 = share_error(a, m)^2 + max(0, J),     J = (G - 1)/G sum_g [ mean_i(e_gi)^2 - var_i(e_gi) / m ]

a is the accuracy on m samples and share_error its standard error for a fixed fit (`statistics/shares.py`). c_gi says whether
sample i is right by the fit without group g of the training samples, one of G = 10, and e_gi = c_gi - mean_h c_hi. The first
term of J is the delete-a-group jackknife of the fit. The second removes the sampling variance of the m scored
samples from it; without it errors would be up to 1.7 times too large (docs/uncertainty.md).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, LinAlgWarning, blas, eigh
from scipy.linalg import solve as solve_linear

from repanalysis.metrics._registry import Value
from repanalysis.statistics import ClassGeometry, SampleSet
from repanalysis.statistics.draws import group_of
from repanalysis.statistics.shares import share_error

__all__ = [
    "GROUPS",
    "Halves",
    "Solver",
    "accuracy",
    "by_discriminants",
    "centres_of",
    "fit_variance",
    "halves",
    "is_correct",
    "left_singular",
    "nearest",
    "one_hot",
    "scoring_variance",
    "standardized",
]  # fmt: skip

GROUPS = 10  # jackknife groups of training samples
Solver = Callable[[NDArray[np.float64]], NDArray[np.float64]]


class Halves(NamedTuple):
    """Samples to fit on and samples to score on, centred on the mean of the first.

    Attributes
    ----------
    train, test : (m, d) float64
    train_y, test_y : (m,) int64
        Positions in `labels`.
    labels : (K,) int64
        All classes, ascending.
    groups : (m,) int64
        Jackknife group of each sample to fit on, below `GROUPS`.
    note : str
        States that these are not all samples, or that classes are missing.
    """

    train: Float64[np.ndarray, "m d"]
    train_y: Int64[np.ndarray, " m"]
    test: Float64[np.ndarray, "t d"]
    test_y: Int64[np.ndarray, " t"]
    labels: Int64[np.ndarray, " K"]
    groups: Int64[np.ndarray, " m"]
    note: str


def halves(samples: SampleSet) -> Halves | str:
    """Split samples by their ids; returns the reason as text if that is impossible."""
    if samples.k < 2:
        return "needs two classes"
    train = samples.training()
    labels, y = np.unique(samples.labels, return_inverse=True)
    if len(np.unique(y[train])) < 2 or train.all():
        return f"{samples.n} samples are too few to fit on one half and score on the other"
    x = samples.x.astype(np.float64)
    x -= x[train].mean(axis=0)
    if (x.var(axis=0) <= samples.rounding()).all():
        return "every feature is constant, up to rounding in the type of the samples"
    missing = len(labels) - len(np.unique(y[train]))
    missing_note = f"{missing} classes have no samples to fit on, so their samples count as wrong" if missing else ""
    note = "; ".join(filter(None, [samples.note, missing_note]))
    return Halves(x[train], y[train], x[~train], y[~train], labels, group_of(samples.ids[train], GROUPS), note)


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
    mask = squares > len(squares) * np.finfo(np.float64).eps * squares[-1]
    squares, vectors = squares[mask], vectors[:, mask]
    return (vectors if wide else blas.dgemm(1.0, x.T, vectors, trans_a=1) / np.sqrt(squares)), squares


def accuracy(correct: NDArray[np.bool_], note: str = "", *, refits: Iterable[NDArray[np.bool_]] | None = ()) -> Value:
    """Share of correct answers with its standard error.

    Parameters
    ----------
    correct : (m,) bool
        Whether each scored sample is right.
    note : str
        Note of the value.
    refits : iterable of (m,) bool, optional
        The same for refits without each group of training samples; empty if nothing is fitted. None if such refits are
        undefined; then the error is NaN.
    """
    share, m = float(correct.mean()), len(correct)
    if refits is None:
        return Value(share, "; ".join(filter(None, [note, "no standard error: a tenth fewer samples can't be fitted on"])))
    changes = np.array([in_group.astype(np.float64) - correct for in_group in refits]).reshape(-1, m)
    return Value(share, note, se=math.sqrt(share_error(share, m) ** 2 + max(0.0, fit_variance(changes))))


def fit_variance(changes: NDArray[np.float64]) -> float:
    """J above, from the changes by refits without each group, (G, m)."""
    g = len(changes)
    if g < 2 or changes.shape[1] < 2:
        return 0.0
    e = changes - changes.mean(axis=0)
    shift = np.square(e.mean(axis=1)) - scoring_variance(e)
    return float(shift.sum()) * (g - 1) / g


def scoring_variance(changes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sampling variance of the mean over m scored samples of every row, (G,)."""
    return np.asarray(changes.var(axis=1, ddof=1) / changes.shape[1])


def by_discriminants(
    split: Halves, solve: Solver, weight: NDArray[np.float64] | None = None, *, priors: bool = False
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    r"""Linear discriminants of the classes without each group of training samples: coefficients (d, K), offsets (K,).

    A sample z goes to the largest z . A mu_c - mu_c . A mu_c / 2, plus log pi_c if `priors`, with mu_c the
    means without the group g and A^-1 = S - B^T B. S is the matrix that `solve` solves with, B^T B what g adds to it. Its rows
    are sqrt(w_i) (x_i - m_c), i in g, and sqrt(W_c) (mu_c - m_c), with m_c the means of all and W_c the sum of w_i of class c
    outside g. By Woodbury's identity A = S^-1 + P (I - B P)^-1 P^T, P = S^-1 B^T.

    Parameters
    ----------
    split : Halves
        Samples to fit on.
    solve : callable
        V -> S^-1 V.
    weight : (m,) float64, optional
        w_i, the weight of each sample in S; None if S does not depend on the samples.
    priors : bool, default False
        Whether to add the log class shares.

    Raises
    ------
    numpy.linalg.LinAlgError
        If S - B^T B is singular, up to rounding.
    """
    x, y, k = split.train, split.train_y, len(split.labels)
    hot = one_hot(y, k)
    counts, sums = hot.sum(axis=0), blas.dgemm(1.0, hot, x, trans_a=1)
    means = _ratio(sums, counts)
    for group in np.unique(split.groups):
        in_group = split.groups == group
        size = counts - hot[in_group].sum(axis=0)
        centres = _ratio(sums - hot[in_group].T @ x[in_group], size)
        filled = np.nan_to_num(centres)
        coefficients = solve(filled.T)
        if weight is not None:
            rest = np.sqrt(np.bincount(y[~in_group], weight[~in_group], minlength=k))
            mean_shifts = np.nan_to_num(rest[:, None] * (centres - means))
            b = np.concatenate([np.sqrt(weight[in_group])[:, None] * (x[in_group] - means[y[in_group]]), mean_shifts])
            p = solve(b.T)
            inner = np.eye(len(b)) - b @ p
            with warnings.catch_warnings():
                warnings.simplefilter("error", LinAlgWarning)  # near singular is singular
                try:
                    coefficients = coefficients + p @ solve_linear(inner, p.T @ filled.T, assume_a="pos")
                except LinAlgWarning as warning:
                    raise LinAlgError(str(warning)) from None
        offsets = -0.5 * np.einsum("kd,dk->k", filled, coefficients)
        if priors:
            offsets = offsets + np.log(np.maximum(size, 1e-300) / size.sum())
        yield coefficients, np.where(size > 0, offsets, -np.inf)


def is_correct(split: Halves, coefficients: NDArray[np.float64], offsets: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mask of the scored samples that linear discriminants, (d, K) and (K,), classify correctly."""
    return np.asarray(np.argmax(blas.dgemm(1.0, split.test.T, coefficients, trans_a=1) + offsets, axis=1) == split.test_y)


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of classes; NaN for classes without samples."""
    with np.errstate(invalid="ignore", divide="ignore"):
        means: NDArray[np.float64] = sums / counts[:, None]
    means[counts == 0] = np.nan
    return means


def one_hot(y: NDArray[np.int64], k: int) -> NDArray[np.float64]:
    """Rows of zeros with a one at each sample's class, (n, K)."""
    indicators = np.zeros((len(y), k))
    indicators[np.arange(len(y)), y] = 1.0
    return indicators


def nearest(x: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.int64]:
    """Position of the nearest centre of every row, by Euclidean distance; ties go to the first, NaN centres never win."""
    cross = blas.dgemm(-2.0, x.T, np.nan_to_num(centres).T, trans_a=1)
    scores = cross + np.square(centres).sum(axis=1)
    indices: NDArray[np.int64] = np.argmin(np.where(np.isnan(scores), np.inf, scores), axis=1)
    return indices

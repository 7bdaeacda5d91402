"""lda_accuracy: accuracy of linear discriminant analysis, fitted on one half of the samples, scored on the other."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, blas, cho_solve, lapack, lstsq

from repanalysis.metrics._readout import Halves, Solver, accuracy, by_discriminants, halves, is_correct, one_hot, standardized
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassMoments, Samples, SampleSet


def _needed(*, max_samples: int = 5000) -> Samples:
    return Samples(limit=max_samples)


@metric(needs=_needed, invariant={"translation", "scaling"}, structure="up")
def lda_accuracy(samples: SampleSet, *, max_samples: int = 5000) -> Mapping[str, Value]:  # noqa: ARG001  # read by `needs`
    r"""Accuracy of linear discriminant analysis, the optimal classifier for Gaussian classes with a common covariance.

    .. math:: \hat y(z) = \arg\max_c \; \mu_c^\top \hat\Sigma_W^{-1} z
              - \tfrac12 \mu_c^\top \hat\Sigma_W^{-1} \mu_c + \log \pi_c

    Parameters
    ----------
    samples : SampleSet
        Labelled samples of d features.
    max_samples : int, default 5000
        Maximal number of samples, drawn by id; 0 uses all.

    Returns
    -------
    dict of str to float
        `""`: in [0, 1], on the half of the samples that is not fitted on. `"train"`: on the half that is.

    Notes
    -----
    scikit-learn's `LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")`: Sigma_W is Ledoit and Wolf's estimate of
    features scaled to unit variance. The half of a sample depends on its id alone. Standard error: that of a share of the
    scored samples, plus a jackknife of the fit at the same shrinkage ("train": the first alone). Time n d^2 + d^3, memory
    n d + d^2.

    References
    ----------
    T. Hastie, R. Tibshirani, J. Friedman, "The elements of statistical learning", 2nd edition, 2009, section 4.3.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.arange(200) % 2
    >>> x = np.random.default_rng(0).normal(size=(200, 3)) + 4.0 * y[:, None]
    >>> float(lda_accuracy(Samples().of(x, y))[""])
    1.0
    """
    split = halves(samples)
    if isinstance(split, str):
        return dict.fromkeys(("", "train"), Value(math.nan, split))
    scaled = standardized(split)
    if scaled is None:
        return dict.fromkeys(("", "train"), Value(math.nan, "every feature is constant"))
    within = ClassMoments(scatter="none").of(split.train, split.train_y).scatter_trace.sum()
    if within <= 1e-24 * np.square(split.train).sum():
        return dict.fromkeys(("", "train"), Value(math.nan, "the within-class variance is 0"))
    split = split._replace(train=scaled[0], test=scaled[1])
    covariance, weight = _shrunk(split)
    upper, failed = lapack.dpotrf(covariance, clean=1)
    condition, _ = lapack.dpocon(upper, np.abs(covariance).sum(axis=0).max())
    if failed or condition < 10 * len(covariance) * np.finfo(np.float64).eps:
        coefficients, offsets = _discriminants(split, lambda v: lstsq(covariance, v)[0])
        refits = None
    else:
        coefficients, offsets = _discriminants(split, lambda v: cho_solve((upper, False), v))
        fits = by_discriminants(split, lambda v: cho_solve((upper, False), v), weight, priors=True)
        try:
            refits = [is_correct(split, *each) for each in fits]
        except LinAlgError:
            refits = None
    trained = split._replace(test=split.train, test_y=split.train_y)
    return {
        "": accuracy(is_correct(split, coefficients, offsets), split.note, refits=refits),
        "train": accuracy(is_correct(trained, coefficients, offsets), split.note),
    }


def _shrunk(split: Halves) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sigma_W with every class's covariance shrunk separately, and the weight of each sample in it, (m,)."""
    from sklearn.covariance import ledoit_wolf

    m, d = split.train.shape
    covariance, weight = np.zeros((d, d)), np.zeros(m)
    for label in np.unique(split.train_y):
        rows = split.train_y == label
        x = split.train[rows] - split.train[rows].mean(axis=0)
        if len(x) > 1:
            scale = x.std(axis=0)
            scale[scale < 10 * np.finfo(np.float64).eps * np.abs(split.train[rows]).max(axis=0)] = 1.0
            shrunk, shrinkage = ledoit_wolf(x / scale, assume_centered=True)
            covariance += len(x) / m * np.outer(scale, scale) * shrunk
            weight[rows] = (1.0 - shrinkage) / m
    return covariance, weight


def _discriminants(split: Halves, solve: Solver) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coefficients (d, K) and offsets (K,) of the formula above; -inf for classes without samples to fit on."""
    counts = np.bincount(split.train_y, minlength=len(split.labels))
    means = blas.dgemm(1.0, one_hot(split.train_y, len(counts)), split.train, trans_a=1) / np.maximum(counts, 1)[:, None]
    coefficients = solve(means.T)
    with np.errstate(divide="ignore"):
        return coefficients, np.log(counts / counts.sum()) - 0.5 * np.einsum("kd,dk->k", means, coefficients)

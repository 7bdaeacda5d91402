"""linear_probe_accuracy: accuracy of a linear classifier fitted on one half of the samples, scored on the other."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, solve

from repanalysis.metrics._readout import Halves, accuracy, halves, left_singular, one_hot, standardized
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import Samples, SampleSet

_PENALTIES = 10.0 ** np.arange(-6, 3)  # per sample; features have unit variance


def _needed(*, max_samples: int = 5000, solver: str = "ridge") -> Samples:  # noqa: ARG001
    return Samples(limit=max_samples)


@metric(needs=_needed, invariant={"translation", "scaling"}, structure={"": "up", "train": "up"})
def linear_probe_accuracy(
    samples: SampleSet,
    *,
    solver: Literal["ridge", "logistic"] = "ridge",
    max_samples: int = 5000,  # noqa: ARG001  # read by `needs`
) -> Mapping[str, Value]:
    r"""Accuracy of a linear probe: a linear classifier on fixed features.

    .. math:: \hat y(z) = \arg\max_c \, (W z + b)_c, \qquad
              W, b = \arg\min \frac1m \sum_i \|W z_i + b - e_{y_i}\|^2 + \lambda \|W\|^2

    Parameters
    ----------
    samples : SampleSet
        Labelled samples of d features.
    solver : {"ridge", "logistic"}, default "ridge"
        "ridge" is the formula above, in closed form, with lambda from 1e-6, 1e-5, ..., 100 by the smallest leave-one-out error;
        "logistic" is scikit-learn's `LogisticRegression` with C = 1.
    max_samples : int, default 5000
        Maximal number of samples, drawn by id; 0 uses all.

    Returns
    -------
    dict of str to float
        `""`: in [0, 1], on the half of the samples that is not fitted on. `"train"`: on the half that is.
        `"penalty"`: the selected lambda; 1e-6 or 100 mean that the optimum lies outside the grid (ridge only).

    Notes
    -----
    Every feature is scaled to unit variance on the samples to fit on. The half of a sample depends on its id alone. Standard
    error: that of a share of the scored samples, plus a jackknife of the fit at the same penalty, in closed form for "ridge"
    and by ten more fits for "logistic" ("train": the first alone). Time n d min(n, d), memory n d.

    References
    ----------
    G. Alain, Y. Bengio, "Understanding intermediate layers using linear classifier probes", ICLR workshop 2017.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.arange(200) % 2
    >>> x = np.random.default_rng(0).normal(size=(200, 3)) + 4.0 * y[:, None]
    >>> float(linear_probe_accuracy(Samples().of(x, y))[""])
    1.0
    """
    split = halves(samples)
    variants = ("", "train", "penalty") if solver == "ridge" else ("", "train")
    if isinstance(split, str):
        return dict.fromkeys(variants, Value(math.nan, split))
    scaled = standardized(split)
    if scaled is None:
        return dict.fromkeys(variants, Value(math.nan, "every feature is constant"))
    train, test = scaled
    if solver == "logistic":
        return _logistic(train, test, split)
    probe = ridge_by_leave_one_out(train, one_hot(split.train_y, len(split.labels)))
    return {
        "": accuracy(_guess(test, probe) == split.test_y, split.note, refits=_left_out(train, test, split, probe)),
        "train": accuracy(_guess(train, probe) == split.train_y, split.note),
        "penalty": Value(probe.penalty, split.note),
    }


class Probe(NamedTuple):
    """A fitted ridge regression: weights (d, K), offset (K,), penalty per sample, and its training data.

    Its m samples, centred on `centre` (d,), have left singular vectors `left` (m, r) and squared singular values `squares`.
    """

    weights: NDArray[np.float64]
    offset: NDArray[np.float64]
    penalty: float
    centre: NDArray[np.float64]
    left: NDArray[np.float64]
    squares: NDArray[np.float64]


def ridge_by_leave_one_out(x: NDArray[np.float64], targets: NDArray[np.float64]) -> Probe:
    """Ridge regression with an offset that is not penalised, and the penalty of the smallest leave-one-out error.

    With centred x = U S V^T, the residual of a sample that is left out is its residual divided by 1 - h_i, where
    h_i = 1/m + sum_j U_ij^2 s_j^2 / (s_j^2 + m lambda). One decomposition serves every penalty.
    """
    m = len(x)
    centre, level = x.mean(axis=0), targets.mean(axis=0)
    x, y = x - centre, targets - level
    left, squares = left_singular(x)
    rotated = blas.dgemm(1.0, left, y, trans_a=1)
    energy = np.square(left)
    best = math.inf, 0.0
    for penalty in _PENALTIES:
        shrink = squares / (squares + m * penalty)
        residual = y - blas.dgemm(1.0, left, rotated * shrink[:, None])
        error = float(np.square(residual / np.maximum(1.0 - 1.0 / m - energy @ shrink, 1e-12)[:, None]).mean())
        if error < best[0]:
            best = error, float(penalty)
    # V S (S^2 + m lambda)^-1 U^T y, with V S = x^T U
    weights = blas.dgemm(1.0, x.T, blas.dgemm(1.0, left, rotated / (squares + m * best[1])[:, None]))
    return Probe(weights, level - centre @ weights, best[1], centre, left, squares)


def _guess(x: NDArray[np.float64], probe: Probe) -> NDArray[np.int64]:
    predicted: NDArray[np.int64] = np.argmax(blas.dgemm(1.0, x.T, probe.weights, trans_a=1) + probe.offset, axis=1)
    return predicted


def _left_out(
    train: NDArray[np.float64], test: NDArray[np.float64], split: Halves, probe: Probe
) -> Iterator[NDArray[np.bool_]]:
    """Correctness of the scored samples for refits without each group, at the same penalty m lambda.

    With the kernel h(t, i) = 1/m + t . U (S^2 + m lambda)^-1 U^T of the fit f = h(., train) Y, without the group g
    f_g(t) = f(t) - h(t, g) (I - h(g, g))^-1 (Y_g - f(g)), exactly.
    """
    m, left, total = len(train), probe.left, probe.squares + len(train) * probe.penalty
    down = blas.dgemm(1.0, (train - probe.centre).T, left)  # V S
    across = blas.dgemm(1.0, (test - probe.centre).T, down, trans_a=1) / total
    within = left * (probe.squares / total)
    scores = blas.dgemm(1.0, test.T, probe.weights, trans_a=1) + probe.offset
    residual = one_hot(split.train_y, len(split.labels)) - blas.dgemm(1.0, train.T, probe.weights, trans_a=1) - probe.offset
    for group in np.unique(split.groups):
        in_group = split.groups == group
        own = np.eye(int(in_group.sum())) - 1.0 / m - within[in_group] @ left[in_group].T
        change = solve(own, residual[in_group], assume_a="pos")
        moved = change.sum(axis=0) / m + blas.dgemm(1.0, across, left[in_group].T @ change)
        yield np.asarray(np.argmax(scores - moved, axis=1) == split.test_y)


def _logistic(train: NDArray[np.float64], test: NDArray[np.float64], split: Halves) -> Mapping[str, Value]:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        fitted = LogisticRegression(max_iter=1000).fit(train, split.train_y)
    slow = "the fit had not converged after 1,000 steps" if caught else ""
    note = "; ".join(filter(None, [split.note, slow]))
    correct, trained = (fitted.predict(x) == y for x, y in ((test, split.test_y), (train, split.train_y)))
    start = fitted.coef_.copy(), fitted.intercept_.copy()
    parts = [split.groups != group for group in np.unique(split.groups)]
    if any(len(np.unique(split.train_y[rest])) < len(fitted.classes_) for rest in parts):
        return {"": accuracy(correct, note, refits=None), "train": accuracy(trained, note)}
    fitted.set_params(warm_start=True)
    refits = []
    for rest in parts:
        fitted.coef_, fitted.intercept_ = start[0].copy(), start[1].copy()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fitted.fit(train[rest], split.train_y[rest])
        refits.append(fitted.predict(test) == split.test_y)
    return {"": accuracy(correct, note, refits=refits), "train": accuracy(trained, note)}

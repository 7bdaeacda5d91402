"""ridge_r2: share of the variance of continuous targets that a linear read-out explains on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas, solve

from repanalysis.metrics._readout import GROUPS, fit_variance, left_singular
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import SampleSet, TargetSamples
from repanalysis.statistics.draws import group_of

_PENALTIES = 10.0 ** np.arange(-9, 2)  # shares of the features' total variance
_CONSTANT = 1e-14  # of a target's mean square: a variance that is rounding


def _needed(*, max_samples: int = 5000, names: tuple[str, ...] = ()) -> TargetSamples:  # noqa: ARG001
    return TargetSamples(limit=max_samples)


@metric(needs=_needed, invariant={"translation", "rotation", "scaling"}, structure="up", targets=True)
def ridge_r2(
    samples: SampleSet,
    *,
    max_samples: int = 5000,  # noqa: ARG001  # read by `needs`
    names: tuple[str, ...] = (),
) -> Mapping[str, Value]:
    r"""R^2 of a linear ridge read-out of continuous targets, on held-out samples.

    .. math:: R^2 = 1 - \frac{\sum_i (y_i - w \cdot z_i - b)^2}{\sum_i (y_i - \bar y)^2}, \qquad
              w, b = \arg\min \frac1m \sum_i (w \cdot z_i + b - y_i)^2 + \lambda \, \mathrm{Tr}\,\Sigma \, \|w\|^2

    Parameters
    ----------
    samples : SampleSet
        Samples of d features with t targets each, (m, t), NaN where one is missing.
    max_samples : int, default 5000
        Maximal number of samples, drawn by id; 0 uses all.
    names : tuple of str, optional
        Names of the t targets, for the variants.

    Returns
    -------
    dict of str to float
        `""`: at most 1, the mean over the targets; 1: all of their variance is linear in the features, 0: none, below 0: worse
        than their mean. `"train"`: the same on the samples that are fitted on. With several targets one variant for each, by
        its name or number. NaN where a target is constant.

    Notes
    -----
    lambda is the one of 1e-9, 1e-8, ..., 10 with the smallest leave-one-out error, for each target by itself; Tr Sigma, the
    features' total variance on the samples to fit on, makes it scale-invariant. Features are centred and not scaled
    one by one. The half of a sample depends on its id alone; the mean in the denominator is that of the scored samples. With m
    samples to fit on, d features and noise, R^2 is about d / m of the unexplained variance too low. Standard error: the delta
    method on the scored samples, plus a jackknife of the fit at the same penalty in closed form ("train": none). Time
    n d min(n, d), memory n d.

    References
    ----------
    A. E. Hoerl, R. W. Kennard, "Ridge regression: biased estimation for nonorthogonal problems", Technometrics 12, 1970.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(200, 3))
    >>> round(float(ridge_r2(TargetSamples().of(x, x @ [1.0, -2.0, 0.5] + 7.0))[""]), 6)
    1.0
    """
    t = samples.labels.shape[1]
    titles = _titles(names, t)
    scores = _scores(samples)
    reasons = [
        f"{title}: {score}" if t > 1 else score for title, score in zip(titles, scores, strict=True) if isinstance(score, str)
    ]
    if reasons:
        mean = train = Value(math.nan, "; ".join(reasons))
    else:
        defined = [score for score in scores if not isinstance(score, str)]
        mean, train = _mean(defined, samples.note), Value(float(np.mean([score.train for score in defined])), samples.note)
    parts = {
        title: Value(math.nan, score) if isinstance(score, str) else _mean([score], samples.note)
        for title, score in zip(titles, scores, strict=True)
    }
    return {"": mean, "train": train} | (parts if t > 1 else {})


class _Score(NamedTuple):
    """R^2 of one target, and the contribution of each scored sample to its error; samples without the target add 0.

    Attributes
    ----------
    value, train : float
        On the samples to score on, and to fit on.
    shares : (s,) float64
        What each of the s scored samples adds to the error of R^2, given the fit.
    changes : (G, s) float64
        s times what each adds to the change of R^2, by the fits without each group.
    """

    value: float
    train: float
    shares: NDArray[np.float64]
    changes: NDArray[np.float64]


class _Fit(NamedTuple):
    """Samples to fit on and to score on, centred on the mean of the first, whose singular vectors serve every target."""

    test: NDArray[np.float64]
    left: NDArray[np.float64]
    squares: NDArray[np.float64]
    down: NDArray[np.float64]  # V S, (d, r)
    groups: NDArray[np.int64]


def _mean(scores: list[_Score], note: str) -> Value:
    """Mean R^2 with its error."""
    shares = np.mean([score.shares for score in scores], axis=0)
    changes = np.mean([score.changes for score in scores], axis=0)
    n = len(shares)
    variance = float(np.square(shares).sum()) * n / (n - 1) + max(0.0, fit_variance(changes))
    return Value(float(np.mean([score.value for score in scores])), note, se=math.sqrt(variance))


def _titles(names: tuple[str, ...], t: int) -> list[str]:
    """A unique variant name for every target."""
    titles = list(names) if len(set(names)) == t else [str(column) for column in range(t)]
    return [f"target {title}" if title in ("", "train") else title for title in titles]


def _scores(samples: SampleSet) -> list[_Score | str]:
    """R^2 of every target, or the reason why it is undefined; targets of the same samples share one decomposition."""
    present = ~np.isnan(samples.labels)
    fits: dict[bytes, _Fit | str] = {}
    scores: list[_Score | str] = []
    for column in range(samples.labels.shape[1]):
        rows = present[:, column]
        key = rows.tobytes()
        if key not in fits:
            fits[key] = _fit(samples, rows)
        fit = fits[key]
        scores.append(fit if isinstance(fit, str) else _score(fit, samples, rows, column))
    return scores


def _fit(samples: SampleSet, rows: NDArray[np.bool_]) -> _Fit | str:
    """Halves of some samples; the reason as text if there are too few or all features are constant."""
    train_mask = samples.training()
    train, test = train_mask & rows, ~train_mask & rows
    if train.sum() < 3 or test.sum() < 2:
        return f"{int(rows.sum())} samples are too few to fit on one half and score on the other"
    x = samples.x.astype(np.float64)
    x -= x[train].mean(axis=0)
    if (x[train].var(axis=0) <= samples.rounding()).all():
        return "every feature is constant, up to rounding in the type of the samples"
    left, squares = left_singular(x[train])
    return _Fit(x[test], left, squares, blas.dgemm(1.0, x[train].T, left), group_of(samples.ids[train], GROUPS))


def _score(fit: _Fit, samples: SampleSet, rows: NDArray[np.bool_], column: int) -> _Score | str:
    """R^2 of one target."""
    train_mask = samples.training()
    train_targets, test_targets = samples.labels[train_mask & rows, column], samples.labels[~train_mask & rows, column]
    level, mean = train_targets.mean(), test_targets.mean()
    for part in (train_targets, test_targets):
        if part.var() <= _CONSTANT * float(np.square(part).mean()):
            return "the target is constant"
    y, total, m = train_targets - level, float(np.square(test_targets - mean).mean()), len(train_targets)
    penalty = _best_penalty(fit, y)
    rotated = fit.left.T @ y
    within = fit.squares / (fit.squares + penalty)
    across = fit.test @ fit.down / (fit.squares + penalty)  # (s, r)
    error = test_targets - level - across @ rotated
    residual = y - fit.left @ (within * rotated)
    shares, place = np.zeros(int((~train_mask).sum())), rows[~train_mask]
    value = 1.0 - float(np.square(error).mean()) / total
    shares[place] = ((1.0 - value) * np.square(test_targets - mean) - np.square(error)) / total / len(test_targets)
    changes = np.zeros((0, len(shares)))
    if len(np.unique(fit.groups)) > 1:
        refits = np.array([error + moved for moved in _left_out(fit, residual, within, across)])
        changes = np.zeros((len(refits), len(shares)))
        changes[:, place] = (np.square(error) - np.square(refits)) / total * (len(shares) / len(test_targets))
    return _Score(value, 1.0 - float(np.square(residual).mean() / np.square(y).mean()) if m else math.nan, shares, changes)


def _best_penalty(fit: _Fit, y: NDArray[np.float64]) -> float:
    """The penalty m lambda Tr Sigma of the smallest leave-one-out error; ties go to the smaller one.

    With centred x = U S V^T, the residual of a sample that is left out is its residual divided by 1 - h_i, where
    h_i = 1/m + sum_j U_ij^2 s_j^2 / (s_j^2 + penalty).
    """
    rotated, energy = fit.left.T @ y, np.square(fit.left)
    best = math.inf, 0.0
    for share in _PENALTIES:
        penalty = float(share * fit.squares.sum())
        shrink = fit.squares / (fit.squares + penalty)
        skipped = (y - fit.left @ (rotated * shrink)) / np.maximum(1.0 - 1.0 / len(y) - energy @ shrink, 1e-12)
        if (error := float(np.square(skipped).mean())) < best[0]:
            best = error, penalty
    return best[1]


def _left_out(
    fit: _Fit, residual: NDArray[np.float64], within: NDArray[np.float64], across: NDArray[np.float64]
) -> Iterator[NDArray[np.float64]]:
    """Decrease of the predictions of the scored samples if each group is left out, at the same penalty, exact.

    With the kernel h(t, i) = 1/m + t . U (S^2 + penalty)^-1 U^T of the fit f = h(., train) y, without the group g
    f_g(t) = f(t) - h(t, g) (I - h(g, g))^-1 (y_g - f(g)).
    """
    m = len(residual)
    for group in np.unique(fit.groups):
        in_group = fit.groups == group
        own = np.eye(int(in_group.sum())) - 1.0 / m - (fit.left[in_group] * within) @ fit.left[in_group].T
        change = solve(own, residual[in_group], assume_a="sym")
        yield change.sum() / m + across @ (fit.left[in_group].T @ change)

"""fisher_ratio = 1/K Tr(Sigma_W^-1 Sigma_B) (docs/separation.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from probes.errors import UsageError
from repanalysis._checks import not_negative, one_of
from repanalysis.metrics._bias import bias_note
from repanalysis.metrics._pairs import named_classes, named_pairs, present, squared_distances
from repanalysis.metrics._registry import Value, metric
from repanalysis.metrics._whitening import Whitened, whitened
from repanalysis.statistics import ClassGeometry, ClassMoments, Samples, SampleSet, Statistic, Weighting

Estimator = Literal["exact", "ledoit_wolf"]


def _needed(*, estimator: Estimator = "exact", ridge: float = 0.0, debiased: bool = False, **_: Any) -> Statistic:
    """Moments; the samples themselves for Ledoit and Wolf's estimate, which needs fourth powers."""
    not_negative("ridge", ridge)
    one_of("estimator", estimator, ("exact", "ledoit_wolf"))
    if debiased and (ridge > 0 or estimator != "exact"):
        raise UsageError("fisher_ratio:debiased=true needs the sample covariance; omit ridge and estimator.")
    return ClassMoments() if estimator == "exact" else Samples()


@metric(needs=_needed, invariant={"translation", "rotation", "scaling", "linear"}, structure="up")
def fisher_ratio(
    moments: ClassGeometry | SampleSet,
    *,
    class_weight: Weighting = "balanced",
    ridge: float = 0.0,
    estimator: Estimator = "exact",  # noqa: ARG001  # read by `needs`
    per: Literal["all", "class", "pair"] = "all",
    debiased: bool = False,
) -> Mapping[str, Value]:
    r"""Fisher's discriminant ratio: between-class variance measured in units of the within-class covariance.

    .. math:: \frac1K \mathrm{Tr}(\Sigma_W^{-1} \Sigma_B)
              = \frac1K \sum_c \pi_c \, (\mu_c - \mu_G)^\top \Sigma_W^{-1} (\mu_c - \mu_G)

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features; with `estimator="ledoit_wolf"` a `SampleSet`.
    class_weight : {"balanced", "empirical"}, default "balanced"
        Class weights pi_c: 1/K or n_c/n, the same in Sigma_W, Sigma_B and mu_G.
    ridge : float, default 0
        a: Sigma_W + a Tr(Sigma_W)/d I in place of Sigma_W; finite wherever Sigma_W is not 0, and smaller the larger a is.
    estimator : {"exact", "ledoit_wolf"}, default "exact"
        "ledoit_wolf" shrinks Sigma_W towards a multiple of I by Ledoit and Wolf's estimate.
    per : {"all", "class", "pair"}, default "all"
        "class" gives (mu_c - mu_G)^T Sigma_W^-1 (mu_c - mu_G) of every class, as a variant `class=3`; "pair" the squared
        Mahalanobis distance of every pair, as `pair=3/5`, whose mean over ordered pairs is twice the balanced trace.
    debiased : bool, default False
        Subtract the bias given in the notes. The result is unbiased for Gaussian classes with a common covariance, which is
        estimated with weights n_c/n. May be negative; NaN unless n > K + d + 1.

    Returns
    -------
    dict of str to float
        `""`: the ratio, in [0, inf]; large: classes are linearly separable.
        `"trace"`: without the factor 1/K.
        `"pinv"`: with the pseudo-inverse of Sigma_W (features scaled to unit variance), which drops the directions in
        which no class varies; always finite, and equal to `""` if that is finite.

    Raises
    ------
    UsageError
        If the ridge is negative, or `debiased` is combined with a ridge or a shrinkage estimator.

    Notes
    -----
    If Sigma_W is singular, a note says which of two cases holds. If the class means do not leave the range
    of Sigma_W (dead or repeated features), the ratio on that range is exact. If they do (always with d > n - K), some
    direction separates these samples perfectly and the ratio is inf.
    Features are scaled to unit variance first, so units do not matter. A direction counts as constant if its variance is below
    d eps lambda_max, or below the rounding variance of the samples' dtype (`statistics/rounding.py`): dependent features of a
    network are dependent only up to rounding, and rounding separates no classes.
    A ridge or shrinkage leaves only rotations, translations and scalings as invariances.
    Bias: for Gaussian classes of one covariance, and classes of one size or `class_weight="empirical"`,
    E[trace] = (d (K-1) + n F) / (n - K - d - 1), where F is the truth and d the rank: for n close to d, most of the ratio
    is bias, and a note says so where it is more than a tenth. Time d^3, memory d^2.

    References
    ----------
    R. A. Fisher, "The use of multiple measurements in taxonomic problems", Annals of Eugenics 7, 1936.
    O. Ledoit, M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", J. Multivariate Analysis
    88, 2004. J. Zarka, F. Guth, S. Mallat, "Separation and concentration in deep networks", ICLR 2021.

    Examples
    --------
    Two classes at -1 and 1 with unit variance: Tr(Sigma_W^-1 Sigma_B) = 1.

    >>> import numpy as np
    >>> x = np.array([[-2.0], [0.0], [0.0], [2.0]])
    >>> values = fisher_ratio(ClassMoments().of(x, np.array([0, 0, 1, 1])))
    >>> round(values[""], 12), round(values["trace"], 12)
    (0.5, 1.0)
    """
    not_negative("ridge", ridge)
    if moments.k < 2:
        return dict.fromkeys(("", "trace", "pinv"), Value(math.nan, "needs two classes"))
    note, within = "", None
    if isinstance(moments, SampleSet):
        note = moments.note
        moments, within = _shrunk(moments, class_weight)
    white = whitened(moments, "empirical" if debiased else class_weight, ridge=ridge, within=within, centre=class_weight)
    if white is None:
        return dict.fromkeys(("", "trace", "pinv"), Value(math.nan, "every feature is constant"))
    exact = not ridge > 0 and within is None
    if debiased and not (factor := _bias(moments, white, class_weight).factor) > 0:
        reason = (
            f"n = {moments.n} is not above K + rank + 1 = {moments.k + white.rank + 1}, so that the bias has no expectation"
        )
        values = (
            _per_class_or_pair(moments, white, per, class_weight, factor=math.nan)
            if per != "all"
            else dict.fromkeys(("", "trace", "pinv"))
        )
        return {variant: Value(math.nan, reason) for variant in values}
    if per != "all":
        return _per_class_or_pair(moments, white, per, class_weight, factor=factor if debiased else None)
    trace = float(moments.weights(class_weight) @ np.square(white.means).sum(axis=1))
    if not white.outside.size:
        on_range = f"on the range of the within-class covariance, rank {white.rank} of {moments.d}; class means lie in it"
        if white.n_rounded:
            on_range += f"; {white.n_rounded} directions vary by no more than rounding in the type of the samples"
        bias = _bias(moments, white, class_weight)
        if debiased:
            trace = float(bias.factor * trace - bias.added @ moments.weights(class_weight))
        elif exact:
            note = "; ".join(filter(None, [note, _note(bias, trace, moments, class_weight)]))
        note = "; ".join(filter(None, [note, on_range if white.rank < moments.d else ""]))
        return {"": Value(trace / moments.k, note), "trace": Value(trace, note), "pinv": Value(trace / moments.k, note)}
    rank_note = f"the within-class covariance has rank {white.rank} of {moments.d}"
    perfect = Value(
        math.nan if debiased else math.inf,
        f"{rank_note} and class means differ outside its range: {moments.n} samples separate perfectly",
    )
    dropped_note = f"{rank_note}; {white.leakage:.2%} of the between-class variance, outside its range, is dropped"
    return {"": perfect, "trace": perfect, "pinv": Value(math.nan if debiased else trace / moments.k, dropped_note)}


class _Bias(NamedTuple):
    """E[q_c] = (truth_c + added_c) / factor of each class's squared whitened length."""

    factor: float
    added: NDArray[np.float64]


def _bias(moments: ClassGeometry, white: Whitened, class_weight: Weighting) -> _Bias:
    """Bias of an inverse Wishart matrix with n - K degrees of freedom, and of the variance of means of n_c samples."""
    weights, counts = moments.weights(class_weight), np.maximum(moments.counts, 1)
    added = white.rank * ((1.0 - 2.0 * weights) / counts + (np.square(weights) / counts).sum())
    return _Bias((moments.n - moments.k - white.rank - 1) / moments.n, added)


def _note(bias: _Bias, trace: float, moments: ClassGeometry, class_weight: Weighting) -> str:
    if not bias.factor > 0:
        return f"n = {moments.n} samples are too few for {moments.d} features: all of it may be bias"
    truth = bias.factor * trace - float(bias.added @ moments.weights(class_weight))
    return bias_note(trace - truth, trace, moments.n, "debiased=true removes it where classes are Gaussian")


def _per_class_or_pair(
    moments: ClassGeometry, white: Whitened, per: str, class_weight: Weighting, *, factor: float | None
) -> Mapping[str, Value]:
    """Squared whitened lengths of class means, or of their differences; debiased if `factor` is given."""
    classes = present(moments)
    means, off_range, counts = white.means[classes], white.outside[classes], moments.counts[classes]
    undefined, scale, rank = (math.inf, 1.0, 0) if factor is None else (math.nan, factor, white.rank)
    if per == "class":
        outside = np.square(off_range).sum(axis=1) > 1e-10 * max(np.square(off_range).sum(), 1e-300)
        added = 0.0 if factor is None else _bias(moments, white, class_weight).added[classes]
        values = scale * np.square(means).sum(axis=1) - added
        return named_classes(moments, np.where(outside, undefined, values), outside)
    added = rank * (1.0 / counts[:, None] + 1.0 / counts)
    distances, outside = scale * squared_distances(means) - added, squared_distances(off_range)
    perfect = outside > 1e-10 * max(outside.max(), 1e-300)
    reasons = np.where(perfect, "the two means differ outside the range of the within-class covariance", "")
    return named_pairs(moments, np.where(perfect, undefined, distances), reasons)


def _shrunk(samples: SampleSet, class_weight: Weighting) -> tuple[ClassGeometry, NDArray[np.float64]]:
    """Moments of the samples, and Ledoit and Wolf's estimate of Sigma_W from rows centred on their class means."""
    from sklearn.covariance import ledoit_wolf_shrinkage

    moments = ClassMoments().of(samples.x, samples.labels, samples.ids)
    index = np.searchsorted(moments.classes, samples.labels)
    rows = samples.x - moments.mean[index]
    rows *= np.sqrt(moments.weights(class_weight) * moments.n / moments.counts)[index][:, None]
    share = float(ledoit_wolf_shrinkage(rows, assume_centered=True))
    within = (1.0 - share) * moments.within(class_weight)
    within[np.diag_indices_from(within)] += share * moments.traces(class_weight)[0] / moments.d
    return moments, within

"""class_mean_separation = mean over pairs c < c' of ||mu_c - mu_c'||^2 (docs/separation.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from repanalysis.metrics._bias import bias_note
from repanalysis.metrics._pairs import named_pairs, squared_distances
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments


@metric(needs=ClassMoments(scatter="none"), invariant={"translation", "rotation"}, structure="up")
def class_mean_separation(moments: ClassGeometry, *, per: Literal["all", "pair"] = "all") -> Mapping[str, Value]:
    r"""Mean squared distance between the means of two classes.

    .. math:: \frac{2}{K(K-1)} \sum_{c<c'} \|\mu_c - \mu_{c'}\|^2 = \frac{2K}{K-1} \mathrm{Tr}\,\Sigma_B

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features.
    per : {"all", "pair"}, default "all"
        "pair" gives the squared distance of every pair of classes, as a variant `pair=3/5`.

    Returns
    -------
    dict of str to float
        `""`: the mean, in squared units of the features, in [0, inf); large: classes lie far apart.
        `"min"`: the closest pair. `"relative"`: the mean divided by the within-class variance, for comparing layers.
        `"debiased"`: the mean minus its bias by sampling noise; may be negative.

    Notes
    -----
    The plug-in value exceeds the truth by Tr Sigma_c / n_c for each of the two classes; `debiased` subtracts the
    unbiased estimate Tr S_c / (n_c (n_c - 1)). Time and memory K^2 d. All pairs weigh the same, so there is no
    `class_weight`.

    References
    ----------
    J. Zarka, F. Guth, S. Mallat, "Separation and concentration in deep networks", ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0, 0.0], [2.0, 0.0], [3.0, 4.0], [5.0, 4.0]])
    >>> values = class_mean_separation(ClassMoments().of(x, np.array([0, 0, 1, 1])))
    >>> values[""], values["relative"], values["debiased"]
    (25.0, 25.0, 23.0)
    """
    present = moments.counts > 0
    if moments.k < 2:
        return dict.fromkeys(("", "min", "relative", "debiased"), Value(math.nan, "needs two classes"))
    count, scatter_trace = moments.counts[present], moments.scatter_trace[present]
    distances = squared_distances(moments.mean[present])
    if per == "pair":
        return named_pairs(moments, distances)
    centred = moments.centred_means()[present]
    mean = 2.0 / (len(count) - 1) * np.square(centred).sum()
    within = float(np.mean(scatter_trace / count))
    debiased = _debiased(mean, count, scatter_trace)
    note = bias_note(mean - debiased, mean, moments.n, "the variant debiased removes it")
    return {
        "": Value(mean, note),
        "min": Value(distances[np.triu_indices(len(count), 1)].min()),
        "relative": _relative(mean, within, note),
        "debiased": debiased,
    }


def _relative(separation: float, within: float, note: str) -> Value:
    if within > 0:
        return Value(separation / within, note)
    if separation > 0:
        return Value(math.inf, "the within-class variance is 0")
    return Value(math.nan, "all samples are equal")


def _debiased(separation: float, count: np.ndarray, scatter_trace: np.ndarray) -> Value:
    if (count < 2).any():
        return Value(math.nan, "a class of one sample has no variance estimate")
    return Value(separation - 2.0 * float(np.mean(scatter_trace / (count * (count - 1.0)))))

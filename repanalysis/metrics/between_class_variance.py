"""between_class_variance = Tr Sigma_B (docs/separation.md)."""

from __future__ import annotations

import math

import numpy as np

from repanalysis.metrics._bias import between_noise, bias_note
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments, Weighting


@metric(needs=ClassMoments(scatter="none"), invariant={"translation", "rotation"}, structure="up")
def between_class_variance(
    moments: ClassGeometry, *, class_weight: Weighting = "balanced", debiased: bool = False
) -> dict[str, Value]:
    r"""Mean squared distance of a class mean from the mean of the class means.

    .. math:: \mathrm{Tr}\,\Sigma_B = \sum_c \pi_c \|\mu_c - \mu_G\|^2, \qquad \mu_G = \sum_c \pi_c \mu_c

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features.
    class_weight : {"balanced", "empirical"}, default "balanced"
        Class weights pi_c: 1/K or n_c/n, the same in every matrix.
    debiased : bool, default False
        Subtract the bias by sampling noise; unbiased for any distribution, and possibly negative.

    Returns
    -------
    dict of str to float
        `""`: the variance summed over features, in squared units, in [0, inf).
        `"relative"`: its share of the total variance, in [0, 1]; 1 minus that of `within_class_variance`.

    Notes
    -----
    Bias: sampling noise adds sum_c pi_c (1 - pi_c) v_c / n_c with v_c the variance of class c, about (K - 1) Tr Sigma_W / n;
    a note says so where that is more than a tenth of it. The relative value, debiased, is the debiased variance over that and
    sum_c pi_c v_c. Time K d.

    References
    ----------
    J. Zarka, F. Guth, S. Mallat, "Separation and concentration in deep networks", ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [2.0], [3.0], [5.0]])
    >>> values = between_class_variance(ClassMoments().of(x, np.array([0, 0, 1, 1])))
    >>> values[""], round(values["relative"], 4)
    (2.25, 0.6923)
    """
    if moments.k < 2:
        return dict.fromkeys(("", "relative"), Value(math.nan, "needs two classes"))
    within, between = moments.traces(class_weight)
    noise = between_noise(moments, class_weight)
    if debiased:
        if not math.isfinite(noise):
            return dict.fromkeys(("", "relative"), Value(math.nan, "a class of one sample has no variance estimate"))
        between -= noise
        within = float(moments.weights(class_weight) @ (moments.scatter_trace / np.maximum(moments.counts - 1, 1)))
        note = ""
    else:
        note = bias_note(noise, between, moments.n, "debiased=true removes it")
    total = within + between
    return {
        "": Value(between, note),
        "relative": Value(between / total, note) if total > 0 else Value(math.nan, "all samples are equal"),
    }

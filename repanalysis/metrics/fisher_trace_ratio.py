"""fisher_trace_ratio = Tr Sigma_B / Tr Sigma_W (docs/separation.md)."""

from __future__ import annotations

import math

from repanalysis.metrics._bias import between_noise, bias_note
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments, Weighting


@metric(needs=ClassMoments(scatter="none"), invariant={"translation", "rotation", "scaling"}, structure="up")
def fisher_trace_ratio(moments: ClassGeometry, *, class_weight: Weighting = "balanced") -> Value:
    r"""Between-class variance divided by within-class variance, each summed over features.

    .. math:: \mathrm{Tr}\,\Sigma_B / \mathrm{Tr}\,\Sigma_W

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features.
    class_weight : {"balanced", "empirical"}, default "balanced"
        Class weights pi_c: 1/K or n_c/n, the same in both matrices.

    Returns
    -------
    float
        In [0, inf]; large: classes lie far apart for their size. Defined at any width, blind to directions.

    Notes
    -----
    Bias: with one covariance Sigma in all classes, the numerator is too large by Tr Sigma (K - 1)/n;
    a note says so where that is more than a tenth of it. Time and memory K d.

    References
    ----------
    K. Fukunaga, "Introduction to statistical pattern recognition", 2nd edition, 1990, section 10.2.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [2.0], [3.0], [5.0]])
    >>> fisher_trace_ratio(ClassMoments().of(x, np.array([0, 0, 1, 1])))
    2.25
    """
    if moments.k < 2:
        return Value(math.nan, "needs two classes")
    within, between = moments.traces(class_weight)
    if within > 0:
        noise = between_noise(moments, class_weight)
        remedy = "between_class_variance:debiased=true over within_class_variance is without it"
        return Value(between / within, bias_note(noise, between, moments.n, remedy))
    return Value(math.inf, "the within-class variance is 0") if between > 0 else Value(math.nan, "all samples are equal")

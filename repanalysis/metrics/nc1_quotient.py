"""nc1_quotient = Tr Sigma_W / Tr Sigma_B (docs/separation.md)."""

from __future__ import annotations

import math

from repanalysis.metrics._bias import between_noise, bias_note
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments, Weighting


@metric(needs=ClassMoments(scatter="none"), invariant={"translation", "rotation", "scaling"}, structure="down")
def nc1_quotient(moments: ClassGeometry, *, class_weight: Weighting = "balanced") -> Value:
    r"""Within-class variance divided by between-class variance: 0 at neural collapse.

    .. math:: \mathrm{Tr}\,\Sigma_W / \mathrm{Tr}\,\Sigma_B

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features.
    class_weight : {"balanced", "empirical"}, default "balanced"
        Class weights pi_c: 1/K or n_c/n, the same in both matrices.

    Returns
    -------
    float
        In [0, inf]; small: classes have collapsed to their means.

    Notes
    -----
    The inverse of `fisher_trace_ratio`. Where `nc1` needs the inverse of Sigma_B, this does not. Bias: the
    denominator is too large by about (K - 1) Tr Sigma_W / n; a note says so where that is more than a tenth of it. Time and
    memory K d.

    References
    ----------
    D. Tirer, H. Huang, J. Niles-Weed, "Perturbation analysis of neural collapse", ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [2.0], [3.0], [5.0]])
    >>> round(nc1_quotient(ClassMoments().of(x, np.array([0, 0, 1, 1]))), 4)
    0.4444
    """
    if moments.k < 2:
        return Value(math.nan, "needs two classes")
    within, between = moments.traces(class_weight)
    if between > 0:
        noise = between_noise(moments, class_weight)
        remedy = "within_class_variance over between_class_variance:debiased=true is without it"
        note = bias_note(noise, between, moments.n, remedy)
        return Value(within / between, note and f"of its denominator: {note}")
    return Value(math.inf, "all class means are equal") if within > 0 else Value(math.nan, "all samples are equal")

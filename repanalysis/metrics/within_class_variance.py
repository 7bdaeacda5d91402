"""within_class_variance = Tr Sigma_W (docs/separation.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from repanalysis.metrics._pairs import named_classes, present
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments, Weighting


@metric(needs=ClassMoments(scatter="none"), min_classes=1, invariant={"translation", "rotation"}, structure="down")
def within_class_variance(
    moments: ClassGeometry, *, class_weight: Weighting = "balanced", per: Literal["all", "class"] = "all"
) -> Mapping[str, Value]:
    r"""Mean squared distance of a sample from the mean of its class.

    .. math:: \mathrm{Tr}\,\Sigma_W = \sum_c \pi_c \, \frac{1}{n_c} \sum_{i \in c} \|z_i - \mu_c\|^2

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features.
    class_weight : {"balanced", "empirical"}, default "balanced"
        Class weights pi_c: 1/K or n_c/n, the same in every matrix.
    per : {"all", "class"}, default "all"
        "class" gives Tr Sigma_c of every class, as a variant `class=3`.

    Returns
    -------
    dict of str to float
        `""`: the variance summed over features, in squared units, in [0, inf), ddof = 0.
        `"relative"`: its share of the total variance, in [0, 1]; comparable across layers, small: concentrated classes.

    Notes
    -----
    ddof = 0: the expectation is (n_c - 1)/n_c of the population's. Time K d.

    References
    ----------
    J. Zarka, F. Guth, S. Mallat, "Separation and concentration in deep networks", ICLR 2021.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [2.0], [3.0], [5.0]])
    >>> values = within_class_variance(ClassMoments().of(x, np.array([0, 0, 1, 1])))
    >>> values[""], round(values["relative"], 4)
    (1.0, 0.3077)
    """
    if not moments.k:
        return dict.fromkeys(("", "relative"), Value(math.nan, "no samples"))
    if per == "class":
        return named_classes(moments, moments.variances()[present(moments)])
    within, between = moments.traces(class_weight)
    total = within + between
    return {
        "": Value(within),
        "relative": Value(within / total) if total > 0 else Value(math.nan, "all samples are equal"),
    }

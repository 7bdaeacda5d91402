"""nc2_equinorm = std_c ||mu_c - mu_G|| / mean_c ||mu_c - mu_G|| (docs/separation.md)."""

from __future__ import annotations

import math

import numpy as np

from repanalysis.metrics._pairs import present
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments, Weighting


@metric(needs=ClassMoments(scatter="none"), invariant={"translation", "rotation", "scaling"}, structure="down")
def nc2_equinorm(moments: ClassGeometry, *, class_weight: Weighting = "balanced") -> Value:
    r"""Coefficient of variation of the lengths of the centred class means: 0 at neural collapse.

    .. math:: \mathrm{std}_c \|\mu_c - \mu_G\| \,/\, \mathrm{mean}_c \|\mu_c - \mu_G\|

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features.
    class_weight : {"balanced", "empirical"}, default "balanced"
        Weights in mu_G alone; all classes count the same in mean and std (ddof = 0).

    Returns
    -------
    float
        In [0, sqrt(K - 1)]; 0: all class means are equally far from their centre.

    Notes
    -----
    Public code of neural collapse mostly has ddof = 1, which is larger by sqrt(K / (K - 1)). Time and memory K d.

    References
    ----------
    V. Papyan, X. Y. Han, D. L. Donoho, "Prevalence of neural collapse during the terminal phase of deep learning
    training", PNAS 117, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> round(nc2_equinorm(ClassMoments().of(np.eye(3), np.arange(3))), 12)
    0.0
    """
    if moments.k < 2:
        return Value(math.nan, "needs two classes")
    lengths = np.linalg.norm(moments.centred_means(class_weight)[present(moments)], axis=1)
    if not lengths.any():
        return Value(math.nan, "all class means are equal")
    return Value(lengths.std() / lengths.mean())

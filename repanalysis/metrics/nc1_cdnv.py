"""nc1_cdnv = mean over pairs of (v_c + v_c') / (2 ||mu_c - mu_c'||^2) (docs/separation.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from repanalysis.metrics._pairs import named_pairs, present, squared_distances
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments


@metric(needs=ClassMoments(scatter="none"), invariant={"translation", "rotation", "scaling"}, structure="down")
def nc1_cdnv(moments: ClassGeometry, *, per: Literal["all", "pair"] = "all") -> Mapping[str, Value]:
    r"""Class-distance normalised variance: variance of two classes in units of the distance between their means.

    .. math:: \frac{2}{K(K-1)} \sum_{c<c'} \frac{v_c + v_{c'}}{2 \|\mu_c - \mu_{c'}\|^2}, \qquad v_c = \mathrm{Tr}\,\Sigma_c

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features.
    per : {"all", "pair"}, default "all"
        "pair" gives every pair of classes, as a variant `pair=3/5`.

    Returns
    -------
    dict of str to float
        `""`: the mean over pairs, in [0, inf]; 0 at neural collapse. `"max"`: the worst pair.

    Notes
    -----
    A pair of equal means makes it infinite. Simplex-ETF means of radius r with isotropic noise s: s^2 d (K-1) / (2 r^2 K).
    Time and memory K^2 d.

    References
    ----------
    T. Galanti, A. György, M. Hutter, "On the role of neural collapse in transfer learning", ICLR 2022.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [2.0], [3.0], [5.0]])
    >>> round(nc1_cdnv(ClassMoments().of(x, np.array([0, 0, 1, 1])))[""], 4)
    0.1111
    """
    if moments.k < 2:
        return dict.fromkeys(("", "max"), Value(math.nan, "needs two classes"))
    indices = present(moments)
    variances = moments.variances()[indices]
    distances, both = squared_distances(moments.mean[indices]), variances[:, None] + variances
    with np.errstate(divide="ignore", invalid="ignore"):
        values = both / (2.0 * distances)
    if per == "pair":
        reasons = np.where(np.isfinite(values), "", np.where(both > 0, "the means are equal", "all samples are equal"))
        return named_pairs(moments, values, reasons)
    pairs = values[np.triu_indices(len(values), 1)]
    if np.isnan(pairs).any():
        return dict.fromkeys(("", "max"), Value(math.nan, "the samples of two classes are all equal"))
    note = "" if np.isfinite(pairs).all() else "two classes have the same mean"
    return {"": Value(pairs.mean(), note), "max": Value(pairs.max(), note)}

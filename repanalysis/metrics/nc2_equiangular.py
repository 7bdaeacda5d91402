"""nc2_equiangular = mean over pairs of |cos(mu_c - mu_G, mu_c' - mu_G) + 1/(K-1)| (docs/separation.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from repanalysis.metrics._pairs import named_pairs, present
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments, Weighting


@metric(needs=ClassMoments(scatter="none"), invariant={"translation", "rotation", "scaling"}, structure="down")
def nc2_equiangular(
    moments: ClassGeometry, *, class_weight: Weighting = "balanced", per: Literal["all", "pair"] = "all"
) -> Mapping[str, Value]:
    r"""How far the angles between centred class means are from those of a simplex: 0 at neural collapse.

    .. math:: \frac{2}{K(K-1)} \sum_{c<c'} \Bigl| \cos(\mu_c - \mu_G, \mu_{c'} - \mu_G) + \frac{1}{K-1} \Bigr|

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features.
    class_weight : {"balanced", "empirical"}, default "balanced"
        Weights in mu_G.
    per : {"all", "pair"}, default "all"
        "pair" gives the cosine of every pair of classes, as a variant `pair=3/5`.

    Returns
    -------
    dict of str to float
        `""`: the mean, in [0, 1 + 1/(K-1)]; 0 at a simplex equiangular tight frame, which needs d >= K - 1. Always 0 for
        two balanced classes. `"std"`: standard deviation of the cosines over pairs, ddof = 0.

    Notes
    -----
    Time K^2 d, memory K^2.

    References
    ----------
    V. Papyan, X. Y. Han, D. L. Donoho, "Prevalence of neural collapse during the terminal phase of deep learning
    training", PNAS 117, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> abs(round(nc2_equiangular(ClassMoments().of(np.eye(3), np.arange(3)))[""], 12))
    0.0
    """
    if moments.k < 2:
        return dict.fromkeys(("", "std"), Value(math.nan, "needs two classes"))
    means = moments.centred_means(class_weight)[present(moments)]
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    if not lengths.any():
        return dict.fromkeys(("", "std"), Value(math.nan, "all class means are equal"))
    if not lengths.all():
        return dict.fromkeys(("", "std"), Value(math.nan, "a class mean lies at the centre and has no direction"))
    directions = means / lengths
    if len(means) == 2 and class_weight == "balanced" and per == "all":
        return dict.fromkeys(("", "std"), Value(0.0, "the means of two classes lie opposite each other, whatever they are"))
    cosines = np.clip(np.einsum("kd,ld->kl", directions, directions, optimize=False), -1.0, 1.0)
    if per == "pair":
        return named_pairs(moments, cosines)
    pairs = cosines[np.triu_indices(len(cosines), 1)]
    return {"": Value(np.abs(pairs + 1.0 / (len(means) - 1)).mean()), "std": Value(pairs.std())}

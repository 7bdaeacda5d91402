"""nc3_duality = || W/||W||_F - M/||M||_F ||_F  (specification of separation, sections 0 and 1)."""

from __future__ import annotations

import math

import numpy as np

from repanalysis.metrics._head import Head, unfit
from repanalysis.metrics._pairs import present
from repanalysis.metrics._registry import Noted, metric
from repanalysis.statistics import ClassGeometry, ClassMoments, Weighting


@metric(needs=ClassMoments(scatter="none"), invariant={"translation", "scaling"}, structure="down")
def nc3_duality(moments: ClassGeometry, *, head: Head | None = None, class_weight: Weighting = "balanced") -> Noted:
    r"""Distance of the head's weights from the centred class means, each scaled to norm 1: 0 at neural collapse.

    .. math:: \Bigl\| \frac{W}{\|W\|_F} - \frac{M}{\|M\|_F} \Bigr\|_F, \qquad M_c = \mu_c - \mu_G

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features: those that the head takes.
    head : Head
        Its weights, a row per class.
    class_weight : {"balanced", "empirical"}, default "balanced"
        Weights in mu_G.

    Returns
    -------
    float
        In [0, 2]; 0: weights and means are the same up to scale. NaN at layers that the head does not take.

    Notes
    -----
    Part of the literature squares it. Rows of classes without samples are left out of W. Time and memory K d.

    References
    ----------
    V. Papyan, X. Y. Han, D. L. Donoho, "Prevalence of neural collapse during the terminal phase of deep learning
    training", PNAS 117, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> means = np.array([[1.0, 0.0], [-1.0, 0.0]])
    >>> round(nc3_duality(ClassMoments().of(means, np.arange(2)), head=Head(3 * means, np.zeros(2))), 7)
    0.0
    """
    if moments.k < 2:
        return Noted(math.nan, "needs two classes")
    there = present(moments)
    if reason := unfit(head, moments.classes[there], moments.mean.shape[1]):
        return Noted(math.nan, reason)
    assert head is not None
    means, weights = moments.centred_means(class_weight)[there], head.weight[moments.classes[there]]
    sizes = np.linalg.norm(means), np.linalg.norm(weights)
    if not all(sizes):
        return Noted(math.nan, "all class means are equal, or all weights 0")
    return Noted(float(np.linalg.norm(weights / sizes[1] - means / sizes[0])))

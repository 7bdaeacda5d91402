"""nc3_duality = || W/||W||_F - M/||M||_F ||_F (docs/separation.md)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from repanalysis.heads.head import Head, unfit
from repanalysis.metrics._bias import notes_enabled
from repanalysis.metrics._pairs import present
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments, Weighting

_FAR, _NEAR, _MOST = 1.0, 0.6, 2000  # random weights are 1.41 away, and in their best order hardly nearer than 1


@metric(needs=ClassMoments(scatter="none"), invariant={"translation", "scaling"}, structure="down")
def nc3_duality(moments: ClassGeometry, *, head: Head | None = None, class_weight: Weighting = "balanced") -> Value:
    r"""Distance of the head's weights from the centred class means, each scaled to norm 1: 0 at neural collapse.

    .. math:: \Bigl\| \frac{W}{\|W\|_F} - \frac{M}{\|M\|_F} \Bigr\|_F, \qquad M_c = \mu_c - \mu_G

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features: those that the head accepts.
    head : Head
        Its weights, a row per class.
    class_weight : {"balanced", "empirical"}, default "balanced"
        Weights in mu_G.

    Returns
    -------
    float
        In [0, 2]; 0: weights and means are the same up to scale. NaN at layers that the head does not accept.

    Notes
    -----
    Part of the literature squares it. Rows of classes without samples are left out of W. Where weights and means are far apart
    and would be close in another order of the classes, a note says so. Time and memory K d; K^3 for that note.

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
        return Value(math.nan, "needs two classes")
    indices = present(moments)
    if reason := unfit(head, moments.classes[indices], moments.mean.shape[1]):
        return Value(math.nan, reason)
    assert head is not None
    means, weights = moments.centred_means(class_weight)[indices], head.weight[moments.classes[indices]]
    sizes = np.linalg.norm(means), np.linalg.norm(weights)
    if not all(sizes):
        return Value(math.nan, "all class means are equal, or all weights 0")
    means, weights = means / sizes[0], weights / sizes[1]
    distance = float(np.linalg.norm(weights - means))
    return Value(distance, _permuted(distance, weights, means))


def _permuted(distance: float, weights: NDArray[np.float64], means: NDArray[np.float64]) -> str:
    """A note where the weights are close to the means in another order of the classes, and far in this one."""
    if distance < _FAR or len(means) > _MOST or not notes_enabled():
        return ""
    products = weights @ means.T
    best = float(products[linear_sum_assignment(products, maximize=True)].sum())
    other = math.sqrt(max(0.0, 2.0 - 2.0 * best))
    if other > _NEAR:
        return ""
    return f"with the rows of the head in another order it would be {other:.2g}: are its classes those of the labels?"

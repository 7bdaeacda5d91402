"""filter_clusters: label clusters of single filters (docs/filter_clusters.md, Formulas)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from repanalysis.heads.clusters import ClusterOptions, Gauge, Order, clusters_of
from repanalysis.heads.head import Head, unfit
from repanalysis.metrics._pairs import present
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments

_SHOWN = {
    "clusters per filter": "clusters",
    "cluster size": "cluster_size",
    "labels per filter": "labels",
    "noise per filter": "noise",
    "SNR": "snr_pair",
    "SNR total": "snr_total",
    "kept": "kept",
    "empty filters": "empty",
}


@metric(
    needs=ClassMoments(scatter="none"),
    structure={"SNR": "up", "SNR total": "up", "noise per filter": "down"},
    steps=set(_SHOWN) - {"SNR", "SNR total"},
)
def filter_clusters(
    moments: ClassGeometry, *, head: Head | None = None, theta: float = 0.3, order: Order = "label", gauge: Gauge = "center"
) -> Mapping[str, Value]:
    r"""Label clusters of single filters, the noise outside them, and their signal-to-noise ratio.

    .. math:: M^f_{ij} = W_{jf} \, \mu_{if}, \qquad B^f_{ij} = [M^f_{ij} > \theta \max M^f], \qquad
        \text{SNR} = \frac{(K - 1)\, \nu}{I + n}

    A cluster is a set of labels whose square in B is all ones; :math:`\nu` labels lie in clusters per filter, with I
    off-diagonal entries inside them, and n entries of noise lie outside.

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d pooled features, one per filter: those that the head accepts.
    head : Head
        Its weights, a row per class.
    theta : float, default 0.3
        Threshold, in (0, 1).
    order : {"label", "degree"}, default "label"
        Order of the labels in the search for clusters.
    gauge : {"center", "none"}, default "center"
        "center" subtracts the mean weight over classes first.

    Returns
    -------
    dict
        Variants "clusters per filter", "cluster size", "labels per filter", "noise per filter", "SNR" (a label's own output
        over another one's), "SNR total" (over all others together), "kept" (share of the head's weights in a cluster),
        "empty filters". The means skip filters without a cluster, except in the last two. NaN at layers that the head
        does not take.

    Notes
    -----
    Features pooled over space have one position per filter. Every M then has rank one, several clusters force noise, and values
    are not comparable with those of unpooled maps. `repanalysis filters` fits a head to every layer, pooled or not, measures
    more, and bootstraps the errors. Counts are discrete, so the jackknife gives standard errors only for the two SNR.
    Time d K^2, memory 64 MB.

    References
    ----------
    Y. Meir, Y. Tzach, S. Hodassman, O. Tevet, I. Kanter, "Towards a universal mechanism for successful deep learning",
    Scientific Reports 14, 5881, 2024.

    Examples
    --------
    >>> import numpy as np
    >>> means = np.eye(4)  # every filter responds to one label
    >>> moments = ClassMoments().of(means, np.arange(4))
    >>> values = filter_clusters(moments, head=Head(means, np.zeros(4)))
    >>> float(values["clusters per filter"]), float(values["noise per filter"]), float(values["SNR"])
    (1.0, 0.0, inf)
    """
    indices = present(moments)
    labels = moments.classes[indices]
    reason = unfit(head, labels, moments.mean.shape[1])
    if not reason and len(labels) < 2:
        reason = "needs two classes"
    if reason:
        return {variant: Value(math.nan, reason) for variant in _SHOWN}
    assert head is not None
    means, weights = moments.mean[indices], head.weight[labels]
    summary = clusters_of(means[:, :, None], weights[:, :, None], ClusterOptions(theta, order, gauge), fields=False).summary()
    return {
        variant: Value(summary[name], "no filter has a cluster" if np.isnan(summary[name]) else "")
        for variant, name in _SHOWN.items()
    }

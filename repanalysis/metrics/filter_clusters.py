"""filter_clusters: what each filter votes for when all others are silent (docs/filter_clusters.md, Formulas)."""

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
        K classes of d pooled features, one per filter: those that the head takes.
    head : Head
        Its weights, a row per class.
    theta : float, default 0.3
        Threshold, in (0, 1).
    order : {"label", "degree"}, default "label"
        In which clusters are sought.
    gauge : {"center", "none"}, default "center"
        Whether the mean weight over classes is taken away first.

    Returns
    -------
    dict
        Variants "clusters per filter", "cluster size", "labels per filter", "noise per filter", "SNR" (a label's own output
        over another one's), "SNR total" (over all others together), "kept" (share of the head's weights that serve a cluster),
        "empty filters". Filters without a cluster are left out of the means, but for the last two. NaN at layers that the head
        does not take.

    Notes
    -----
    Features pooled over space have one place per filter: every M is then of rank one, several clusters force noise, and numbers
    are not to be compared with those of unpooled maps. `repanalysis filters` fits a head to every layer, pooled or not, and
    says much more, and resamples for the errors. Counts move in steps, which a jackknife misses, so only the two SNR have a
    standard error here. Time d K^2, memory 64 MB.

    References
    ----------
    Y. Meir, Y. Tzach, S. Hodassman, O. Tevet, I. Kanter, "Towards a universal mechanism for successful deep learning",
    Scientific Reports 14, 5881, 2024.

    Examples
    --------
    >>> import numpy as np
    >>> means = np.eye(4)  # every filter knows one label
    >>> moments = ClassMoments().of(means, np.arange(4))
    >>> found = filter_clusters(moments, head=Head(means, np.zeros(4)))
    >>> float(found["clusters per filter"]), float(found["noise per filter"]), float(found["SNR"])
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
    note = "" if np.isfinite(summary["clusters"]) else "no filter serves a label"
    return {variant: Value(summary[name], "" if name in ("kept", "empty") else note) for variant, name in _SHOWN.items()}

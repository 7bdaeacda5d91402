"""coding_rate = 1/2 log det(I + d/eps^2 Sigma) (docs/rate_reduction.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from repanalysis.metrics._gaussian_rate import Normalization, moments_needed, rates
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry


@metric(needs=moments_needed, min_classes=0, by_class=True, invariant={"rotation", "scaling", "sign"})
def coding_rate(
    moments: ClassGeometry, *, eps_sq: float = 0.5, normalization: Normalization = "frobenius"
) -> Mapping[str, Value]:
    r"""Coding rate of all samples: nats per sample that describe them up to squared distortion eps^2.

    .. math:: R = \tfrac12 \log\det\Bigl(I + \frac{d}{\varepsilon^2} \Sigma\Bigr), \qquad
              \Sigma = \sum_k \frac{n_k}{n} \Sigma_k

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features; one class where no sample has a label.
    eps_sq : float, default 0.5
        Squared distortion eps^2. The published code calls it `eps`.
    normalization : {"frobenius", "sphere"}, default "frobenius"
        How every Sigma_k, the uncentred second moment of class k, gets trace 1: "frobenius" scales the class as a whole,
        "sphere" every sample to norm 1.

    Returns
    -------
    dict of str to float
        `""`: in nats; large: samples fill many directions.
        `"lower bound"`: 1/2 log(1 + d/eps^2), all samples on one line. `"upper bound"`: r/2 log(1 + d/(r eps^2)) with
        r = min(n, d), all r directions filled alike.

    Raises
    ------
    UsageError
        If `eps_sq` is not above 0 or the normalisation is unknown.

    Notes
    -----
    The mean is not removed. b = d/eps^2 uses the nominal d, so padding with zeros changes the value and layers of
    different width are not comparable as they stand. Time d^3/3, memory d^2.

    References
    ----------
    Y. Yu et al., "Learning diverse and discriminative representations via the principle of maximal coding rate
    reduction", NeurIPS 2020.

    Examples
    --------
    Two orthogonal lines, eps^2 = 0.1: R = log(1 + 10) = 2.397895.

    >>> import numpy as np
    >>> from repanalysis.statistics import ClassMoments
    >>> round(coding_rate(ClassMoments().of(np.eye(2), np.array([0, 1])), eps_sq=0.1)[""], 6)
    2.397895
    """
    if not moments.n:
        return dict.fromkeys(("", "lower bound", "upper bound"), Value(math.nan, "no samples"))
    values, b, rank = rates(moments, eps_sq, normalization), moments.d / eps_sq, min(moments.n, moments.d)
    return {
        "": Value(values.whole, values.note),
        "lower bound": Value(math.log1p(b) / 2),
        "upper bound": Value(rank * math.log1p(b / rank) / 2),
    }

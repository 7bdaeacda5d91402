"""coding_rate_classes = sum_k n_k/n 1/2 log det(I + d/eps^2 Sigma_k) (docs/rate_reduction.md)."""

from __future__ import annotations

import math

from repanalysis.metrics._gaussian_rate import Normalization, moments_needed, rates
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry


@metric(needs=moments_needed, min_classes=1, invariant={"rotation", "scaling", "sign"}, structure="down")
def coding_rate_classes(moments: ClassGeometry, *, eps_sq: float = 0.5, normalization: Normalization = "frobenius") -> Value:
    r"""Coding rate of the classes: nats per sample that describe the samples given their class.

    .. math:: R_c = \sum_k \frac{n_k}{n} \, \tfrac12 \log\det\Bigl(I + \frac{d}{\varepsilon^2} \Sigma_k\Bigr)

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features.
    eps_sq : float, default 0.5
        Squared distortion eps^2. The published code calls it `eps`.
    normalization : {"frobenius", "sphere"}, default "frobenius"
        See `coding_rate`.

    Returns
    -------
    float
        In nats, in [1/2 log(1 + d/eps^2), coding_rate]; small: every class fills few directions.

    Raises
    ------
    UsageError
        If `eps_sq` is not above 0 or the normalisation is unknown.

    Notes
    -----
    Time K d^3/3, memory K d^2 for the state.

    References
    ----------
    Y. Yu et al., "Learning diverse and discriminative representations via the principle of maximal coding rate
    reduction", NeurIPS 2020.

    Examples
    --------
    Two orthogonal lines, eps^2 = 0.1: R_c = 1/2 log(1 + 20) = 1.522261.

    >>> import numpy as np
    >>> from repanalysis.statistics import ClassMoments
    >>> round(coding_rate_classes(ClassMoments().of(np.eye(2), np.array([0, 1])), eps_sq=0.1), 6)
    1.522261
    """
    values = rates(moments, eps_sq, normalization)
    if not moments.n:
        return Value(math.nan, "no samples")
    return Value(values.classes, values.note)

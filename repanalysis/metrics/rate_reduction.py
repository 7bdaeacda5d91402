"""rate_reduction = coding_rate - coding_rate_classes (docs/rate_reduction.md)."""

from __future__ import annotations

import math

from repanalysis.metrics._gaussian_rate import Normalization, chance_note, moments_needed, rates
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry


@metric(needs=moments_needed, min_classes=2, invariant={"rotation", "scaling", "sign"}, structure="up")
def rate_reduction(moments: ClassGeometry, *, eps_sq: float = 0.5, normalization: Normalization = "frobenius") -> Value:
    r"""Rate reduction: nats per sample that knowing the class saves.

    .. math:: \Delta R = R - R_c = \sum_k \frac{n_k}{n} \,
              \mathrm{KL}\bigl(N(0, I + b\Sigma_k) \,\|\, N(0, I + b\Sigma)\bigr), \qquad b = d/\varepsilon^2

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
        In nats, in [0, d/2 log(1 + 1/eps^2) - 1/2 log(1 + d/eps^2)]; large: classes fill different subspaces.
        0 exactly if all classes have the same second moment, as classes z and -z have.

    Raises
    ------
    UsageError
        If `eps_sq` is not above 0 or the normalisation is unknown.

    Notes
    -----
    Where the two rates nearly cancel, the divergences are summed instead; the value is never negative.
    Bias: random labels give sum_k (1 - n_k/n) / (4 n) [(sum_j m_j)^2 + sum_j m_j^2], with m_j = b l_j / (1 + b l_j)
    of the eigenvalues l_j of Sigma, of Gaussian samples; for isotropic ones that is (d + d^2) (K - 1) / (4 n (1 + eps^2)^2). It
    is correct to 10 % if every class has more samples than sum_j m_j, and 16 % too large if it has half as many; a
    note reports it if it is more than a tenth of the value. Time (K+1) d^3/3, memory K d^2 for the state.

    References
    ----------
    Y. Yu et al., "Learning diverse and discriminative representations via the principle of maximal coding rate
    reduction", NeurIPS 2020.

    Examples
    --------
    Two orthogonal lines, eps^2 = 0.1: 2.397895 - 1.522261.

    >>> import numpy as np
    >>> from repanalysis.statistics import ClassMoments
    >>> round(rate_reduction(ClassMoments().of(np.eye(2), np.array([0, 1])), eps_sq=0.1), 6)
    0.875634
    """
    values = rates(moments, eps_sq, normalization)
    if moments.k < 2:
        return Value(math.nan, "needs two classes")
    return Value(values.reduction, chance_note(values, moments.n))

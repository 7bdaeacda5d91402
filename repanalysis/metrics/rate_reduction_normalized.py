"""rate_reduction_normalized = rate_reduction / its upper bound (docs/rate_reduction.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping

from repanalysis.metrics._gaussian_rate import Normalization, chance_note, moments_needed, rates
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry


@metric(needs=moments_needed, invariant={"rotation", "scaling", "sign"}, structure="up")
def rate_reduction_normalized(
    moments: ClassGeometry, *, eps_sq: float = 0.5, normalization: Normalization = "frobenius"
) -> Mapping[str, Value]:
    r"""Rate reduction divided by its maximum at that width, for comparing layers of different width.

    .. math:: \frac{\Delta R}{\frac d2 \log(1 + \frac{1}{\varepsilon^2}) - \frac12 \log(1 + \frac{d}{\varepsilon^2})}

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
    dict of str to float
        `""`: in [0, 1]; 1 needs one class for every direction.
        `"ideal"`: as a share of K orthogonal classes that together fill all directions, d/2 log(1 + 1/eps^2) -
        d/(2K) log(1 + K/eps^2); above 1 only where classes fill less. Needs K <= d.

    Raises
    ------
    UsageError
        If `eps_sq` is not above 0 or the normalisation is unknown.

    Notes
    -----
    `rate_reduction` grows with d, since b = d/eps^2 does; this ratio does not. Its bias, relative to the value, is that of
    `rate_reduction`. Time (K+1) d^3/3, memory K d^2 for the state.

    References
    ----------
    Y. Yu et al., "Learning diverse and discriminative representations via the principle of maximal coding rate
    reduction", NeurIPS 2020.

    Examples
    --------
    Two orthogonal lines in the plane reach the bound.

    >>> import numpy as np
    >>> from repanalysis.statistics import ClassMoments
    >>> round(rate_reduction_normalized(ClassMoments().of(np.eye(2), np.array([0, 1])))[""], 12)
    1.0
    """
    values = rates(moments, eps_sq, normalization)
    if moments.k < 2:
        return dict.fromkeys(("", "ideal"), Value(math.nan, "needs two classes"))
    d, k, note = moments.d, moments.k, chance_note(values, moments.n)
    whole = d / 2 * math.log1p(1 / eps_sq)
    bound, ideal = whole - math.log1p(d / eps_sq) / 2, whole - d / (2 * k) * math.log1p(k / eps_sq)
    return {
        "": Value(values.reduction / bound, note) if d > 1 else Value(math.nan, "one feature has no directions"),
        "ideal": Value(values.reduction / ideal, note) if k <= d else Value(math.nan, f"{k} classes in {d} dimensions"),
    }

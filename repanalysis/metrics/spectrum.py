"""spectrum: shares of variance of the principal components."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from repanalysis.metrics._registry import Value, metric
from repanalysis.metrics._spectrum import eigenvalues
from repanalysis.statistics import ClassGeometry, ClassMoments

_STEPS = (1, 2, 5)


@metric(needs=ClassMoments(), min_classes=0, invariant={"translation", "rotation", "scaling"})
def spectrum(moments: ClassGeometry, *, last: int = 1000) -> Mapping[str, Value]:
    r"""Share of the variance that the j-th principal component holds, at j = 1, 2, 5, 10, 20, 50 and so on.

    .. math:: \lambda_j / \sum_i \lambda_i

    Parameters
    ----------
    moments : ClassGeometry
        Samples of d features; their classes are not used.
    last : int, default 1000
        Largest j.

    Returns
    -------
    dict of str to float
        `"component=j"`: in [0, 1], falling with j, for every j up to d.

    Notes
    -----
    0 means that the samples have no variance left there, up to rounding in their type. Time d^3, memory d^2.

    References
    ----------
    I. T. Jolliffe, "Principal component analysis", 2nd edition, 2002.

    Examples
    --------
    >>> import numpy as np
    >>> spectrum(ClassMoments().of(np.array([[3.0, 1.0], [-3.0, 1.0], [0.0, 0.0], [0.0, 2.0]]), np.zeros(4, int)))
    {'component=1': 0.9, 'component=2': 0.1}
    """
    ranks = [step * 10**power for power in range(7) for step in _STEPS if step * 10**power <= min(last, moments.d)]
    values = eigenvalues(moments) if moments.n else np.zeros(0)
    if not values.any():
        return {f"component={rank}": Value(math.nan, "all samples are equal") for rank in ranks}
    shares = np.concatenate([values / values.sum(), np.zeros(max(0, moments.d - len(values)))])
    return {f"component={rank}": Value(shares[rank - 1]) for rank in ranks}

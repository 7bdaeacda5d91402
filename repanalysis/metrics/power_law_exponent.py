"""power_law_exponent: alpha of lambda_j ~ j^-alpha  (Stringer et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from repanalysis.metrics._registry import Value, metric
from repanalysis.metrics._spectrum import eigenvalues
from repanalysis.statistics import ClassGeometry, ClassMoments


@metric(needs=ClassMoments(), min_classes=0, invariant={"translation", "rotation", "scaling"})
def power_law_exponent(moments: ClassGeometry, *, first: int = 11, last: int = 500) -> Mapping[str, Value]:
    r"""How fast the variances of the principal components fall: the exponent of a power law.

    .. math:: \lambda_j \propto j^{-\alpha}, \qquad
              -\alpha \text{ the slope of the least-squares line through } (\log j, \log \lambda_j)

    Parameters
    ----------
    moments : ClassGeometry
        Samples of d features; their classes are not used.
    first, last : int, default 11 and 500
        Ranks j of the first and last eigenvalue of the fit; the last is at most the number of eigenvalues above 0.

    Returns
    -------
    dict of str to float
        `""`: alpha; 1 is the border below which a code is not smooth. `"r2"`: share of the variance of log lambda_j that
        the line explains: look at it before the exponent.

    Notes
    -----
    The last eigenvalues of n samples are too small where n is not far above d, which makes alpha too large. At least 5
    ranks are needed. Time d^3, memory d^2.

    References
    ----------
    C. Stringer et al., "High-dimensional geometry of population responses in visual cortex", Nature 571, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> scale = np.sqrt(np.arange(1.0, 41.0) ** -1.5)
    >>> x = np.concatenate([np.diag(scale), -np.diag(scale)])
    >>> round(power_law_exponent(ClassMoments().of(x, np.zeros(80, int)))[""], 6)
    1.5
    """
    values = eigenvalues(moments) if moments.n else np.zeros(0)
    stop = min(last, int((values > 0).sum()))
    if stop - first + 1 < 5 or first < 1:
        reason = f"the fit needs 5 eigenvalues above 0 from rank {first} on, and there are {max(0, stop - first + 1)}"
        return dict.fromkeys(("", "r2"), Value(math.nan, reason))
    ranks = np.log(np.arange(first, stop + 1, dtype=np.float64))
    sizes = np.log(values[first - 1 : stop])
    ranks -= ranks.mean()
    sizes -= sizes.mean()
    slope = float(ranks @ sizes) / float(ranks @ ranks)
    energy = float(sizes @ sizes)
    flat = energy <= 1e-20 * len(sizes)
    fit = Value(math.nan, "all eigenvalues of the fit are equal") if flat else Value(slope * float(ranks @ sizes) / energy)
    return {"": Value(-slope), "r2": fit}

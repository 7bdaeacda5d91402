"""participation_ratio = (Tr Sigma)^2 / Tr Sigma^2."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from repanalysis.metrics._bias import MIN_NOTED_SHARE
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments


@metric(needs=ClassMoments(), min_classes=0, invariant={"translation", "rotation", "scaling"})
def participation_ratio(moments: ClassGeometry) -> Mapping[str, Value]:
    r"""Number of directions that samples fill, counted by squares of variances.

    .. math:: \frac{(\mathrm{Tr}\,\Sigma)^2}{\mathrm{Tr}\,\Sigma^2} = \frac{(\sum_j \lambda_j)^2}{\sum_j \lambda_j^2}

    Parameters
    ----------
    moments : ClassGeometry
        Samples of d features.

    Returns
    -------
    dict of str to float
        `""`: of the covariance of all samples, in [1, d]; large: variance is spread evenly. `"relative"`: divided by d.
        `"within"`: of the within-class covariance Sigma_W, classes weighing the same.

    Notes
    -----
    Bias: of Gaussian samples 1/value exceeds the truth by 1/n, so that an isotropic one gives about d / (1 + d/n); a note says
    so where that is more than a tenth. No eigenvalues are
    needed: Tr Sigma^2 is the sum of squared entries. Time and memory d^2.

    References
    ----------
    P. Gao et al., "A theory of multineuronal dimensionality, dynamics and measurement", bioRxiv 214262, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> round(participation_ratio(ClassMoments().of(np.concatenate([np.eye(3), -np.eye(3)]), np.zeros(6, int)))[""], 12)
    3.0
    """
    if not moments.n:
        return dict.fromkeys(("", "relative", "within"), Value(math.nan, "no samples"))
    geometry = moments.isometric()
    whole = _ratio(geometry.total())
    if whole > MIN_NOTED_SHARE * moments.n:
        whole = Value(whole, f"too small by about {whole / moments.n:.0%}: {moments.n} samples span few directions")
    return {"": whole, "relative": Value(whole / moments.d, whole.note), "within": _ratio(geometry.within())}


def _ratio(covariance: NDArray[np.float64]) -> Value:
    scale = float(np.trace(covariance))
    if not scale > 0:
        return Value(math.nan, "all samples are equal")
    return Value(1.0 / float(np.square(covariance / scale).sum()))

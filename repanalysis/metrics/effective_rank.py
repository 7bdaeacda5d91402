"""effective_rank = exp of the entropy of the normalised singular values  (Roy and Vetterli 2007)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repanalysis.metrics._registry import Value, metric
from repanalysis.metrics._spectrum import eigenvalues, second_eigenvalues
from repanalysis.statistics import ClassGeometry, ClassMoments


@metric(needs=ClassMoments(), min_classes=0, invariant={"translation", "rotation", "scaling"})
def effective_rank(moments: ClassGeometry, *, about: Literal["mean", "origin"] = "mean") -> Mapping[str, Value]:
    r"""Number of directions that samples fill, counted by entropy.

    .. math:: \exp\Bigl(-\sum_j p_j \log p_j\Bigr), \qquad p_j = \sigma_j / \sum_i \sigma_i

    Parameters
    ----------
    moments : ClassGeometry
        Samples of d features; their classes are not used.
    about : {"mean", "origin"}, default "mean"
        "origin" takes the samples as they are, which is RankMe; "mean" centres them.

    Returns
    -------
    dict of str to float
        `""`: with the singular values sigma_j of the samples, in [1, rank]; large: variance is spread evenly.
        `"variance"`: with p_j the shares of variance, sigma_j^2.

    Notes
    -----
    Four conventions are in use under this name; they differ by a factor of 2 and more. With n below d the rank is at most
    n - 1, and small n biases all four downwards. Time d^3, memory d^2.

    References
    ----------
    O. Roy, M. Vetterli, "The effective rank: a measure of effective dimensionality", EUSIPCO 2007.
    Q. Garrido et al., "RankMe: assessing the downstream performance of pretrained self-supervised representations by
    their rank", ICML 2023.

    Examples
    --------
    >>> import numpy as np
    >>> values = effective_rank(ClassMoments().of(np.concatenate([np.eye(3), -np.eye(3)]), np.zeros(6, int)))
    >>> round(values[""], 12)
    3.0
    """
    if not moments.n:
        return dict.fromkeys(("", "variance"), Value(math.nan, "no samples"))
    values = eigenvalues(moments) if about == "mean" else second_eigenvalues(moments)
    return {"": _entropic(np.sqrt(values)), "variance": _entropic(values)}


def _entropic(sizes: NDArray[np.float64]) -> Value:
    if not sizes.any():
        return Value(math.nan, "all samples are equal")
    shares = sizes[sizes > 0] / sizes.sum()
    return Value(math.exp(-float(shares @ np.log(shares))))

"""nc1 = 1/K Tr(Sigma_W Sigma_B^+) (docs/separation.md)."""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import blas, eigh

from repanalysis.metrics._pairs import present
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments, Weighting
from repanalysis.statistics.rounding import largest_eigenvalue

_EPS = float(np.finfo(np.float64).eps)


@metric(needs=ClassMoments(), invariant={"translation", "rotation", "scaling"}, structure="down")
def nc1(moments: ClassGeometry, *, class_weight: Weighting = "balanced") -> Value:
    r"""Variability collapse: within-class covariance measured in units of the between-class covariance.

    .. math:: \frac1K \mathrm{Tr}(\Sigma_W \Sigma_B^{+})

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features.
    class_weight : {"balanced", "empirical"}, default "balanced"
        Class weights pi_c: 1/K or n_c/n, the same in Sigma_W, Sigma_B and mu_G.

    Returns
    -------
    float
        In [0, inf]; 0 at neural collapse. Sees only the at most K - 1 directions in which class means differ.

    Notes
    -----
    Sigma_B^+ is the pseudo-inverse on the range of Sigma_B, without directions that the rounding of the
    samples explains (`statistics/rounding.py`). If that has fewer than min(K - 1, d) dimensions, as with two equal means, the
    missing directions count as 0, and a note gives the rank. With the Fisher trace F =
    Tr(Sigma_W^-1 Sigma_B) and r the rank, F Tr(Sigma_W Sigma_B^+) >= r^2. Public code often weighs Sigma_W by n_c/n but
    Sigma_B by 1/K; for equal classes that is the same. Simplex-ETF means of radius a with noise s: (K-1)^2 s^2 / (K a^2).
    Time K^2 d + K d^2 and K^3, memory d^2.

    References
    ----------
    V. Papyan, X. Y. Han, D. L. Donoho, "Prevalence of neural collapse during the terminal phase of deep learning
    training", PNAS 117, 2020.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[-2.0], [0.0], [0.0], [2.0]])
    >>> round(nc1(ClassMoments().of(x, np.array([0, 0, 1, 1]))), 12)
    0.5
    """
    if moments.k < 2:
        return Value(math.nan, "needs two classes")
    indices = present(moments)
    means = (moments.centred_means(class_weight) * np.sqrt(moments.weights(class_weight))[:, None])[indices]
    gram = blas.dsyrk(1.0, means.T, trans=1)
    values, vectors = eigh(gram, lower=False, overwrite_a=True, check_finite=False)
    within_trace = moments.traces(class_weight)[0]
    positive = values > 10 * len(values) * _EPS * values[-1]
    basis = blas.dgemm(1.0, means.T, vectors[:, positive])  # columns: sqrt(lambda) times eigenvectors of Sigma_B
    values = values[positive]
    rounding = moments.rounding_of_means() * largest_eigenvalue(len(indices), moments.d)
    above = np.square(values) > rounding @ np.square(basis)  # lambda > v^T N v
    if not above.any():
        if within_trace > moments.rounding().sum():
            return Value(math.inf, "all class means are equal")
        return Value(math.nan, "all samples are equal")
    values, basis = values[above], np.asfortranarray(basis[:, above])
    trace = float((moments.variance_along(basis, class_weight) / np.square(values)).sum())
    rank, most = len(values), min(len(indices) - 1, moments.d)
    return Value(
        max(trace, 0.0) / len(indices), f"the between-class covariance has rank {rank}, not {most}" if rank < most else ""
    )

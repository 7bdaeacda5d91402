r"""Soft thresholding in a tight frame concentrates Gaussian classes.

With F^T F = Id and rho_t(u) = sign(u) max(|u| - t, 0), the map Phi(x) = F^T rho_t(F x) is a contraction, so within-class
variance never grows. For x_c ~ N(mu_c, Sigma_c) whose coefficients f_m^T x have variance at most s_p^2, the threshold
t = s_p sqrt(2 log p) gives

    E ||Phi(x_c) - mu_c||^2 <= (2 log p + 1) (s_p^2 + sum_m min((f_m^T mu_c)^2, s_p^2)),

while E ||x_c - mu_c||^2 may be p s_p^2: if few coefficients of the mean are large, this falls by about p over their
number, and the mean moves by no more than the same bound. It is not a law of the Fisher ratio, which falls where means are not
sparse.

Closed forms: docs/separation.md, Concentration by a soft threshold (after Donoho and Johnstone).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.stats import norm

from repanalysis.metrics import get
from repanalysis.statistics import ClassMoments
from repanalysis.theory.mixtures import Mixture, sparse_mixture

__all__ = [
    "concentrated", "concentrated_fisher", "concentration_by_dimension", "concentration_by_sparsity",
    "concentration_by_threshold", "soft_threshold", "spread_bound", "threshold_moments", "universal_threshold",
]  # fmt: skip


def soft_threshold(u: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """rho_t(u) = sign(u) max(|u| - t, 0).

    Examples
    --------
    >>> soft_threshold(np.array([-3.0, 0.5, 2.0]), 1.0).tolist()
    [-2.0, 0.0, 1.0]
    """
    return np.asarray(np.sign(u) * np.maximum(np.abs(u) - threshold, 0.0))


def concentrated(
    x: Float64[np.ndarray, "n d"], frame: Float64[np.ndarray, "p d"], threshold: float
) -> Float64[np.ndarray, "n d"]:
    """Phi(x) = F^T rho_t(F x)."""
    return np.asarray(soft_threshold(x @ frame.T, threshold) @ frame)


def universal_threshold(deviation: float, p: int) -> float:
    """s_p sqrt(2 log p): approximately the largest of p Gaussian coefficients of standard deviation s_p."""
    return float(deviation * np.sqrt(2 * np.log(p)))


def threshold_moments(
    mean: float | NDArray[np.float64], threshold: float, deviation: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Mean and variance of rho_t(u), u ~ N(m, s^2).

    With s = 1, a = t - m, b = t + m, Q the upper tail and g the density of the normal distribution, the mean is
    -a Q(a) + g(a) + b Q(b) - g(b) and the second moment (1 + a^2) Q(a) - a g(a) + (1 + b^2) Q(b) - b g(b).

    Examples
    --------
    >>> mean, variance = threshold_moments(2.0, 1.5)
    >>> round(float(mean), 6), round(float(variance), 6)
    (0.697738, 0.55355)
    """
    a, b = (threshold - np.asarray(mean)) / deviation, (threshold + np.asarray(mean)) / deviation
    first = -a * norm.sf(a) + norm.pdf(a) + b * norm.sf(b) - norm.pdf(b)
    second = (1 + a**2) * norm.sf(a) - a * norm.pdf(a) + (1 + b**2) * norm.sf(b) - b * norm.pdf(b)
    return np.asarray(first * deviation), np.asarray((second - np.square(first)) * deviation**2)


def spread_bound(coefficients: NDArray[np.float64], deviation: float) -> float:
    """Bound of E ||Phi(x_c) - mu_c||^2 at the universal threshold.

    Parameters
    ----------
    coefficients : (p,) array
        f_m^T mu_c.
    deviation : float
        s_p, the largest standard deviation of a coefficient.

    Examples
    --------
    >>> round(spread_bound(np.zeros(100), 0.1), 4)
    0.1021
    """
    p = coefficients.shape[-1]
    clipped = np.minimum(np.square(coefficients), deviation**2).sum()
    return float((2 * np.log(p) + 1) * (deviation**2 + clipped))


def concentrated_fisher(classes: int, mean: float, threshold: float) -> tuple[float, float]:
    """Tr(Sigma_W^-1 Sigma_B) and Tr Sigma_W of rho_t(x), for K = d classes with mu_c = m e_c, Sigma_c = Id and F = Id.

    Examples
    --------
    >>> [round(value, 2) for value in concentrated_fisher(10, 5.0, 2.0)]
    [73.57, 1.1]
    """
    (own, spread), (other, rest) = threshold_moments(mean, threshold), threshold_moments(0.0, threshold)
    within = (float(spread) + (classes - 1) * float(rest)) / classes
    between = float(own - other) ** 2 * (classes - 1) / classes
    return between / within, classes * within


def concentration_by_threshold(
    thresholds: NDArray[np.float64] | None = None, *, classes: int = 10, mean: float = 5.0, n: int = 40_000, seed: int = 0
) -> pd.DataFrame:
    """Fisher trace and within-class variance of the reference mixture against the threshold.

    Parameters
    ----------
    thresholds : (m,) array, optional
        t; by default 0 to 4.
    classes : int, default 10
        K = d.
    mean : float, default 5
        m, the length of class means.
    n, seed : int
        Samples and seed.

    Returns
    -------
    pandas.DataFrame
        Columns parameter, predicted and measured (the Fisher trace), predicted_variance and measured_variance (Tr Sigma_W).
    """
    mixture = Mixture(mean * np.eye(classes), np.ones((classes, classes)))
    x, y = mixture.sample(n, seed=seed)
    rows = []
    for threshold in np.linspace(0, 4, 9) if thresholds is None else thresholds:
        moments = ClassMoments().of(soft_threshold(x, float(threshold)), y)
        predicted = concentrated_fisher(classes, mean, float(threshold))
        measured = float(get("fisher_ratio")(moments)["trace"]), float(get("within_class_variance")(moments)[""])
        rows.append((float(threshold), predicted[0], measured[0], predicted[1], measured[1]))
    return pd.DataFrame(rows, columns=["parameter", "predicted", "measured", "predicted_variance", "measured_variance"])


def concentration_by_sparsity(counts: NDArray[np.int64] | None = None, *, d: int = 256, seed: int = 0) -> pd.DataFrame:
    """Squared distance from class means at the universal threshold, and its bound, against the number of atoms in a mean.

    Parameters
    ----------
    counts : (m,) array, optional
        k; by default 1, 2, 4, ... up to d.
    d, seed : int
        Dimensions and seed.

    Returns
    -------
    pandas.DataFrame
        Columns parameter, predicted (the bound), measured and before (E ||x_c - mu_c||^2 = d).
    """
    counts = 2 ** np.arange(int(np.log2(d)) + 1) if counts is None else counts
    return pd.DataFrame(
        [(float(k), *_spread(d, int(k), seed)) for k in counts], columns=["parameter", "predicted", "measured", "before"]
    )


def concentration_by_dimension(sides: NDArray[np.int64] | None = None, *, sparsity: int = 2, seed: int = 0) -> pd.DataFrame:
    """The same against the number of dimensions; the bound grows with its logarithm.

    Parameters
    ----------
    sides : (m,) array, optional
        d; by default 8, 16, ... 1024.
    sparsity, seed : int
        k and seed.

    Returns
    -------
    pandas.DataFrame
        Columns parameter, predicted (the bound), measured and before.
    """
    sides = 2 ** np.arange(3, 11) if sides is None else sides
    rows = [(float(d), *_spread(int(d), sparsity, seed)) for d in sides]
    return pd.DataFrame(rows, columns=["parameter", "predicted", "measured", "before"])


def _spread(d: int, sparsity: int, seed: int, *, classes: int = 4, n: int = 4000) -> tuple[float, float, float]:
    """Bound, and measured E ||Phi(x_c) - mu_c||^2 and E ||x_c - mu_c||^2, averaged over classes; F = Id."""
    mixture = sparse_mixture(K=classes, d=d, sparsity=sparsity, radius=6.0, seed=seed)
    x, y = mixture.sample(n, seed=seed)
    after = concentrated(x, np.eye(d), universal_threshold(1.0, d))
    bound = float(np.mean([spread_bound(mean, 1.0) for mean in mixture.means]))
    spreads = [float(np.square(z - mixture.means[y]).sum(axis=1).mean()) for z in (after, x)]
    return bound, spreads[0], spreads[1]

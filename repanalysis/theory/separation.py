r"""A rectifier in a sign-invariant tight frame separates class means and does not reduce the Fisher ratio.

With F = 2^{-1/2} [G; -G], G^T G = Id, and rho_r(u) = max(u, 0), the map Phi(x) = rho_r(F x) has a linear inverse,
2 F^T Phi(x) = x. Therefore the Fisher ratio of Phi(x) is never below that of x, for any classes (P1), and means separate by

    ||E Phi(x_c) - E Phi(x_c')||^2 = 1/4 ||mu_c - mu_c'||^2 + 1/4 || E|G x_c| - E|G x_c'| ||^2.

The second term separates classes whose means coincide, by the sparsity of their coefficients: zero-mean Gaussians with
standard deviations s_1, s_2 in each of d orthonormal coordinates, whose Fisher ratio is 0, get (P2)

    Tr(Sigma_W^-1 Sigma_B) = d (s_1 - s_2)^2 / ((pi - 2) (s_1^2 + s_2^2)).

Derivations: docs/separation.md, Separation by a rectifier.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.special import erf

from repanalysis.metrics import get
from repanalysis.statistics import ClassMoments
from repanalysis.theory.frames import random_tight_frame, sign_invariant
from repanalysis.theory.mixtures import Mixture, sparse_mixture

__all__ = [
    "fisher_by_redundancy",
    "mean_absolute",
    "mean_separation",
    "rectified",
    "rectified_fisher",
    "separation_by_contrast",
    "separation_by_redundancy",
]


def rectified(x: Float64[np.ndarray, "n d"], frame: Float64[np.ndarray, "p d"]) -> Float64[np.ndarray, "n 2p"]:
    """Phi(x) = rho_r(F x) with F = 2^{-1/2} [G; -G]; `frame` is G.

    Examples
    --------
    >>> np.round(rectified(np.array([[3.0, -4.0]]), np.eye(2)) * 2**0.5, 12).tolist()
    [[3.0, 0.0, 0.0, 4.0]]
    """
    return np.asarray(np.maximum(x @ sign_invariant(frame).T, 0.0))


def mean_absolute(mean: NDArray[np.float64], deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """E|u| of u ~ N(m, s^2): s sqrt(2/pi) exp(-m^2 / 2 s^2) + m erf(m / (s sqrt 2)).

    Examples
    --------
    >>> round(float(mean_absolute(np.array(0.0), np.array(1.0))), 6)
    0.797885
    """
    z = mean / deviation
    return np.asarray(deviation * np.sqrt(2 / np.pi) * np.exp(-np.square(z) / 2) + mean * erf(z / np.sqrt(2)))


def mean_separation(mixture: Mixture, frame: Float64[np.ndarray, "p d"]) -> float:
    """Mean over pairs of classes of ||E Phi(x_c) - E Phi(x_c')||^2, in closed form.

    Parameters
    ----------
    mixture : Mixture
        Gaussian classes.
    frame : (p, d) array
        G.

    Returns
    -------
    float
        0 or more: the limit of `class_mean_separation` of Phi(x) for many samples.
    """
    means = mixture.means @ frame.T
    deviations = np.sqrt(np.square(mixture.deviations) @ np.square(frame.T))
    absolute = mean_absolute(means, deviations)
    return float((_pairs(mixture.means) + _pairs(absolute)) / 4)


def _pairs(points: NDArray[np.float64]) -> float:
    """Mean squared distance of two of K points: 2 K / (K - 1) times their variance."""
    k = len(points)
    return float(2.0 / (k - 1) * np.square(points - points.mean(axis=0)).sum())


def rectified_fisher(s1: float, s2: float, d: int = 1) -> float:
    """Tr(Sigma_W^-1 Sigma_B) of rectified N(0, s_1^2 Id) and N(0, s_2^2 Id) with G = Id; at most d / (pi - 2).

    Examples
    --------
    >>> round(rectified_fisher(1.0, 3.0, d=5), 4), round(rectified_fisher(1e-9, 1.0), 5)
    (1.7519, 0.87597)
    """
    return float(d * (s1 - s2) ** 2 / ((np.pi - 2) * (s1**2 + s2**2)))


def separation_by_contrast(
    contrasts: NDArray[np.float64] | None = None, *, d: int = 8, n: int = 40_000, seed: int = 0
) -> pd.DataFrame:
    """Fisher ratio of two zero-mean Gaussians before and after the rectifier, against the ratio of their deviations.

    Parameters
    ----------
    contrasts : (m,) array, optional
        s_2 / s_1; by default 1 to 8.
    d, n, seed : int
        Dimensions, samples and seed.

    Returns
    -------
    pandas.DataFrame
        Columns parameter, predicted, measured (of Phi(x)) and before (of x): Tr(Sigma_W^-1 Sigma_B), without 1/K.
    """
    fisher = get("fisher_ratio")
    rows = []
    for contrast in np.linspace(1, 8, 8) if contrasts is None else contrasts:
        mixture = Mixture(np.zeros((2, d)), np.stack([np.ones(d), np.full(d, contrast)]))
        x, y = mixture.sample(n, seed=seed)
        before = fisher(ClassMoments().of(x, y))["trace"]
        measured = fisher(ClassMoments().of(rectified(x, np.eye(d)), y))["trace"]
        rows.append((float(contrast), rectified_fisher(1.0, float(contrast), d), float(measured), float(before)))
    return pd.DataFrame(rows, columns=["parameter", "predicted", "measured", "before"])


def fisher_by_redundancy(
    factors: NDArray[np.int64] | None = None, *, d: int = 8, n: int = 20_000, seed: int = 0
) -> pd.DataFrame:
    """Fisher ratio after the rectifier against the redundancy p / d, for classes that are not Gaussian (P1).

    Parameters
    ----------
    factors : (m,) array, optional
        p / d; by default 1 to 8.
    d, n, seed : int
        Dimensions, samples and seed.

    Returns
    -------
    pandas.DataFrame
        Columns parameter, predicted (the lower bound: the Fisher trace of x itself, of the same samples) and measured (of
        Phi(x)). Coefficients of four classes are exponential, with scales and offsets that depend on the class.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 4
    x = (rng.exponential(size=(n, d)) - 1) * rng.uniform(0.5, 2.0, size=(4, d))[y] + rng.normal(size=(4, d), scale=0.3)[y]
    fisher = get("fisher_ratio")
    bound = float(fisher(ClassMoments().of(x, y))["trace"])
    rows = []
    for factor in np.arange(1, 9) if factors is None else factors:
        after = rectified(x, random_tight_frame(int(factor) * d, d, seed=seed))
        rows.append((float(factor), bound, float(fisher(ClassMoments().of(after, y))["trace"])))
    return pd.DataFrame(rows, columns=["parameter", "predicted", "measured"])


def separation_by_redundancy(
    factors: NDArray[np.int64] | None = None, *, d: int = 16, n: int = 40_000, seed: int = 0
) -> pd.DataFrame:
    """Class-mean separation after the rectifier against the redundancy p / d of a random tight frame.

    Parameters
    ----------
    factors : (m,) array, optional
        p / d; by default 1 to 8.
    d, n, seed : int
        Dimensions, samples and seed.

    Returns
    -------
    pandas.DataFrame
        Columns parameter, predicted, measured (of Phi(x), debiased) and before (of x): mean squared distance of class means.
        The mixture has close means and deviations that depend on the class.
    """
    separation = get("class_mean_separation")
    mixture = sparse_mixture(K=4, d=d, sparsity=2, radius=0.2, contrast=4.0, seed=seed)
    x, y = mixture.sample(n, seed=seed)
    before = float(separation(ClassMoments().of(x, y))["debiased"])
    rows = []
    for factor in np.arange(1, 9) if factors is None else factors:
        frame = random_tight_frame(int(factor) * d, d, seed=seed)
        measured = separation(ClassMoments().of(rectified(x, frame), y))["debiased"]
        rows.append((float(factor), mean_separation(mixture, frame), float(measured), before))
    return pd.DataFrame(rows, columns=["parameter", "predicted", "measured", "before"])

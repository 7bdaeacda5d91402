"""f(S) = 1/2 log det(I + b S): rate in nats of a zero-mean Gaussian with second moment S at distortion d / b.

With b = d / eps^2 this is the coding rate of d features (Yu et al. 2020; docs/rate_reduction.md).
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray
from scipy.linalg import eigvalsh, lapack, solve_triangular

from repanalysis._checks import one_of, positive
from repanalysis.metrics._bias import bias_note, notes_enabled
from repanalysis.statistics import ClassGeometry, ClassMoments

__all__ = ["Normalization", "Rates", "chance_note", "half_logdet", "moments_needed", "rates"]

Normalization = Literal["frobenius", "sphere"]

_TINY = 1e-3  # rates below this come from eigenvalues: the Cholesky log det of a matrix near I has an error near d eps
_CANCELLED = 1e-6  # rate reductions below this share of the rate come from the divergences, which do not cancel


def moments_needed(*, eps_sq: float = 0.5, normalization: Normalization = "frobenius") -> ClassMoments:
    """The statistic that a normalisation needs: "sphere" normalises rows before they are summed.

    Checks the parameters too, so that errors come before the pass over the data.
    """
    positive("eps_sq", eps_sq)
    one_of("normalization", normalization, ("frobenius", "sphere"))
    return ClassMoments(normalize="sphere" if normalization == "sphere" else "none")


class Rates(NamedTuple):
    """Coding rates of one labelled representation, in nats per sample.

    Attributes
    ----------
    whole : float
        R = f(sum_k g_k S_k).
    classes : float
        R_c = sum_k g_k f(S_k).
    reduction : float
        R - R_c, never negative.
    note : str
        A caveat, such as classes whose samples are all 0.
    chance : float
        Expected reduction under random labels: the finite-sample bias if all classes have the same distribution.
    """

    whole: float
    classes: float
    reduction: float
    note: str
    chance: float


class _Latest(threading.local):
    """The latest rates computed by a thread."""

    cached: tuple[weakref.ref[Any], tuple[object, ...], Rates] | None = None


_latest = _Latest()


def rates(moments: ClassGeometry, eps_sq: float, normalization: Normalization) -> Rates:
    """Coding rates of a state. The latest are cached, since four metrics use the same rates.

    Parameters
    ----------
    moments : ClassGeometry
        K classes of d features, of rows on the sphere if `normalization` is "sphere".
    eps_sq : float
        Squared distortion eps^2, above 0.
    normalization : {"frobenius", "sphere"}
        How every class's second moment S_k gets trace 1: "frobenius" scales each Z_k to ||Z_k||_F^2 = n_k, "sphere" every
        row to norm 1, in the statistic.
    """
    one_of("normalization", normalization, ("frobenius", "sphere"))
    b = moments.d / positive("eps_sq", eps_sq)
    key = (normalization, b, moments.counts.tobytes(), moments.scatter_trace.tobytes())
    if _latest.cached and _latest.cached[0]() is moments.mean and _latest.cached[1] == key:
        return _latest.cached[2]
    values = _rates(moments.isometric(), b, normalization)
    _latest.cached = (weakref.ref(moments.mean), key, values)
    return values


def _rates(moments: ClassGeometry, b: float, normalization: Normalization) -> Rates:
    classes = [int(k) for k in np.flatnonzero(moments.counts)]
    shares = moments.counts / max(1, moments.n)
    traces = moments.scatter_trace + moments.counts * np.square(moments.mean).sum(axis=1)
    factors = 1.0 / np.where(traces > 0, traces if normalization == "frobenius" else moments.counts, 1.0)
    classwise = sum(shares[k] * half_logdet(moments.second_of(k, factors[k]), b) for k in classes)
    whole = moments.second(shares * factors)
    rate = half_logdet(whole, b)
    reduction = rate - classwise if len(classes) > 1 else 0.0
    if len(classes) > 1 and reduction < _CANCELLED * rate:
        alone = np.eye(len(factors)) * factors
        reduction = sum(shares[k] * _divergence(moments.second(alone[k]), whole, b) for k in classes)
        classwise = rate - reduction
    empty = [str(moments.classes[k]) for k in classes if not traces[k] > 0]
    note = f"all samples of class {', '.join(empty)} are 0" if empty else ""
    chance = _chance(whole, b, shares[classes], moments.counts[classes]) if notes_enabled() else 0.0
    return Rates(rate, classwise, reduction, note, chance)


def _chance(whole: NDArray[np.float64], b: float, shares: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    r"""Rate reduction of classes that are random draws of n_k of the n samples, to second order in S_k - S.

    1/4 sum_k g_k (1/n_k - 1/n) [(\sum_j m_j)^2 + \sum_j m_j^2],   m_j = b l_j / (1 + b l_j),   l_j the eigenvalues of S,

    for Gaussian samples. Correct to 10 % if every n_k is above sum_j m_j, and 16 % too large if n_k is half of that.
    """
    inverse, _ = lapack.dpotri(_factor(whole, b), overwrite_c=1)  # (I + b S)^-1, upper triangle
    diagonal = np.diag(inverse)
    total = len(diagonal) - float(diagonal.sum())
    squares = len(diagonal) - 2.0 * float(diagonal.sum()) + 2.0 * float(np.square(np.triu(inverse, 1)).sum())
    squares += float(np.square(diagonal).sum())
    return float(shares @ (1.0 / counts - shares / counts)) / 4.0 * (total**2 + squares)


def chance_note(values: Rates, n: int) -> str:
    """The note of a rate reduction; it reports the expected value under random labels if that is more than a tenth of it."""
    chance = bias_note(values.chance, values.reduction, n, "the null shows how much (null=20, --null 20)")
    return "; ".join(filter(None, [values.note, chance]))


def half_logdet(second: Float64[np.ndarray, "d d"], b: float) -> float:
    """1/2 log det(I + b S) of a symmetric positive semi-definite S.

    Parameters
    ----------
    second : (d, d) array
        S; its lower triangle is read.
    b : float
        Inverse distortion per feature.

    Returns
    -------
    float
        In nats, 0 or more.

    Examples
    --------
    >>> round(half_logdet(np.eye(2) / 2, 20.0), 6)
    2.397895
    """
    rate = float(np.log(np.diag(_factor(second, b))).sum())
    if rate < _TINY:
        rate = float(np.log1p(b * np.maximum(eigvalsh(second, check_finite=False), 0.0)).sum() / 2)
    return rate


def _factor(second: NDArray[np.float64], b: float) -> NDArray[np.float64]:
    """Upper Cholesky factor of I + b S, column-major as LAPACK expects."""
    shifted = (b * second).T
    shifted[np.diag_indices_from(shifted)] += 1.0
    factor, failed = lapack.dpotrf(shifted, overwrite_a=1, clean=0)
    if failed:
        raise FloatingPointError("I + b S is not positive definite; the second moment holds NaN or inf.")
    upper: NDArray[np.float64] = factor
    return upper


def _divergence(second: NDArray[np.float64], whole: NDArray[np.float64], b: float) -> float:
    """KL(N(0, I + b S_k) || N(0, I + b S)), as a sum of nonnegative terms over eigenvalues."""
    factor = _factor(whole, b)
    excess = b * (second - whole)
    excess = np.tril(excess) + np.tril(excess, -1).T
    half = solve_triangular(factor, excess, trans=1, check_finite=False)
    whitened = solve_triangular(factor, half.T, trans=1, check_finite=False)
    shifts = np.maximum(eigvalsh(whitened, check_finite=False), -1.0 + 1e-15)
    return float((shifts - np.log1p(shifts)).sum()) / 2

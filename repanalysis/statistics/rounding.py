r"""Variance that rounding adds to a feature: directions with less variance are indistinguishable from constant ones.

Storing x in a dtype with machine epsilon eps and smallest step s adds at most (eps^2 x^2 + s^2) / 12, the variance of a uniform
error; if a value is the mean of P stored numbers, eps^2 becomes eps^2 / P. A network's sums are rounded before they are stored,
in float32 or finer: matrix products of 32 to 2,048 terms had 5 to 4,500 times eps^2 x^2 / 12. The variance is therefore

    rounding_j = a E[x_j^2] + b,    a = 4 eps^2 / 12 P + (10 min(eps, 2^-23))^2,    b = 4 s^2 / 12,

where the factor 4 is a margin (float16 and bfloat16 products have 0.54 eps^2 E[x^2] / 12). Errors of different features are
independent, so a unit vector v carries sum_j v_j^2 rounding_j, and the largest eigenvalue for n samples of d such features
is (1 + sqrt(d / n))^2 times that (V. Marchenko, L. Pastur, "Distribution of eigenvalues for some sets of random
matrices", Math. USSR Sbornik 1, 1967).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

__all__ = ["EXACT", "largest_eigenvalue", "resolution_of"]

_MARGIN = 4.0
_SUMS = 100.0  # squared rounding error of a network's sums, in units of the last digit
_FLOAT32 = 2.0**-23
_UNKNOWN_TO_NUMPY = {"bfloat16": (2.0**-7, 2.0**-133), "float8_e4m3fn": (2.0**-3, 2.0**-9), "float8_e5m2": (2.0**-2, 2.0**-16)}


def resolution_of(dtype: Any, averaged: float = 1.0) -> Float64[np.ndarray, 2]:
    """Coefficients (a, b) of the rounding variance a E[x^2] + b of a dtype.

    Parameters
    ----------
    dtype : dtype or str
        Type in which values were computed or stored, also `"bfloat16"`. Types other than floating point count as float64.
    averaged : float, default 1
        P, the number of stored values that each value is the mean of.

    Examples
    --------
    >>> float(resolution_of("float16")[0]) > 1000 * float(resolution_of("float32")[0])
    True
    """
    name = np.dtype(dtype).name if isinstance(dtype, type) else str(dtype).removeprefix("torch.")
    eps, step = _UNKNOWN_TO_NUMPY.get(name, (0.0, 0.0))
    if not eps:
        try:
            info = np.finfo(name)
        except (TypeError, ValueError):
            info = np.finfo(np.float64)
        eps, step = float(info.eps), float(info.smallest_subnormal)
    share = _MARGIN * eps**2 / (12.0 * max(averaged, 1.0)) + _SUMS * min(eps, _FLOAT32) ** 2
    return np.array([share, _MARGIN * step**2 / 12.0])


EXACT: NDArray[np.float64] = resolution_of(np.float64)


def largest_eigenvalue(n: int, d: int) -> float:
    """Largest eigenvalue of the covariance of n samples of d independent features of variance 1, asymptotically in n and d.

    Examples
    --------
    >>> largest_eigenvalue(100, 100)
    4.0
    """
    return (1.0 + math.sqrt(d / max(n, 1))) ** 2

r"""The standard error of a proportion of n samples, such as an accuracy. It is never 0.

    p~ = (s + z^2/2) / (n + z^2),      se^2 = p~ (1 - p~) / n,      z = 1.96

for s successes of n, after Agresti and Coull (1998). p~ is the centre of Wilson's 95 % interval. The usual p (1 - p) / n is 0
if all n samples are right, and then covers nothing. This one covers at least 90 % at any p from n = 20 on, and converges to the
usual one as n grows. (Divided by n + z^2, the variance for intervals around p~, it would cover 87 % around s / n at n = 20.)
"""

from __future__ import annotations

import math

__all__ = ["share_error"]

_Z2 = 1.959963984540054**2


def share_error(share: float, n: int) -> float:
    """Standard error of a proportion of n independent samples.

    Parameters
    ----------
    share : float
        In [0, 1].
    n : int
        Samples; at least 1.

    References
    ----------
    A. Agresti, B. Coull, "Approximate is better than 'exact' for interval estimation of binomial proportions", The American
    Statistician 52, 1998.

    Examples
    --------
    >>> round(share_error(1.0, 500), 5), round(share_error(0.5, 500), 5), round((0.25 / 500) ** 0.5, 5)
    (0.00276, 0.02236, 0.02236)
    """
    centre = (share * n + _Z2 / 2) / (n + _Z2)
    return math.sqrt(centre * (1.0 - centre) / n)

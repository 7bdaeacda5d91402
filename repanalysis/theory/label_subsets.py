r"""Error against the number of labels: exact, for a fixed head restricted to k of its K labels.

With r(x) the number of competitors whose logit strictly beats the true one's among all K, a sample is classified correctly in a
random subset of k labels with the true one if none of the r competitors is in it:

    eps(k) = 1 - mean_x C(K - 1 - r, k - 1) / C(K - 1, k - 1),      eps(2) = mean(r) / (K - 1),      eps(k) <= (k - 1) eps(2)

It rises with k and is concave (docs/filter_clusters.md, Formulas). Networks that are trained for every K
are reported to have an error about linear in K; `linear_fit` measures the linearity of a curve.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64
from scipy.special import gammaln

from probes.errors import DataError, UsageError

__all__ = ["LinearFit", "beaten_by", "error_by_labels", "linear_fit", "power_law"]


def beaten_by(logits: Float[np.ndarray, "n K"], labels: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Number of labels whose logit is strictly above that of the true label, per sample.

    Examples
    --------
    >>> beaten_by(np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]]), np.array([0, 1])).tolist()
    [0, 2]
    """
    own = logits[np.arange(len(labels)), labels]
    return np.asarray((logits > own[:, None]).sum(1), np.int64)


def error_by_labels(beaten: Int64[np.ndarray, " n"], classes: int, sizes: Int64[np.ndarray, " m"]) -> pd.DataFrame:
    """Mean error over all subsets of k labels, in closed form.

    Parameters
    ----------
    beaten : (n,) int64
        As `beaten_by` returns it.
    classes : int
        K.
    sizes : (m,) int64
        k, from 2 to K.

    Returns
    -------
    pandas.DataFrame
        Columns labels, error, se (over samples) and bound, (k - 1) eps(2).

    Raises
    ------
    UsageError, DataError
        If a size is not in 2 to K, or there are no samples.

    Examples
    --------
    >>> error_by_labels(np.array([0, 1, 3]), 4, np.array([2, 4]))["error"].round(4).tolist()
    [0.4444, 0.6667]
    """
    if not len(beaten):
        raise DataError("There are no samples to take the error of.")
    if sizes.min() < 2 or sizes.max() > classes:
        invalid = int(sizes.max() if sizes.max() > classes else sizes.min())
        raise UsageError(f"There are no subsets of {invalid} labels to compare; sizes go from 2 to {classes}.")
    pair = float(beaten.mean()) / (classes - 1)
    rows = []
    for k in sizes:
        rest = classes - 1 - beaten
        right = np.where(rest >= k - 1, np.exp(_log_choose(rest, k - 1) - _log_choose(np.array(classes - 1), k - 1)), 0.0)
        se = float(right.std() / np.sqrt(len(right)))
        rows.append({"labels": int(k), "error": 1 - float(right.mean()), "se": se, "bound": (int(k) - 1) * pair})
    return pd.DataFrame(rows)


def _log_choose(n: np.ndarray, k: int) -> np.ndarray:
    """Ln C(n, k) for n >= k."""
    safe = np.maximum(n, k)
    return np.asarray(gammaln(safe + 1.0) - gammaln(k + 1.0) - gammaln(safe - k + 1.0))


class LinearFit(NamedTuple):
    """Least squares y = slope x + offset, the share of the variance that it explains, and the slope's standard error."""

    slope: float
    offset: float
    r_squared: float
    slope_se: float


def linear_fit(x: Float[np.ndarray, " m"], y: Float[np.ndarray, " m"]) -> LinearFit:
    """Least squares fit of a line; the standard error is that of the residuals.

    Raises
    ------
    DataError
        If there are fewer than three points, or all have the same x.

    Examples
    --------
    >>> linear_fit(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 5.0]))
    LinearFit(slope=2.0, offset=-1.0, r_squared=1.0, slope_se=0.0)
    """
    if len(x) < 3 or len(set(x.tolist())) < 2:
        raise DataError(f"A line through {len(x)} points says nothing of how linear they are; three are the least.")
    slope, offset = np.polyfit(x, y, 1)
    spread = float(np.square(y - y.mean()).sum())
    rest = float(np.square(y - slope * x - offset).sum())
    error = (rest / (len(x) - 2) / np.square(x - x.mean()).sum()) ** 0.5
    return LinearFit(*(round(float(number), 14) for number in (slope, offset, 1 - rest / spread if spread else 1.0, error)))


def power_law(x: Float[np.ndarray, " m"], y: Float[np.ndarray, " m"]) -> LinearFit:
    """Y = C x^slope by least squares of logarithms; points with y = 0 are skipped. `offset` is ln C.

    Examples
    --------
    >>> power_law(np.array([1.0, 2.0, 4.0, 8.0]), np.array([8.0, 2.0, 0.5, 0.0])).slope
    -2.0
    """
    mask = (x > 0) & (y > 0)
    return linear_fit(np.log(x[mask]), np.log(y[mask]))

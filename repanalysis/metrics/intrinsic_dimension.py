"""intrinsic_dimension from the distances to nearest neighbours  (Facco et al. 2017; Levina and Bickel 2005)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repanalysis.metrics._neighbours import neighbours
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics import Samples, SampleSet
from repanalysis.statistics.draws import JACKKNIFE_SEED, hashed

_PARTS, _PER_NEIGHBOUR, _DEGREES = 10, 10, 36  # disjoint parts, samples in each, degrees of freedom of the error
_DISCARDED = 0.1  # share of the largest ratios that TwoNN leaves out, as its authors do


def _needed(*, max_samples: int = 5000, method: str = "twonn", k: int = 20) -> Samples:  # noqa: ARG001
    return Samples(limit=max_samples)


@metric(needs=_needed, min_classes=0, invariant={"translation", "rotation", "scaling"})
def intrinsic_dimension(
    samples: SampleSet,
    *,
    method: Literal["twonn", "mle"] = "twonn",
    k: int = 20,
    max_samples: int = 5000,  # noqa: ARG001  # read by `needs`
) -> Value:
    r"""Dimension of the manifold that samples lie on, from the growth of distances to neighbours.

    .. math:: -\log(1 - F(\mu)) = d \log \mu, \qquad \mu_i = r_2(i) / r_1(i)
              \qquad\text{or}\qquad
              \hat d^{-1} = \frac1n \sum_i \frac{1}{k-1} \sum_{j<k} \log \frac{r_k(i)}{r_j(i)}

    Parameters
    ----------
    samples : SampleSet
        Samples; their classes are not used.
    method : {"twonn", "mle"}, default "twonn"
        "twonn" fits a line through the origin to the empirical distribution F of the ratio of the distances to the second
        and to the first neighbour, without the largest tenth. "mle" is Levina and Bickel's estimate from k neighbours, with
        the inverse averaged as MacKay and Ghahramani propose.
    k : int, default 20
        Neighbours of "mle".
    max_samples : int, default 5000
        Maximal number of samples, drawn by id; 0 uses all.

    Returns
    -------
    float
        In (0, inf); large: samples vary in many directions at the scale of their nearest neighbours.

    Notes
    -----
    Of duplicates one sample is kept; a note counts the others. Both methods underestimate dimensions above about 20 at this
    number of samples, and depend on the scale, that is on n. Standard error:
    from the spread of the estimates of ten disjoint parts with neighbours of their own, four times over, for neighbours share
    their distances: a bootstrap over samples gave 0.8 to 0.9 of it. Parts have at least ten samples for every neighbour; fewer
    than two such parts give no error. Time n^2 d, memory n d.

    References
    ----------
    E. Facco et al., "Estimating the intrinsic dimension of datasets by a minimal neighborhood information", Scientific
    Reports 7, 2017. E. Levina, P. Bickel, "Maximum likelihood estimation of intrinsic dimension", NIPS 2004.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).uniform(size=(4000, 2)) @ np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 3.0]])
    >>> round(intrinsic_dimension(Samples().of(x, np.zeros(4000, int))), 1)
    2.0
    """
    x = samples.x.astype(np.float64)
    unique = _different(x)
    same = samples.n - len(unique)
    note = "; ".join(filter(None, [samples.note, f"{same} duplicates are left out" if same else ""]))
    needed = 2 if method == "twonn" else k
    if needed < 2:
        return Value(math.nan, "the estimate needs k of at least 2")
    if len(unique) < max(needed + 1, 5):
        return Value(math.nan, f"{len(unique)} different samples are too few")
    distances = neighbours(x[unique], needed)[0]
    logs = _logs(distances, method)
    if len(logs) < 5:
        return Value(math.nan, "samples lie at distance 0 of each other, up to rounding")
    value = (_twonn if method == "twonn" else _inverse_mean)(logs)
    if not math.isfinite(value):
        return Value(math.nan, "all samples have neighbours at one distance, as points of a lattice have")
    return Value(value, note, se=value * _relative_error(x[unique], samples.ids[unique], method, needed))


def _logs(distances: NDArray[np.float64], method: str) -> NDArray[np.float64]:
    """Log distance ratios per sample, without samples at distance 0 of another."""
    distances = distances[distances[:, 0] > 0]
    if method == "twonn":
        return np.asarray(np.log(distances[:, 1] / distances[:, 0]))
    return np.asarray(np.log(distances[:, -1:] / distances[:, :-1]).mean(axis=1))


def _relative_error(x: NDArray[np.float64], ids: NDArray[np.int64], method: str, needed: int) -> float:
    """Standard error over the value: from the spread of estimates of disjoint parts, each with its own neighbours."""
    estimate = _twonn if method == "twonn" else _inverse_mean
    count = min(_PARTS, len(x) // (_PER_NEIGHBOUR * needed))
    if count < 2:
        return math.nan
    variances = []
    for cut in range(-(-_DEGREES // (count - 1))):
        part = (hashed(ids, JACKKNIFE_SEED + 2**32 * (cut + 1)) % np.uint64(count)).astype(np.int64)
        values = [estimate(_logs(neighbours(x[part == each], needed)[0], method)) for each in range(count)]
        variances.append(np.var(values, ddof=1) / np.mean(values) ** 2 / count)
    return math.sqrt(float(np.mean(variances)))


def _different(x: NDArray[np.float64]) -> NDArray[np.int64]:
    """Positions of the first of all equal rows, ascending; compared as bytes, far faster than by `np.unique(axis=0)`."""
    rows = np.ascontiguousarray(x + 0.0)  # -0.0 and 0.0 are equal
    seen: dict[bytes, int] = {}
    for position, row in enumerate(rows):
        seen.setdefault(row.tobytes(), position)
    return np.fromiter(seen.values(), np.int64, len(seen))


def _twonn(logs: NDArray[np.float64]) -> float:
    """Slope of the line through the origin: -log(1 - i/n) against the i-th smallest log ratio."""
    n = len(logs)
    smallest = np.sort(logs)[: math.floor(n * (1.0 - _DISCARDED))]
    heights = -np.log1p(-np.arange(1, len(smallest) + 1) / n)
    energy = float(smallest @ smallest)
    return float(smallest @ heights) / energy if energy > 0 else math.inf


def _inverse_mean(logs: NDArray[np.float64]) -> float:
    mean = float(logs.mean())
    return 1.0 / mean if mean > 0 else math.inf

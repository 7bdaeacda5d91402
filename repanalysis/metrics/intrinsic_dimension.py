"""intrinsic_dimension from the distances to nearest neighbours  (Facco et al. 2017; Levina and Bickel 2005)."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from repanalysis.metrics._neighbours import neighbours
from repanalysis.metrics._registry import Noted, metric
from repanalysis.statistics import Samples, SampleSet

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
) -> Noted:
    r"""Dimension of the manifold that samples lie on, from how distances to neighbours grow.

    .. math:: -\log(1 - F(\mu)) = d \log \mu, \qquad \mu_i = r_2(i) / r_1(i)
              \qquad\text{or}\qquad
              \hat d^{-1} = \frac1n \sum_i \frac{1}{k-1} \sum_{j<k} \log \frac{r_k(i)}{r_j(i)}

    Parameters
    ----------
    samples : SampleSet
        Samples; their classes are not looked at.
    method : {"twonn", "mle"}, default "twonn"
        "twonn" fits a line through the origin to the empirical distribution F of the ratio of the distances to the second
        and to the first neighbour, without the largest tenth. "mle" is Levina and Bickel's estimate from k neighbours, with
        the inverse averaged as MacKay and Ghahramani say.
    k : int, default 20
        Neighbours of "mle".
    max_samples : int, default 5000
        Samples to look at, drawn by id; 0 for all.

    Returns
    -------
    float
        In (0, inf); large: samples vary in many directions at the scale of their nearest neighbours.

    Notes
    -----
    Samples at distance 0 of another are left out, but for one of each, and counted in a note. Both estimate too little
    in more than about 20 dimensions at this number of samples, and depend on the scale, that is on n. Standard error:
    bootstrap over the samples' own ratios (200 draws, fixed seed), which takes neighbourhoods as given. Time n^2 d,
    memory n d.

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
        return Noted(math.nan, "the estimate needs k of at least 2")
    if len(unique) < max(needed + 1, 5):
        return Noted(math.nan, f"{len(unique)} different samples are too few")
    distances = neighbours(x[unique], needed)[0]
    there = distances[:, 0] > 0
    if there.sum() < 5:
        return Noted(math.nan, "samples lie at distance 0 of each other, up to rounding")
    distances = distances[there]
    if method == "twonn":
        logs = np.log(distances[:, 1] / distances[:, 0])
        estimate = _twonn
    else:
        logs = np.log(distances[:, -1:] / distances[:, :-1]).mean(axis=1)
        estimate = _inverse_mean
    value = estimate(logs)
    if not math.isfinite(value):
        return Noted(math.nan, "all samples have neighbours at one distance, as points of a lattice have")
    rng = np.random.default_rng(0)
    draws = [estimate(logs[rng.integers(0, len(logs), len(logs))]) for _ in range(200)]
    return Noted(value, note, se=float(np.std(draws, ddof=1)))


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
    kept = np.sort(logs)[: math.floor(n * (1.0 - _DISCARDED))]
    heights = -np.log1p(-np.arange(1, len(kept) + 1) / n)
    energy = float(kept @ kept)
    return float(kept @ heights) / energy if energy > 0 else math.inf


def _inverse_mean(logs: NDArray[np.float64]) -> float:
    mean = float(logs.mean())
    return 1.0 / mean if mean > 0 else math.inf

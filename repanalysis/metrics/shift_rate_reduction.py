"""shift_rate_reduction: the rate reduction of all circular shifts of maps (docs/redunet.md)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from repanalysis._checks import positive
from repanalysis.metrics._registry import Value, metric
from repanalysis.statistics.shifts import ShiftMoments, SpectralMoments

_CANCELLED = 1e-6  # reductions below this share of the rate are sums of divergences


def _needed(*, eps_sq: float = 0.5, shape: tuple[int, ...] | None = ()) -> ShiftMoments:
    positive("eps_sq", eps_sq)
    return ShiftMoments(shape)


@metric(needs=_needed, min_classes=2, invariant={"scaling", "sign"}, structure={"": "up"})
def shift_rate_reduction(
    moments: SpectralMoments,
    *,
    eps_sq: float = 0.5,
    shape: tuple[int, ...] | None = (),  # noqa: ARG001  # read by `needs`
) -> Mapping[str, Value]:
    r"""Rate reduction of all circular shifts of maps, per shift.

    .. math:: \Delta R = R - R_c,\quad R = \frac{1}{2T}\sum_p \log\det\bigl(I + \tfrac{b}{n} V(p) V(p)^*\bigr),\quad
              R_c = \sum_k \frac{n_k}{2nT} \sum_p \log\det\bigl(I + \tfrac{b}{n_k} V_k(p) V_k(p)^*\bigr),\quad
              b = C/\varepsilon^2

    with the DFT V(p), (C, n), of maps of C channels and T positions, each map scaled to norm 1. T Delta R is the rate reduction
    of the n T shifted maps.

    Parameters
    ----------
    moments : SpectralMoments
        Of maps, recorded without pooling (`--pool none`).
    eps_sq : float, default 0.5
        Squared distortion eps^2. A ReduNet's record is at its effective eps^2.
    shape : tuple of int, optional
        (C, *size) of the maps; `analyze` takes it from the layer. () if the features have no positions: C = d, T = 1.

    Returns
    -------
    dict of str to float
        `""`: Delta R in nats, 0 or more; `"whole"`: R; `"classes"`: R_c. NaN if the layer was pooled.

    Raises
    ------
    UsageError
        If `eps_sq` is not above 0.

    Notes
    -----
    Does not change if each map is shifted circularly by itself. Maps of size 1, and vectors, have the values of
    `rate_reduction` with `normalization="sphere"`. Time n T C^2 + K T C^3 / 3, memory K T C^2 complex numbers.

    References
    ----------
    K. H. R. Chan et al., "ReduNet: A white-box deep network from the principle of maximizing rate reduction", JMLR 23, 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from repanalysis.statistics.shifts import ShiftMoments
    >>> state = ShiftMoments().of(np.eye(2), np.array([0, 1]))
    >>> round(shift_rate_reduction(state, eps_sq=0.1)[""], 6)
    0.875634
    """
    b = moments.moments.shape[-1] / positive("eps_sq", eps_sq)
    present = moments.counts > 0
    counts, n = moments.counts[present], int(moments.counts.sum())
    if not moments.points or len(counts) < 2:
        unknown = "needs maps without pooling, channels first: --pool none, and --axes 'LAYER=BCT' where axes are not known"
        reason = "needs two classes" if moments.points else unknown
        return {name: Value(math.nan, reason) for name in ("", "whole", "classes")}
    factors = b * moments.points / moments.multiplicity[:, None, None]
    identity = np.eye(moments.moments.shape[-1])
    whole = identity + factors / n * moments.moments.sum(axis=0)
    parts = [identity + factors / count * part for count, part in zip(counts, moments.moments[present], strict=True)]
    rate, *rates = (_rate(matrix, moments.multiplicity) / moments.points for matrix in (whole, *parts))
    classwise = float(counts / n @ np.array(rates))
    reduction = rate - classwise
    if reduction < _CANCELLED * rate:
        reduction = sum(
            count / n * _divergence(part, whole, moments.multiplicity) for count, part in zip(counts, parts, strict=True)
        )
        reduction /= moments.points
    return {"": Value(reduction), "whole": Value(rate), "classes": Value(rate - reduction)}


def _rate(matrices: NDArray[np.complex128], multiplicity: NDArray[np.float64]) -> float:
    """Sum over frequencies of 1/2 log det."""
    diagonals = np.diagonal(np.linalg.cholesky(matrices), axis1=1, axis2=2).real
    return float(np.log(diagonals).sum(axis=1) @ multiplicity)


def _divergence(part: NDArray[np.complex128], whole: NDArray[np.complex128], multiplicity: NDArray[np.float64]) -> float:
    """Sum over frequencies of KL(N(0, A_k) || N(0, A)), of nonnegative terms."""
    lower = np.linalg.cholesky(whole)
    half = np.linalg.solve(lower, part - whole)
    whitened = np.linalg.solve(lower, half.conj().transpose(0, 2, 1))
    shifts = np.maximum(np.linalg.eigvalsh(whitened), -1.0 + 1e-15)
    return float((shifts - np.log1p(shifts)).sum(axis=1) @ multiplicity) / 2

"""Tight frames of R^d: p vectors f_m, the rows of F, with F^T F = Id."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from probes.errors import UsageError

__all__ = ["random_tight_frame", "sign_invariant"]

_ROUNDS = 500
_EQUAL = 1e-13


def random_tight_frame(p: int, d: int, *, seed: int = 0) -> Float64[np.ndarray, "p d"]:
    """A random tight frame of p >= d vectors of equal norm sqrt(d / p).

    Alternates between the nearest tight frame (the polar factor) and the nearest rows of equal norm, from Gaussian rows.

    Raises
    ------
    UsageError
        If p < d: fewer vectors than dimensions are not a frame.

    References
    ----------
    J. A. Tropp, I. S. Dhillon, R. W. Heath, T. Strohmer, "Designing structured tight frames via an alternating projection
    method", IEEE Trans. Inf. Theory 51, 2005.

    Examples
    --------
    >>> frame = random_tight_frame(12, 5)
    >>> bool(np.allclose(frame.T @ frame, np.eye(5))), bool(np.allclose(np.linalg.norm(frame, axis=1), (5 / 12) ** 0.5))
    (True, True)
    """
    if p < d or d < 1:
        raise UsageError(f"{p} vectors are not a frame of R^{d}: at least {max(d, 1)} are needed.")
    frame = np.random.default_rng(seed).normal(size=(p, d))
    for _ in range(_ROUNDS):
        left, _, right = np.linalg.svd(frame, full_matrices=False)
        tight = left @ right
        norms = np.linalg.norm(tight, axis=1, keepdims=True)
        if np.abs(norms - (d / p) ** 0.5).max() < _EQUAL:
            break
        frame = tight / norms
    return np.asarray(tight)


def sign_invariant(frame: Float64[np.ndarray, "p d"]) -> Float64[np.ndarray, "2p d"]:
    """The tight frame 2^{-1/2} [F; -F], which contains -f with every f.

    Examples
    --------
    >>> f = sign_invariant(np.eye(2))
    >>> np.round(f.T @ f, 12).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return np.asarray(np.concatenate([frame, -frame]) / np.sqrt(2))

"""The published construction, plainly: samples as columns, dense memberships, explicit inverses, dense block circulants."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def operators(z: Array, y: NDArray[np.int64], b: float) -> tuple[Array, Array, Array, Array]:
    """E, C, gamma, and (R, R_c, R - R_c) of samples z (n, d); b = d / eps^2."""
    n, d = z.shape
    alpha = b / n
    inner = np.eye(d) + alpha * z.T @ z
    expansion = alpha * np.linalg.inv(inner)
    rate = np.linalg.slogdet(inner)[1] / 2
    compressions, shares, classwise = [], [], 0.0
    for k in np.unique(y):
        pi = np.diag((y == k).astype(float))
        alpha_k = b / pi.trace()
        inner = np.eye(d) + alpha_k * z.T @ pi @ z
        compressions.append(alpha_k * np.linalg.inv(inner))
        shares.append(pi.trace() / n)
        classwise += pi.trace() / (2 * n) * np.linalg.slogdet(inner)[1]
    return expansion, np.array(compressions), np.array(shares), np.array([rate, classwise, rate - classwise])


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def step(z: Array, expansion: Array, compressions: Array, shares: Array, *, eta: float, lam: float) -> Array:
    """One sample (d,) after a layer."""
    pi = softmax(-lam * np.array([np.linalg.norm(c @ z) for c in compressions]))
    gradient = expansion @ z - sum(g * p * (c @ z) for g, p, c in zip(shares, pi, compressions, strict=True))
    moved = z + eta * gradient
    return moved / np.linalg.norm(moved)


def shifts(z: Array) -> Array:
    """All circular shifts of samples (n, C, *size), flattened: (n T, C T)."""
    axes = tuple(range(2, z.ndim))
    size = z.shape[2:]
    moved = [np.roll(z, shift, axis=axes).reshape(len(z), -1) for shift in np.ndindex(*size)]
    return np.stack(moved, axis=1).reshape(-1, moved[0].shape[1])


def construct(x: Array, y: NDArray[np.int64], layers: int, *, eta: float, eps_sq: float, lam: float) -> tuple[Array, Array]:
    """Features after the last layer, and the rates (L + 1, 3), of vectors (n, d), or of signals with all their shifts."""
    z = x / np.linalg.norm(x.reshape(len(x), -1), axis=1).reshape(-1, *[1] * (x.ndim - 1))
    points = int(np.prod(x.shape[2:]))
    rates = []
    for layer in range(layers + 1):
        every = shifts(z)
        # Of n T samples with C T features, b / (n T) = C T / (n T eps^2); rates are divided by T.
        expansion, compressions, shares, values = operators(every, y.repeat(points), every.shape[1] / eps_sq)
        rates.append(values / points)
        if layer < layers:
            flat = z.reshape(len(z), -1)
            z = np.array([step(v, expansion, compressions, shares, eta=eta, lam=lam) for v in flat]).reshape(x.shape)
    return z, np.array(rates)

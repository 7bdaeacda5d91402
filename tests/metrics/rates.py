"""Data and oracles that the tests of the three coding rates share."""

from __future__ import annotations

import numpy as np

# (dimensions of the classes, samples per basis vector, d, eps^2) -> R, R_c, R - R_c of ideal orthogonal subspaces.
# Closed form: R = sum r_k/2 log(1 + g_k b/r_k), R_c = sum g_k r_k/2 log(1 + b/r_k), b = d/eps^2 (specification, 1.8).
CANONICAL = {
    "2 lines": (([1, 1], [1, 1], 2, 0.1), (2.397895, 1.522261, 0.875634)),
    "3 lines": (([1] * 3, [1] * 3, 3, 0.1), (3.596843, 1.716994, 1.879849)),
    "2 lines, fine": (([1, 1], [1, 1], 2, 0.01), (4.615121, 2.651652, 1.963468)),
    "3 lines, fine": (([1] * 3, [1] * 3, 3, 0.01), (6.922681, 2.853555, 4.069126)),
    "3 planes": (([2] * 3, [1] * 3, 6, 0.5), (3.295837, 1.945910, 1.349927)),
    "4 lines in 8": (([1] * 4, [1] * 4, 8, 0.5), (3.218876, 1.416607, 1.802269)),
    "dims 3 and 1 in 10": (([3, 1], [1, 1], 10, 0.25), (4.795791, 3.459608, 1.336183)),
    "128 dims, 10 classes": (([13] * 8 + [12] * 2, [12] * 8 + [13] * 2, 128, 0.5), (70.296921, 19.482059, 50.814862)),
}


def subspaces(dims: list[int], copies: list[int], d: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors of orthogonal coordinate subspaces, a class each, isotropic in it."""
    rows, labels, first = [], [], 0
    for label, (dim, copy) in enumerate(zip(dims, copies, strict=True)):
        rows.append(np.tile(np.eye(d)[first : first + dim], (copy, 1)))
        labels.append(np.full(dim * copy, label))
        first += dim
    return np.concatenate(rows), np.concatenate(labels)


def plain(x: np.ndarray, y: np.ndarray, eps_sq: float, normalization: str) -> tuple[float, float]:
    """R and R_c by the definition, with explicit rows and slogdet."""
    x = x.astype(np.float64)
    if normalization == "sphere":
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    else:
        x = np.concatenate([x[y == c] * np.sqrt((y == c).sum()) / np.linalg.norm(x[y == c]) for c in np.unique(y)])
        y = np.sort(y)
    n, d = x.shape
    total = np.linalg.slogdet(np.eye(n) + d / (n * eps_sq) * x @ x.T)[1] / 2
    parts = 0.0
    for c in np.unique(y):
        z = x[y == c]
        parts += len(z) / n * np.linalg.slogdet(np.eye(len(z)) + d / (len(z) * eps_sq) * z @ z.T)[1] / 2
    return float(total), float(parts)

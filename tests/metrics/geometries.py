"""Labelled samples whose moments are known exactly, shared by the tests of several metrics."""

from __future__ import annotations

import math

import numpy as np


def isotropic(means: np.ndarray, s: float, copies: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Classes whose sample covariance is exactly s^2 I: each is a rotated copy of +- s sqrt(d) e_j around its mean."""
    k, d = means.shape
    star = np.concatenate([np.eye(d), -np.eye(d)]) * s * math.sqrt(d)
    rotated = [np.tile(star @ np.linalg.qr(rng.normal(size=(d, d)))[0], (copies, 1)) for _ in means]
    x = np.concatenate([mean + part for mean, part in zip(means, rotated, strict=True)])
    return x, np.repeat(np.arange(k), 2 * d * copies)


def simplex(k: int, d: int, radius: float, rng: np.random.Generator) -> np.ndarray:
    """K points of equal norm and equal angles in d >= K dimensions, in a random orientation."""
    points = np.zeros((k, d))
    points[:, :k] = np.eye(k) - 1.0 / k
    points *= radius / np.linalg.norm(points[0])
    return points @ np.linalg.qr(rng.normal(size=(d, d)))[0]

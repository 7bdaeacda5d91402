"""Mixtures of Gaussians whose class means are sparse in a frame, and whose variances may depend on the class.

    x = mu_c + diag(s_c) g,   mu_c = r sum of k atoms with random signs,   g ~ N(0, Id),

where atoms are rows of a random tight frame, normalised, or coordinates. Every class has k coordinates on which its
standard deviation is `contrast` times as large, so that classes differ in variances even if their means coincide (r = 0).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from probes.errors import UsageError
from repanalysis._checks import not_negative, positive
from repanalysis.theory.frames import random_tight_frame

__all__ = ["Mixture", "sparse_mixture"]


class Mixture(NamedTuple):
    """K classes of equal weight.

    Attributes
    ----------
    means, deviations : (K, d) float64
        mu_c and s_c.
    """

    means: Float64[np.ndarray, "K d"]
    deviations: Float64[np.ndarray, "K d"]

    def sample(self, n: int, *, seed: int) -> tuple[Float64[np.ndarray, "n d"], Int64[np.ndarray, " n"]]:
        """N samples and their classes 0, 1, ..., K - 1, 0, ...; the first rows do not depend on n."""
        y = np.arange(n) % len(self.means)
        noise = np.random.default_rng(seed).standard_normal((n, self.means.shape[1]))
        return self.means[y] + self.deviations[y] * noise, y


def sparse_mixture(
    K: int = 10,  # noqa: N803  # the field's letter, as in `gaussians:K=10`
    d: int = 64,
    *,
    sparsity: int = 1,
    radius: float = 6.0,
    noise: float = 1.0,
    contrast: float = 1.0,
    redundancy: int = 0,
    seed: int = 0,
) -> Mixture:
    """A mixture with sparse means.

    Parameters
    ----------
    K, d : int
        Classes and dimensions.
    sparsity : int, default 1
        k, atoms in a class mean.
    radius : float, default 6
        r, length of each atom in a mean; 0: all means are 0.
    noise : float, default 1
        Standard deviation of every coordinate.
    contrast : float, default 1
        Factor of the standard deviation on the k coordinates of a class.
    redundancy : int, default 0
        Atoms are the p = redundancy d vectors of a random tight frame; 0: the d coordinates.
    seed : int, default 0
        Of frame and atoms.

    Raises
    ------
    UsageError
        If a parameter is out of range, or there are fewer atoms than a mean has.

    Examples
    --------
    >>> mixture = sparse_mixture(K=3, d=4, radius=2.0)
    >>> np.abs(mixture.means).sum(axis=1).tolist()
    [2.0, 2.0, 2.0]
    """
    positive("noise", noise)
    positive("contrast", contrast)
    not_negative("radius", radius)
    p = max(1, redundancy) * d
    if K < 1 or d < 1 or not 1 <= sparsity <= min(p, d) or redundancy < 0:
        parameters = f"K = {K}, d = {d}, sparsity = {sparsity}, redundancy = {redundancy}"
        raise UsageError(f"{parameters}: K and d are at least 1, redundancy 0, and 1 to d atoms make a mean.")
    rng = np.random.default_rng(seed)
    atoms = random_tight_frame(p, d, seed=seed) * np.sqrt(p / d) if redundancy else np.eye(d)
    means, deviations = np.zeros((K, d)), np.full((K, d), noise)
    # Classes have different atoms if there are enough.
    order = np.concatenate([rng.permutation(p) for _ in range(-(-K * sparsity // p))])
    for c in range(K):
        block = order[c * sparsity : (c + 1) * sparsity]
        means[c] = radius * rng.choice([-1.0, 1.0], len(block)) @ atoms[block]
        deviations[c, block % d] *= contrast
    return Mixture(means, deviations)

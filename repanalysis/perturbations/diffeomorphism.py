r"""Smooth deformations of maximal entropy: tau at temperature T, cut off at frequency c.

    tau_x(u, v) = sum_{i, j >= 1, (i^2 + j^2)^{1/2} < c + 1/2} C_ij sin(pi i u) sin(pi j v),   C_ij ~ N(0, T / (i^2 + j^2)),

on [0, 1]^2, tau_y likewise and independent; the image at s is the image at s - tau(s). Borders do not move. The typical
displacement is delta = (n / 2) (pi T ln c)^{1/2} pixels; deformations do not fold while T <= 4 / (pi^3 c^2 ln c)
(docs/stability.md, Formulas; L. Petrini et al., NeurIPS 2021).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import log, pi, sqrt

import torch
from torch import Tensor

from probes.errors import UsageError
from repanalysis._checks import not_negative
from repanalysis.perturbations.base import Perturbation
from repanalysis.perturbations.resampling import warped

__all__ = ["Diffeomorphism", "FoldWarning", "delta_of", "modes", "temperature_of", "temperatures"]


_CHUNK = 1 << 18  # pixels whose fields are computed together: these fit the cache


class FoldWarning(UserWarning):
    """The deformations are strong enough to fold the image over itself."""


@dataclass(frozen=True)
class Diffeomorphism(Perturbation):
    """Max-entropy diffeomorphisms; each image has its own displacement field.

    Parameters
    ----------
    seed : int, default 0
        Seed of the fields; each sample's field also depends on its id.
    delta : float, default 1
        Typical displacement in pixels.
    c : int, default 3
        Cutoff, at least 2: there are 6 frequencies for 3, 19 for 5, 77 for 10.

    Notes
    -----
    For images of h x w pixels, n = (h w)^{1/2} in all formulas; displacements are equally large in both directions.
    The root mean square displacement is 0.84 (c = 3) to 0.88 (c = 10) times delta. Time n c^2 w + n h w per batch.

    References
    ----------
    L. Petrini, A. Favero, M. Geiger, M. Wyart, "Relative stability toward diffeomorphisms indicates performance in deep nets",
    NeurIPS 2021.

    Examples
    --------
    >>> images = torch.rand(2, 3, 32, 32)
    >>> perturbed = Diffeomorphism(delta=1.0)(images, [7, 8])
    >>> bool(torch.allclose(perturbed[..., 0], images[..., 0], atol=1e-4)), bool(torch.equal(perturbed, images))
    (True, False)
    """

    name = "diffeo"
    strength_field = "delta"

    delta: float = 1.0
    c: int = 3

    def __post_init__(self) -> None:
        not_negative("delta", self.delta)
        _check_cutoff(self.c)

    def field(self, ids: Sequence[int], height: int, width: int) -> tuple[Tensor, Tensor]:
        """Displacements to the right and downwards in pixels, (n, h, w) float64 each."""
        coefficients = self._coefficients(ids, height, width)
        displacement = _sines(height, self.c) @ coefficients @ _sines(width, self.c).T
        return displacement[:, 0], displacement[:, 1]

    def _coefficients(self, ids: Sequence[int], height: int, width: int) -> Tensor:
        """Amplitudes in pixels, (n, 2, c, c) float64: of sin(pi j v) sin(pi i u), down and across."""
        side = sqrt(height * width)
        temperature = temperature_of(self.delta, self.c, side)
        squares = torch.arange(1, self.c + 1, dtype=torch.float64).square()
        radius = (squares[:, None] + squares).sqrt()
        spread = torch.where(radius < self.c + 0.5, side * sqrt(temperature) / radius, 0.0)
        return (self.normal(ids, (2, self.c, self.c)) * spread).transpose(-2, -1)

    def apply(self, images: Tensor, ids: Sequence[int]) -> Tensor:
        """Deformed images."""
        height, width = images.shape[-2:]
        _warn_of_folds(self.delta, self.c, sqrt(height * width))
        dtype = images.dtype if images.dtype in (torch.float32, torch.float64) else torch.float32
        factors = (self._coefficients(ids, height, width), _sines(height, self.c), _sines(width, self.c).T)
        coefficients, down, across = (tensor.to(images.device, dtype) for tensor in factors)
        perturbed = torch.empty_like(images)
        step = len(images) if images.is_cuda else max(1, _CHUNK // (height * width))
        for start in range(0, len(images), step):
            rows = slice(start, start + step)
            perturbed[rows] = warped(images[rows], down @ coefficients[rows] @ across)
        return perturbed


def _sines(side: int, c: int) -> Tensor:
    """sin(pi i u) at u = a / (side - 1), (side, c)."""
    positions = torch.linspace(0, 1, side, dtype=torch.float64)
    return torch.sin(pi * positions[:, None] * torch.arange(1, c + 1, dtype=torch.float64))


def modes(c: int) -> int:
    """Number of frequencies (i, j) up to the cutoff.

    Examples
    --------
    >>> [modes(c) for c in (3, 5, 10, 15)]
    [6, 19, 77, 172]
    """
    return sum(i * i + j * j < (c + 0.5) ** 2 for i in range(1, c + 1) for j in range(1, c + 1))


def delta_of(temperature: float, c: int, side: float) -> float:
    """Typical displacement (n / 2) (pi T ln c)^{1/2}, in pixels."""
    _check_cutoff(c)
    return side / 2 * sqrt(pi * temperature * log(c))


def temperature_of(delta: float, c: int, side: float) -> float:
    """T = 4 delta^2 / (pi n^2 ln c).

    Examples
    --------
    >>> round(temperature_of(1.0, 3, 32), 8)
    0.00113179
    """
    _check_cutoff(c)
    return 4 * delta**2 / (pi * side**2 * log(c))


def temperatures(c: int, side: float) -> tuple[float, float]:
    """The range of T: from a displacement of half a pixel to where deformations begin to fold, at n / (pi c) pixels.

    Examples
    --------
    >>> low, high = temperatures(3, 32)
    >>> round(low, 7), round(high, 5)
    (0.0002829, 0.01305)
    """
    _check_cutoff(c)
    return 1 / (pi * side**2 * log(c)), 4 / (pi**3 * c**2 * log(c))


def _check_cutoff(c: int) -> None:
    if not isinstance(c, int) or c < 2:
        raise UsageError(f"The cutoff c is {c!r}; it must be a whole number of at least 2 (ln 1 = 0 gives no temperature).")


def _warn_of_folds(delta: float, c: int, side: float) -> None:
    max_delta = side / (pi * c)
    if delta > max_delta:
        message = f"delta = {delta:g} pixels folds images of {side:g} pixels at c = {c}; use at most {max_delta:.3g} pixels."
        warnings.warn(message, FoldWarning, stacklevel=4)

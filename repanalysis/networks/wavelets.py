r"""Wavelet filter banks in Fourier, and how far they are from tight frames.

A bank holds a low-pass filter phi and J L band-pass filters psi_{j,theta}, all real in Fourier. For real images x

    A_- ||x||^2 <= ||x * phi||^2 + sum_{j,theta} ||x * psi_{j,theta}||^2 <= A_+ ||x||^2,

where A_- and A_+ are the smallest and largest values of the Littlewood-Paley sum

    A(w) = |phi(w)|^2 + 1/2 sum_{j,theta} (|psi(w)|^2 + |psi(-w)|^2).

The frame is tight if A = 1. Morlet filters, which scattering networks are usually built from, are far from that (at the
highest frequencies A is 0.1); dividing every filter by A^{1/2} makes any bank tight. The steerable bank is so by design.
Conventions of the Morlet bank are kymatio's (docs/scattering.md, Conventions).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from math import comb, pi

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from probes.errors import UsageError
from repanalysis._checks import one_of

__all__ = ["BANKS", "FilterBank", "bank", "morlet", "steerable"]

BANKS = ("morlet", "steerable")
_RIGHT_ANGLE = 1e-12  # a cosine below this is 0 up to rounding
_TILES = np.arange(-2, 3)  # periods over which a filter is wrapped around


@dataclass(frozen=True, eq=False)
class FilterBank:
    """Filters of one image size, in Fourier, in the order of `numpy.fft`.

    Attributes
    ----------
    phi : (M, N) float64
        Low-pass filter.
    psi : (J, L, M, N) float64
        Band-pass filters of scale 2^j and angle theta_l = (floor(L/2 - 1) - l) pi / L.
    window : tuple of (M,) and (N,) float64, optional
        Two vectors whose outer product is phi, where there are such.
    """

    phi: Float64[np.ndarray, "M N"]
    psi: Float64[np.ndarray, "J L M N"]
    window: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

    def littlewood_paley(self) -> NDArray[np.float64]:
        """A(w), (M, N): the share of an image's energy at each frequency that the filters keep."""
        energy = np.square(self.psi).sum(axis=(0, 1))
        total: NDArray[np.float64] = np.square(self.phi) + (energy + _reversed(energy)) / 2
        return total

    def bounds(self) -> tuple[float, float]:
        """The frame bounds A_- and A_+ for real images.

        Examples
        --------
        >>> low, high = morlet((36, 36), scales=1).bounds()
        >>> round(low, 3), round(high, 3)
        (0.123, 1.0)
        """
        total = self.littlewood_paley()
        return float(total.min()), float(total.max())

    def tight(self) -> FilterBank:
        """The bank with every filter divided by A^{1/2}: a tight frame, of the same phases and zeros.

        Examples
        --------
        >>> bool(np.allclose(morlet((36, 36), scales=1).tight().bounds(), 1.0, atol=1e-12))
        True
        """
        root = np.sqrt(self.littlewood_paley())
        return replace(self, phi=self.phi / root, psi=self.psi / root, window=None)


def bank(name: str, shape: tuple[int, int], scales: int, angles: int = 8, *, tight: bool = False) -> FilterBank:
    """The bank of a name.

    Parameters
    ----------
    name : {"morlet", "steerable"}
        Which filters.
    shape : (M, N)
        Size of the (padded) images.
    scales, angles : int
        J and L.
    tight : bool, default False
        Whether to divide by A^{1/2}; the steerable bank is tight anyway.

    Raises
    ------
    UsageError
        If the name is unknown, or J or L are below 1.
    """
    one_of("filters", name, BANKS)
    if scales < 1 or angles < 1:
        raise UsageError(f"J = {scales} scales and L = {angles} angles; both must be at least 1.")
    if name == "steerable":
        return steerable(shape, scales, angles)
    filter_bank = morlet(shape, scales, angles)
    return filter_bank.tight() if tight else filter_bank


def morlet(shape: tuple[int, int], scales: int, angles: int = 8) -> FilterBank:
    r"""Morlet wavelets and a Gaussian low-pass filter.

    .. math:: \psi(u) = g_\sigma(u) (e^{i \xi \cdot u} - \beta),\quad
              g_\sigma(u) = \frac{s}{2\pi\sigma^2} e^{-(u_\parallel^2 + s^2 u_\perp^2) / 2\sigma^2}

    with sigma = 0.8 2^j, |xi| = (3 pi / 4) 2^-j in direction theta, slant s = 4/L, and beta such that the sum of psi is 0; phi
    is the Gaussian of sigma = 0.8 2^{J-1}. All are wrapped around the image.

    Parameters
    ----------
    shape : (M, N)
        Size of the (padded) images.
    scales, angles : int
        J and L.

    Examples
    --------
    >>> filters = morlet((32, 32), scales=2)
    >>> filters.psi.shape, bool(abs(filters.psi[..., 0, 0]).max() < 1e-12)
    ((2, 8, 32, 32), True)
    """
    psi = np.empty((scales, angles, *shape))
    for j in range(scales):
        for index, angle in enumerate(_directions(angles)):
            psi[j, index] = _morlet(shape, 0.8 * 2**j, angle, 0.75 * pi / 2**j, 4.0 / angles)
    sigma = 0.8 * 2 ** (scales - 1)
    window = _gaussian(shape[0], sigma), _gaussian(shape[1], sigma)
    return FilterBank(np.outer(*window), psi, window)


def steerable(shape: tuple[int, int], scales: int, angles: int = 8) -> FilterBank:
    r"""Analytic steerable wavelets: a tight frame by construction.

    In polar coordinates (r, t) of frequency, psi_{j,theta} = h_j(r) a(t - theta): a(t) is proportional to cos(t)^{L-1} where
    that is positive and 0 elsewhere, and h_j^2 = l_j^2 - l_{j+1}^2, where l_j(r) falls from 1 at pi / 2^j to 0 at 2 pi / 2^j
    as cos((pi/2) log2(r 2^j / pi)), l_0 = 1 and phi = l_J. Squares telescope over j and are constant over L angles.

    Parameters
    ----------
    shape : (M, N)
        Size of the (padded) images.
    scales, angles : int
        J and L.

    Notes
    -----
    At the Nyquist frequency a direction and its opposite are one: the squares are averaged over both.

    References
    ----------
    E. P. Simoncelli, W. T. Freeman, "The steerable pyramid", ICIP 1995; the half-plane makes it analytic.

    Examples
    --------
    >>> bool(np.allclose(steerable((20, 31), scales=3, angles=5).bounds(), 1.0, atol=1e-12))
    True
    """
    rows, columns = (2 * pi * np.fft.fftfreq(side) for side in shape)
    radius = np.hypot(rows[:, None], columns)
    # The Nyquist frequency has two signs.
    both = [[np.asarray(side, np.float64), np.where(side <= -pi, pi, side)] for side in (rows, columns)]
    lows = [np.ones(shape), *(_fall(radius * 2**j / pi) for j in range(1, scales + 1))]
    rings = [np.sqrt(np.square(wide) - np.square(narrow)) for wide, narrow in pairwise(lows)]
    norm = np.sqrt(2 * 4.0 ** (angles - 1) / (angles * comb(2 * angles - 2, angles - 1)))
    fans = norm * np.sqrt(np.mean([_fan(first, second, angles) for first in both[0] for second in both[1]], axis=0))
    return FilterBank(lows[-1], np.array(rings)[:, None] * fans)


def _fan(rows: NDArray[np.float64], columns: NDArray[np.float64], angles: int) -> NDArray[np.float64]:
    """Squares of cos(t - theta_l)^{L-1} where that is positive, (L, M, N)."""
    cosines = np.cos(np.arctan2(columns, rows[:, None]) - _directions(angles)[:, None, None])
    cosines[np.abs(cosines) < _RIGHT_ANGLE] = 0.0
    return np.asarray(np.heaviside(cosines, 0.5) * np.abs(cosines) ** (2 * angles - 2))


def _directions(angles: int) -> NDArray[np.float64]:
    return (int(angles / 2 - 1) - np.arange(angles)) * pi / angles


def _fall(octaves: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 up to 1, 0 from 2 on, and cos((pi/2) log2) in between."""
    window: NDArray[np.float64] = np.cos(pi / 2 * np.log2(np.clip(octaves, 1.0, 2.0)))
    return np.where(octaves >= 2.0, 0.0, window)


def _gaussian(side: int, sigma: float) -> NDArray[np.float64]:
    """Transform of a Gaussian density that is wrapped around `side` samples."""
    places = (np.arange(side) + side * _TILES[:, None]).astype(np.float64)
    wrapped = np.exp(-np.square(places) / (2 * sigma**2)).sum(axis=0) / np.sqrt(2 * pi * sigma**2)
    return np.asarray(np.fft.fft(wrapped).real)


def _morlet(shape: tuple[int, int], sigma: float, angle: float, frequency: float, slant: float) -> NDArray[np.float64]:
    envelope, wave = np.zeros(shape), np.zeros(shape, np.complex128)
    for first in _TILES:
        for second in _TILES:
            x, y = np.ogrid[first * shape[0] : (first + 1) * shape[0], second * shape[1] : (second + 1) * shape[1]]
            along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
            tile = np.exp(-(np.square(along) + slant**2 * np.square(across)) / (2 * sigma**2))
            envelope += tile
            wave += tile * np.exp(1j * frequency * along)
    wave = (wave - wave.sum() / envelope.sum() * envelope) * slant / (2 * pi * sigma**2)
    return np.asarray(np.fft.fft2(wave).real)


def _reversed(array: NDArray[np.float64]) -> NDArray[np.float64]:
    """The array at -w."""
    return np.roll(array[::-1, ::-1], (1, 1), axis=(0, 1))

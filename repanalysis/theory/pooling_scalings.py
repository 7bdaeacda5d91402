r"""Spatial pooling makes a network stable to shifts and sensitive to noise: D_k, G_k and R_k in closed form.

The net has one channel on a ring of N pixels: every layer averages F neighbours with stride s (weights s / F) and rectifies.
Probes are the N translates of one active pixel; deformations move it by t pixels; noise has variance sigma^2 = 2 / N per pixel
and is rectified. With D_k = Num_D / Den, G_k = Num_G / Den and Den over all pairs of probes, themselves included:

    s = 1:  h(q) = sin(pi F q / N) / (F sin(pi q / N)),  a_k = (1/N) sum_q h^{2k},  sigma_F^2 = (F^2 - 1) / 12
            Num_D = (1/N) sum_q h^{2k} 4 sin^2(pi t q / N),  Den = 2 (a_k - 1/N),
            G_k = (1/pi + (1 - 1/pi) a_k) / Den,   so  D_k ~ 1 / (4 k sigma_F^2),  G_k ~ (k sigma_F^2 / pi)^{1/2};
    s = F:  D_k = s^{-k} / (1 - s^k / N),  G_k = (s^k / pi + 1 - 1/pi) / (2 (1 - s^k / N)).

Noise that is not rectified averages out as the signal does, and G_k stays near 1: only rectification accumulates it. In two
dimensions squares of a_k take the place of a_k (s = 1), and s^{2k} that of s^k (noise, s = F).

Source: docs/stability.md, Formulas (derived there; the exponents are those of U. Tomasini et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from probes.errors import UsageError

__all__ = ["PoolingNet", "predicted", "simulated"]


@dataclass(frozen=True)
class PoolingNet:
    """The idealised network.

    Parameters
    ----------
    pixels : int
        N, of each side.
    width : int
        F, pixels that a filter averages.
    stride : int, default 1
        s: 1, or F with N a power of it. `simulated` takes others too.
    dimensions : {1, 2}, default 1
        A ring or a torus.
    """

    pixels: int
    width: int
    stride: int = 1
    dimensions: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        if self.pixels < 2 or not 1 <= self.width <= self.pixels or self.stride < 1 or self.dimensions not in (1, 2):
            raise UsageError(
                f"N = {self.pixels}, F = {self.width}, s = {self.stride} in {self.dimensions} dimensions is not such a network."
            )

    @property
    def depth(self) -> int:
        """Maximal number of layers: infinite for stride 1, else until one pixel is left."""
        depth, left = 0, self.pixels
        while self.stride > 1 and left % self.stride == 0 and left > 1:
            depth, left = depth + 1, left // self.stride
        return depth if self.stride > 1 else 10**9


def predicted(net: PoolingNet, layers: NDArray[np.int64], *, shift: int = 1, rectified: bool = True) -> pd.DataFrame:
    """D_k, G_k and R_k in closed form.

    Parameters
    ----------
    net : PoolingNet
        With s = 1, or s = F.
    layers : (m,) int array
        k.
    shift : int, default 1
        t, pixels along one axis. At s = F it must be 1.
    rectified : bool, default True
        Whether the noise is rectified; if not, everything is linear.

    Returns
    -------
    pandas.DataFrame
        Columns layer, D, G and R.

    Raises
    ------
    UsageError
        If there is no closed form, or the network has fewer layers.

    Examples
    --------
    >>> predicted(PoolingNet(512, 3), np.array([1, 2, 4])).round(5)[["D"]].values.ravel().tolist()
    [0.3353, 0.15922, 0.08317]
    >>> predicted(PoolingNet(512, 2, stride=2), np.array([1, 3])).round(3)[["G"]].values.ravel().tolist()
    [0.662, 1.64]
    """
    if net.stride == 1:
        prediction = _diffusing(net, layers, shift, rectified=rectified)
    elif net.stride == net.width and shift == 1 and net.stride**net.depth == net.pixels:
        prediction = _nesting(net, layers, rectified=rectified)
    else:
        raise UsageError("Closed forms are for stride 1, or for stride F with N a power of F and a shift by one pixel.")
    stable, noisy = prediction
    return pd.DataFrame({"layer": layers, "D": stable, "G": noisy, "R": stable / noisy})


def _diffusing(
    net: PoolingNet, layers: NDArray[np.int64], shift: int, *, rectified: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    n, d = net.pixels, net.dimensions
    angles = np.pi * np.arange(1, n) / n
    powers = np.concatenate([[1.0], np.square(np.sin(net.width * angles) / (net.width * np.sin(angles)))])
    waves = np.concatenate([[0.0], 4 * np.square(np.sin(shift * angles))])
    weights = powers ** np.asarray(layers)[:, None]
    unshifted, moved = weights.mean(axis=1), (weights * waves).mean(axis=1)
    spread = 2 * (unshifted**d - float(n) ** -d)
    noise = (1 / np.pi + (1 - 1 / np.pi) * unshifted**d) if rectified else 2 * unshifted**d
    return moved * unshifted ** (d - 1) / spread, noise / spread


def _nesting(net: PoolingNet, layers: NDArray[np.int64], *, rectified: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if len(layers) and int(np.max(layers)) >= net.depth:
        raise UsageError(
            f"A net of stride {net.stride} on {net.pixels} pixels has {net.depth - 1} layers with more than one pixel."
        )
    k = np.asarray(layers, np.float64)
    volume = float(net.stride) ** (net.dimensions * k)
    spread = 1 - volume / float(net.pixels) ** net.dimensions
    noise = (volume / np.pi + 1 - 1 / np.pi) / 2 if rectified else np.ones_like(volume)
    return float(net.stride) ** -k / spread, noise / spread


def simulated(
    net: PoolingNet, layers: NDArray[np.int64], *, shift: int = 1, rectified: bool = True, draws: int = 20, seed: int = 0
) -> pd.DataFrame:
    """D_k, G_k and R_k by simulation of the network.

    Parameters
    ----------
    net : PoolingNet
        Any stride.
    layers : (m,) int array
        k.
    shift : int, default 1
        t, pixels along the last axis.
    rectified : bool, default True
        Whether noise is rectified before it is added.
    draws, seed : int
        Number of draws of the noise, and seed.

    Returns
    -------
    pandas.DataFrame
        Columns layer, D, G and R. Time N^2 F per layer and draw (N^4 F in two dimensions).
    """
    n, d = net.pixels, net.dimensions
    x = np.eye(n**d).reshape(-1, *(n,) * d)
    rng = np.random.default_rng(seed)
    sigma = np.sqrt(2 / n**d)
    noises = [sigma * rng.standard_normal(x.shape) for _ in range(draws)]
    clean = _maps(net, x, layers)
    den = [
        2 * float(np.square(layer_maps - layer_maps.mean(axis=0)).sum(axis=tuple(range(1, d + 1))).mean())
        for layer_maps in clean
    ]
    moved = _distances(clean, _maps(net, np.roll(x, shift, -1), layers))
    noisy = [
        _distances(clean, _maps(net, x + (np.maximum(layer_maps, 0) if rectified else layer_maps), layers))
        for layer_maps in noises
    ]
    stable, sensitive = moved / den, np.mean(noisy, axis=0) / den
    return pd.DataFrame({"layer": layers, "D": stable, "G": sensitive, "R": stable / sensitive})


def _maps(net: PoolingNet, x: NDArray[np.float64], layers: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Outputs of the given layers; 0 is the input."""
    maps = {0: x}
    for k in range(1, int(np.max(layers)) + 1):
        for axis in range(1, x.ndim):
            x = sum((np.roll(x, -step, axis) for step in range(net.width)), np.zeros(1)) * (net.stride / net.width)
            x = x[(slice(None),) * axis + (slice(None, None, net.stride),)]
        maps[k] = x
    return [maps[int(k)] for k in layers]


def _distances(a: list[NDArray[np.float64]], b: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Mean squared distance of each layer's maps."""
    return np.array(
        [
            float(np.square(first - second).reshape(len(first), -1).sum(axis=1).mean())
            for first, second in zip(a, b, strict=True)
        ]
    )

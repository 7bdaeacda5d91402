r"""Scattering trees with learned projections and tight frames: S_T, S_P and S_C of Zarka, Guth and Mallat (2021).

Every block of S_C is one scale: rectified wavelets W, a learned projection P with P P^T = Id, and concentration

    x  ->  F^T rho_t F x,   F^T F = Id,   rho_t(u) = sign(u) max(|u| - t, 0),

whose frame F has p vectors of d channels and whose threshold t = 1.5 / sqrt(p) is not learned: the input of F is divided by its
norm over channels, so that a coefficient is 1 / sqrt(p) on average. S_P has no F; S_T has one projection after a scattering
transform of order 2. No layer has a bias but the classifier (docs/scattering.md,
Conventions).

The original renormalises rows and moves A a little towards A A^T A at every step. By default P and F are here replaced by
their polar factors after every step, which keeps F^T F = Id to rounding.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from probes.errors import UsageError
from repanalysis._checks import one_of, positive
from repanalysis.networks.filtering import Filtering, padded_side
from repanalysis.networks.scattering import Scattering, phases_of
from repanalysis.networks.wavelets import morlet

__all__ = ["VARIANTS", "Block", "RectifiedWavelets", "TightFrame", "concentrated", "frames", "polar"]

VARIANTS = ("ST", "SP", "SC")
CONSTRAINTS = ("polar", "parseval")

_PARSEVAL = 5e-4  # beta of the original's step
_EXACT = 1e-6  # of F^T F, in Frobenius norm over sqrt(d)
_NO_NORM = 1e-12


def concentrated(
    variant: str = "SC",
    *,
    scales: int = 4,
    angles: int = 8,
    width: int = 64,
    redundancy: int = 16,
    threshold: float = 1.5,
    constraint: str = "polar",
    size: int = 32,
    colours: int = 3,
    classes: int = 10,
) -> nn.Sequential:
    """A network (n, colours, size, size) -> (n, classes).

    Parameters
    ----------
    variant : {"SC", "SP", "ST"}, default "SC"
        Concentrated, projections only, or a scattering transform with one projection.
    scales, angles : int
        J, the number of blocks, and L.
    width : int, default 64
        Channels after the first projection; twice as many after each further one. S_T projects to 2 `width`.
    redundancy : int, default 16
        p / d of the frames.
    threshold : float, default 1.5
        t sqrt(p).
    constraint : {"polar", "parseval"}, default "polar"
        How P and F are kept orthonormal; see `TightFrame`.
    size, colours, classes : int
        Size and channels of the images, number of classes.

    Raises
    ------
    UsageError
        If a parameter is not allowed, or the images are smaller than 2^J.

    Notes
    -----
    The defaults are the original's S_C for CIFAR-10: projections to 64, 128, 256, 512 channels and frames of 1024, 2048, 4096,
    8192 vectors. Its S_T has scales=3.

    References
    ----------
    J. Zarka, F. Guth, S. Mallat, "Separation and concentration in deep networks", ICLR 2021, and its published code.

    Examples
    --------
    >>> net = concentrated("SC", width=8, redundancy=2, scales=2, size=8)
    >>> tuple(net(torch.rand(2, 3, 8, 8)).shape)
    (2, 10)
    """
    one_of("variant", variant, VARIANTS)
    one_of("constraint", constraint, CONSTRAINTS)
    positive("threshold", threshold)
    if min(scales, angles, width, redundancy, colours, classes) < 1:
        raise UsageError("scales, angles, width, redundancy, colours and classes must be at least 1.")
    if size < 2**scales:
        raise UsageError(
            f"Images of {size} pixels can't go through J = {scales} scales: at least 2^J = {2**scales} are needed."
        )
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    channels, side = colours, size
    if variant == "ST":
        parts["scattering"] = Scattering(scales, angles)
        channels, side = colours * (1 + scales * angles + angles**2 * scales * (scales - 1) // 2), size // 2**scales
        parts["projection"] = _projection(channels, min(channels, 2 * width), constraint)
        channels = min(channels, 2 * width)
    else:
        for j in range(scales):
            wide = channels * (1 + 4 * angles)
            narrow = min(wide, width * 2**j)
            frame = redundancy * narrow if variant == "SC" else 0
            parts[f"block{j + 1}"] = Block(channels, narrow, frame, angles=angles, threshold=threshold, constraint=constraint)
            channels, side = narrow, side // 2
    parts["norm"] = nn.BatchNorm2d(channels)
    parts["flatten"] = nn.Flatten()
    parts["classifier"] = nn.Linear(channels * side**2, classes)
    network = nn.Sequential(parts)
    colour = {3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), 1: ((0.1307,), (0.3081,))}  # ImageNet's and MNIST's
    mean, std = colour.get(colours, ((0.5,) * colours, (0.25,) * colours))
    network.pretrained_cfg = {  # type: ignore[assignment]  # like timm's networks
        "input_size": (colours, size, size), "mean": mean, "std": std, "interpolation": "bilinear", "crop_pct": 1.0,
    }  # fmt: skip
    return network


def frames(network: nn.Module) -> dict[str, TightFrame]:
    """The constrained matrices of a network by name: every P and F."""
    return {name: module for name, module in network.named_modules() if isinstance(module, TightFrame)}


class Block(nn.Sequential):
    """One scale: rectified wavelets, projection, and, with a frame, concentration.

    Parameters
    ----------
    channels, narrow, frame : int
        Channels of the input, d after the projection, and p; 0 for no concentration.
    angles : int
        L.
    threshold : float
        t sqrt(p).
    constraint : {"polar", "parseval"}
        How P and F are kept orthonormal.
    """

    def __init__(
        self, channels: int, narrow: int, frame: int, *, angles: int = 8, threshold: float = 1.5, constraint: str = "polar"
    ) -> None:
        wide = channels * (1 + 4 * angles)
        parts: OrderedDict[str, nn.Module] = OrderedDict(wavelets=RectifiedWavelets(angles))
        parts["projection"] = _projection(wide, narrow, constraint)
        if frame:
            analysis = TightFrame(narrow, frame, constraint)
            parts["analysis"] = analysis
            parts["threshold"] = nn.Softshrink(threshold / frame**0.5)
            parts["synthesis"] = Synthesis(analysis)
        super().__init__(parts)


class RectifiedWavelets(Filtering):
    """Low-pass images and the four phases of finest wavelets at half the size: (n, c, H, W) -> (n, c (1 + 4 L), H/2, W/2).

    Every channel is filtered separately: first its low-pass image, which is not rectified, then phases by angle. Sizes are
    rounded down.

    Parameters
    ----------
    angles : int, default 8
        L.

    Examples
    --------
    >>> tuple(RectifiedWavelets()(torch.rand(1, 3, 7, 8)).shape)
    (1, 99, 3, 4)
    """

    def __init__(self, angles: int = 8) -> None:
        super().__init__()
        self.angles = angles
        self._made: tuple[object, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """Wavelet coefficients."""
        size = (int(x.shape[-2]), int(x.shape[-1]))
        if min(size) < 2:
            raise UsageError(f"Images of {size[0]} x {size[1]} pixels have no wavelets: choose fewer scales, or larger images.")
        key = (size, x.dtype, x.device)
        if key != self._made:
            wavelets = morlet((padded_side(size[0], 1), padded_side(size[1], 1)), 1, self.angles)
            self.prepare(np.concatenate([wavelets.phi[None], wavelets.psi[0]]), x, stride=2, size=size, margin=1)
            self._made = key
        return self.filtered(x, _low_and_phases).flatten(1, 2)


def _low_and_phases(z: Tensor, out: Tensor | None = None) -> Tensor:
    low, phases = z[:, :1, :, :, 0], phases_of(z[:, 1:], None if out is None else out[:, 1:])
    if out is None:
        return torch.cat([low, phases], dim=1)
    out[:, :1] = low
    return out


class TightFrame(nn.Module):
    """A learned matrix at every position, x -> A x, whose shorter side is orthonormal: F^T F = Id, or P P^T = Id.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    constraint : {"polar", "parseval"}, default "polar"
        Action of `constrain`, called after every step of the optimiser: "polar" replaces A by the nearest orthonormal matrix;
        "parseval" takes the original's step, A <- (1 + b) A - b A A^T A with b = 5e-4, and a frame's rows are brought
        to the norm sqrt(d / p) whenever it is used.
    """

    def __init__(self, inputs: int, outputs: int, constraint: str = "polar") -> None:
        super().__init__()
        self.constraint = one_of("constraint", constraint, CONSTRAINTS)
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(outputs, inputs)))

    def matrix(self) -> Tensor:
        """The matrix A, (outputs, inputs)."""
        outputs, inputs = self.weight.shape
        if self.constraint == "polar" or outputs <= inputs:
            return self.weight
        norms = torch.linalg.vector_norm(self.weight, dim=1, keepdim=True).clamp_min(_NO_NORM)
        equal: Tensor = self.weight * ((inputs / outputs) ** 0.5 / norms)
        return equal

    def forward(self, x: Tensor) -> Tensor:
        """A x at every position."""
        return functional.conv2d(x, self.matrix()[:, :, None, None])

    @torch.no_grad()
    def constrain(self) -> None:
        """Replace A by, or move it towards, an orthonormal matrix."""
        if self.constraint == "polar":
            self.weight.copy_(polar(self.weight))
            return
        a = self.weight
        wide = a.shape[1] > a.shape[0]
        cubic = (a @ a.T) @ a if wide else a @ (a.T @ a)
        a.mul_(1 + _PARSEVAL).sub_(_PARSEVAL * cubic)

    @torch.no_grad()
    def deviation(self) -> float:
        """Largest entry of |A^T A - Id| (or of |A A^T - Id|), in float64."""
        a = self.matrix().double()
        gram = a @ a.T if a.shape[1] > a.shape[0] else a.T @ a
        return float((gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).abs().max())

    def extra_repr(self) -> str:
        """Its shape."""
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}, constraint={self.constraint}"


class Synthesis(nn.Module):
    """F^T at every position; shares the weights of F."""

    def __init__(self, frame: TightFrame) -> None:
        super().__init__()
        self._frame = (frame,)  # in a tuple, so that its weights are not registered twice

    def forward(self, u: Tensor) -> Tensor:
        """F^T u."""
        return functional.conv2d(u, self._frame[0].matrix().T[:, :, None, None])


class ChannelNorm(nn.Module):
    """x / ||x|| over the channels of every position; 0 stays 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Vectors of norm 1."""
        return functional.normalize(x, dim=1, eps=_NO_NORM)


def polar(a: Tensor) -> Tensor:
    """The nearest matrix with orthonormal columns (or rows, if there are more columns): U V^T of A = U S V^T.

    Newton-Schulz steps X <- X (3 I - X^T X) / 2, each two products, double the digits if A is nearly orthonormal, as after
    a step of an optimiser; otherwise the singular value decomposition is used.

    Examples
    --------
    >>> a = torch.linalg.qr(torch.randn(6, 3, generator=torch.Generator().manual_seed(0))).Q
    >>> bool(torch.allclose(polar(a * 1.01), a, atol=1e-6))
    True
    """
    if a.shape[1] > a.shape[0]:
        return polar(a.T).T
    eye = torch.eye(a.shape[1], dtype=a.dtype, device=a.device)
    x, last = a, float("inf")
    for _ in range(6):
        gram = x.T @ x
        off = float((gram - eye).norm()) / a.shape[1] ** 0.5
        if off < _EXACT or (off < 10 * _EXACT and off >= last):  # the remaining deviation is rounding
            return x
        if not off < 0.5:
            break
        x, last = x @ (1.5 * eye - 0.5 * gram), off
    u, _, v = torch.linalg.svd(a.double(), full_matrices=False)
    factor: Tensor = (u @ v).to(a.dtype)
    return factor


def _projection(wide: int, narrow: int, constraint: str) -> nn.Sequential:
    parts = {"norm": nn.BatchNorm2d(wide, affine=False), "matrix": TightFrame(wide, narrow, constraint), "unit": ChannelNorm()}
    return nn.Sequential(OrderedDict(parts))

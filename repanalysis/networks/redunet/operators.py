r"""Operators and rates of a ReduNet layer, and the step that it takes.

For samples z_i of class y_i, the columns of spectra u(p) (`spectra`), with n_k samples of class k, g_k = n_k / n,
b = C / eps^2, and T frequencies, of which p stands for w_p (for vectors C = d, T = 1, w = 1),

    A(p)   = I + b T / (n w_p)   sum_i u_i(p) u_i(p)^*,          E(p)   = b / n   A(p)^-1,
    A_k(p) = I + b T / (n_k w_p) sum_{y_i = k} u_i(p) u_i(p)^*,  C_k(p) = b / n_k A_k(p)^-1,

    R = 1/(2T) sum_p w_p log det A(p),   R_c = sum_k g_k 1/(2T) sum_p w_p log det A_k(p),

which are the rates of all circular shifts of the samples, divided by T. A sample, of whatever class, moves by

    z <- normalised( z + eta [ E z - sum_k g_k pi_k C_k z ] ),   pi = softmax_k( -lam ||C_k z|| ),

with the norm over all channels and frequencies. The published code for signals uses the unitary DFT where the rates of shifts
have the unnormalised one. Its network is the exact one with T eps^2, T eta and T lam (`Step.of`), and the numbers that it
reports are rates at T eps^2.

References
----------
K. H. R. Chan et al., "ReduNet: A white-box deep network from the principle of maximizing rate reduction", JMLR 23, 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from probes.errors import UsageError
from repanalysis._checks import not_negative, one_of, positive
from repanalysis.networks.redunet.spectra import Grid

__all__ = ["Rates", "Step", "class_rates", "normalized", "norms_of", "operators_of"]

AssignmentScheme = Literal["paper", "balanced"]
SpectralNorm = Literal["exact", "official"]

_CHUNK = 24 << 20  # bytes of the products of one chunk of samples: more leaves the cache, narrower products are slow
_EIGHT = 8  # samples of a chunk are a multiple of it: products of 16 columns took 0.6 times as long as those of 11
_SMALLEST = 1e-8  # samples of smaller norm are not normalised, as in the published code


class Rates(NamedTuple):
    """R, R_c and R - R_c, in nats per sample (and shift)."""

    whole: float
    classes: float
    reduction: float


class Step(NamedTuple):
    """What the layers of a network share, for the exact rates.

    Attributes
    ----------
    grid : Grid
        Shape of the samples.
    counts : tuple of int
        n_k of the training samples.
    eta, eps_sq, lam : float
        Step size, squared distortion and inverse temperature of the assignment.
    scheme : {"paper", "balanced"}
        "balanced" multiplies ||C_k z|| by K g_k, which takes off the factor 1 / n_k of C_k; without effect if all classes have
        the same number of samples.
    """

    grid: Grid
    counts: tuple[int, ...]
    eta: float
    eps_sq: float
    lam: float
    scheme: AssignmentScheme = "paper"

    @classmethod
    def of(
        cls,
        grid: Grid,
        counts: Sequence[int],
        *,
        eta: float = 0.5,
        eps_sq: float = 0.1,
        lam: float = 500.0,
        eta_eff: float | None = None,
        lam_eff: float | None = None,
        scheme: AssignmentScheme = "paper",
        spectral_norm: SpectralNorm = "exact",
    ) -> Step:
        """The step for parameters as users give them; see `construct`.

        Examples
        --------
        >>> step = Step.of(Grid(3, (8,)), [5, 5], eta=0.5, eps_sq=0.1, lam=500.0, spectral_norm="official")
        >>> step.eta, step.eps_sq, step.lam, round(step.eta_eff, 12)
        (4.0, 0.8, 4000.0, 1.5)
        """
        one_of("assignment scheme", scheme, ("paper", "balanced"))
        one_of("spectral norm", spectral_norm, ("exact", "official"))
        unit = grid.channels / (sum(counts) * positive("eps_sq", eps_sq))
        if eta_eff is not None:
            eta = positive("eta_eff", eta_eff) / unit
        if lam_eff is not None:
            lam = not_negative("lam_eff", lam_eff) / (unit * len(counts))
        factor = grid.points if spectral_norm == "official" else 1
        eta, lam = factor * positive("eta", eta), factor * not_negative("lam", lam)
        return cls(grid, tuple(counts), eta, factor * eps_sq, lam, scheme)

    @property
    def n(self) -> int:
        """Number of training samples."""
        return sum(self.counts)

    @property
    def eta_eff(self) -> float:
        """Eta alpha, with alpha = C / (n eps^2): the step size that does not depend on the number of samples."""
        return self.eta * self.grid.channels / (self.n * self.eps_sq)

    @property
    def lam_eff(self) -> float:
        """Lam alpha K: the inverse temperature for a class of n / K samples, which does not depend on n."""
        return self.lam * len(self.counts) * self.grid.channels / (self.n * self.eps_sq)

    def logits(self, norms: Tensor) -> Tensor:
        """-lam ||C_k z|| from norms (K, n), corrected for the sizes of the classes if the scheme says so."""
        shares = torch.tensor(self.counts, dtype=norms.dtype, device=norms.device) / self.n
        factors = self.lam * (len(self.counts) * shares if self.scheme == "balanced" else torch.ones_like(shares))
        return norms.mul(-factors[:, None])

    def assigned(self, u: Tensor, operators: Tensor) -> Tensor:
        """Logits (K, n) of spectra (F, C, n): their softmax over classes is pi."""
        if not u.shape[2]:
            return torch.empty((len(self.counts), 0), dtype=u.real.dtype, device=u.device)
        parts = [_norms(products)[1:] for _, products in _products(u, operators)]
        logits: Tensor = self.logits(torch.cat(parts, dim=1))
        return logits

    def moved(self, u: Tensor, operators: Tensor) -> Tensor:
        """Spectra (F, C, n) after the step; `operators` (F, (K + 1) C, C) are E and all C_k, one below the other."""
        shares = torch.tensor(self.counts, dtype=u.real.dtype, device=u.device) / self.n
        if not u.shape[2]:
            return u
        if _differentiable(u, operators):
            (_, products), *_ = _products(u, operators)
            weights = self.logits(_norms(products)[1:]).softmax(dim=0) * shares[:, None]
            whole = u + self.eta * (products[:, 0] - (products[:, 1:] * weights[None, :, None]).sum(dim=1))
            return whole / norms_of(whole).clamp(min=_SMALLEST)
        moved = torch.empty_like(u, memory_format=torch.contiguous_format)
        for chunk, products in _products(u, operators):
            weights = self.logits(_norms(products)[1:]).softmax(dim=0).mul_(shares[:, None])
            gradient = _parts(products[:, 0])
            weights = weights.repeat_interleave(gradient.shape[-1] // weights.shape[1], dim=1)
            for k in range(len(self.counts)):
                gradient.addcmul_(_parts(products[:, k + 1]), weights[k], value=-1.0)
            torch.add(u[:, :, chunk], products[:, 0], alpha=self.eta, out=moved[:, :, chunk])
        return _normalize(moved)


def operators_of(u: Tensor, step: Step) -> tuple[Tensor, Rates]:
    """Operators of the layer that training samples meet, and the rates of these samples.

    Parameters
    ----------
    u : (F, C, n) tensor
        Spectra, sorted by class.
    step : Step
        The numbers of samples per class, and the parameters.

    Returns
    -------
    operators : (F, (K + 1) C, C) tensor
        E and C_1 ... C_K, one below the other, Hermitian.
    rates : Rates
    """
    inverses, rates = _measured(u, step.counts, step.grid, step.eps_sq, inverses=True)
    grid, sizes = step.grid, (step.n, *step.counts)
    operators = torch.empty((u.shape[0], len(sizes), grid.channels, grid.channels), dtype=u.dtype, device=u.device)
    for index, (size, inverse) in enumerate(zip(sizes, inverses, strict=True)):
        operators[:, index] = inverse * (grid.channels / (step.eps_sq * size))
    return operators.flatten(1, 2), rates


def class_rates(u: Tensor, counts: Sequence[int], grid: Grid, eps_sq: float) -> Rates:
    """Rates of spectra (F, C, n) that are sorted by class; classes without samples are skipped."""
    return _measured(u, [count for count in counts if count], grid, eps_sq, inverses=False)[1]


def _measured(u: Tensor, counts: Sequence[int], grid: Grid, eps_sq: float, *, inverses: bool) -> tuple[list[Tensor], Rates]:
    """Inverses of A and A_1 ... A_K if asked for, (F, C, C) each, and the rates; in float64 for spectra of any type."""
    n, channels = sum(counts), grid.channels
    multiplicity = grid.multiplicity(torch.empty(0, dtype=torch.float64, device=u.device))
    factors = channels / eps_sq * grid.points / multiplicity
    whole: Tensor | None = None
    parts, halves = [], []
    first = 0
    for count in counts:
        v = _double(u[:, :, first : first + count])
        first += count
        moment = v @ v.mH if n >= channels else None
        whole = moment if whole is None or moment is None else whole + moment
        inverse, half = _inverted(v, moment if count >= channels else None, factors / count, eps_sq, inverse=inverses)
        parts.append(inverse)
        halves.append(half)
    inverse, half = _inverted(_double(u) if whole is None else u, whole, factors / n, eps_sq, inverse=inverses)
    rates = [float(value @ multiplicity) / grid.points for value in (half, *halves)]
    classes = sum(count / n * rate for count, rate in zip(counts, rates[1:], strict=True))
    return [inverse, *parts], Rates(rates[0], classes, rates[0] - classes)


def _inverted(v: Tensor, moment: Tensor | None, factors: Tensor, eps_sq: float, *, inverse: bool) -> tuple[Tensor, Tensor]:
    """Inverse (F, C, C) of I + f(p) v v^*, if asked for, and half its log det, (F,), from v v^* or, without it, from v^* v."""
    inner = (v.mH @ v if moment is None else moment) * factors[:, None, None]
    inner.diagonal(dim1=-2, dim2=-1).add_(1.0)
    lower, failed = torch.linalg.cholesky_ex(inner)
    if failed.any() or not torch.isfinite(factors).all():
        raise UsageError(f"eps_sq = {eps_sq:g} is too small for float64: I + Z Z^T / eps^2 is singular. Give a larger one.")
    half = lower.diagonal(dim1=-2, dim2=-1).real.log().sum(dim=-1)
    if not inverse:
        return lower, half
    if moment is not None:
        return torch.cholesky_inverse(lower), half
    solved = torch.linalg.solve_triangular(lower, v.mH, upper=False)  # Woodbury
    residual = (solved.mH @ solved).mul_(-factors[:, None, None])
    residual.diagonal(dim1=-2, dim2=-1).add_(1.0)
    return residual, half


def _double(u: Tensor) -> Tensor:
    double: Tensor = u.to(torch.complex128 if u.is_complex() else torch.float64)
    return double


def normalized(x: Tensor) -> Tensor:
    """Samples (n, ...) divided by their norms; samples of norm below 1e-8 by 1e-8, so that zeros stay zeros."""
    return functional.normalize(x.flatten(1), dim=1, eps=_SMALLEST).view(x.shape)


def norms_of(u: Tensor) -> Tensor:
    """Norms (n,) of spectra (F, C, n)."""
    return _norms(u[:, None])[0]


def _normalize(u: Tensor) -> Tensor:
    """Divide spectra (F, C, n) by their norms, in place."""
    divided: Tensor = u.div_(norms_of(u).clamp(min=_SMALLEST))
    return divided


def _products(u: Tensor, operators: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Chunks of samples, with E u and all C_k u of each: (F, K + 1, C, n'), valid until the next chunk."""
    frequencies, rows, channels = operators.shape
    if _differentiable(u, operators):
        yield slice(None), torch.unflatten(torch.bmm(operators, u), 1, (rows // channels, channels))
        return
    fitting = _CHUNK // (frequencies * rows * u.element_size())
    count = min(u.shape[2], max(_EIGHT, fitting // _EIGHT * _EIGHT))
    buffer = torch.empty(frequencies * rows * count, dtype=u.dtype, device=u.device)  # allocating costs as much as the product
    for first in range(0, u.shape[2], count):
        chunk = slice(first, min(first + count, u.shape[2]))
        width = chunk.stop - chunk.start
        products = buffer[: frequencies * rows * width].view(frequencies, rows, width)
        torch.bmm(operators, u[:, :, chunk], out=products)
        yield chunk, torch.unflatten(products, 1, (rows // channels, channels))


def _differentiable(u: Tensor, operators: Tensor) -> bool:
    """Whether gradients are wanted, which buffers that are used again have not."""
    return torch.is_grad_enabled() and (u.requires_grad or operators.requires_grad)


def _norms(products: Tensor) -> Tensor:
    """Norms over frequencies and channels, (K + 1, n)."""
    squares = _parts(products).square().sum(dim=2).sum(dim=0)  # several times as fast as a norm over both axes
    norms: Tensor = torch.unflatten(squares, 1, (products.shape[-1], 2 if products.is_complex() else 1)).sum(dim=2).sqrt()
    return norms


def _parts(x: Tensor) -> Tensor:
    """Real and imaginary parts of complex numbers (..., n) in turn, (..., 2 n); real ones as they are."""
    return torch.view_as_real(x).flatten(-2) if x.is_complex() else x

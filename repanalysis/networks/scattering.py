r"""Wavelet scattering networks without learning: cascades of wavelets and a non-linearity, averaged over 2^J pixels.

    S_0 = x * phi,   S_1 = rho(x * psi_1) * phi,   S_2 = rho(rho(x * psi_1) * psi_2) * phi,   j_2 > j_1,

subsampled by 2^J, where rho is the complex modulus, or a ReLU without bias of four phases, rho(z) = (relu(Re z), relu(Im z),
relu(-Re z), relu(-Im z)), whose squares sum to |z|^2 (docs/scattering.md, Conventions). With the modulus and
Morlet filters this is kymatio's `Scattering2D`; the channels come in its order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from probes.errors import UsageError
from repanalysis._checks import one_of
from repanalysis.networks.filtering import Filtering, Path, identity, padded_side, reflected, spectrum_of
from repanalysis.networks.wavelets import BANKS, FilterBank, bank

__all__ = ["Scattering", "Wavelets", "phases_of"]

PHASES = (0, 4)


class Scattering(nn.Module):
    r"""Scattering transform of images, (n, c, H, W) -> (n, c P, H / 2^J, W / 2^J) up to rounding down.

    P = 1 + p J L + p^2 L^2 J (J - 1) / 2 channels for each colour, with p = 1 for the modulus and 4 for the four phases;
    without the last term for order 1. Any size of at least 2^J pixels a side, any number of colours.

    Parameters
    ----------
    scales : int, default 3
        J.
    angles : int, default 8
        L.
    order : {1, 2}, default 2
        Maximal number of wavelets on a path.
    phases : {0, 4}, default 0
        4: ReLU of four phases; 0: complex modulus.
    filters : {"morlet", "steerable"}, default "morlet"
        The filter bank.
    tight : bool, default False
        Divide Morlet filters by A^{1/2}, so that they are a tight frame.
    path : {"auto", "fft", "matrix"}, default "auto"
        Method of the wavelet transforms; by default the faster one at each size.

    Raises
    ------
    UsageError
        If a parameter is not allowed; when called, if an image is smaller than 2^J.

    Notes
    -----
    Layers: `order1.J`, rectified images of scale 2^J; `order2.J1_J2`; `average.*`, their averages; and `features`, all
    averages. Images are reflected at their borders to a multiple of 2^J. The filters of a size are computed at the
    first image of that size. Squares of four phases sum to those of the modulus. Time c H W (L J + p L^2 J) log(H W).

    References
    ----------
    J. Bruna, S. Mallat, "Invariant scattering convolution networks", TPAMI 35, 2013. M. Andreux et al., "Kymatio: Scattering
    transforms in Python", JMLR 21, 2020. J. Zarka, F. Guth, S. Mallat, "Separation and concentration in deep networks",
    ICLR 2021.

    Examples
    --------
    >>> tuple(Scattering(scales=2)(torch.zeros(1, 3, 32, 32)).shape)
    (1, 243, 8, 8)
    """

    def __init__(
        self,
        scales: int = 3,
        angles: int = 8,
        *,
        order: int = 2,
        phases: int = 0,
        filters: str = "morlet",
        tight: bool = False,
        path: Path = "auto",
    ) -> None:
        super().__init__()
        one_of("filters", filters, BANKS)
        if scales < 1 or angles < 1:
            raise UsageError(f"J = {scales} scales and L = {angles} angles; both must be at least 1.")
        if order not in (1, 2) or phases not in PHASES:
            raise UsageError(f"order = {order} and phases = {phases}; order is 1 or 2, phases 4 (ReLU) or 0 (modulus).")
        self.scales, self.angles, self.order, self.phases = scales, angles, order, phases
        self.filters, self.tight, self.path = filters, tight, path
        self.order1 = nn.ModuleList([Wavelets(phases) for _ in range(scales)])
        pairs = [(j, k) for j in range(scales) for k in range(j + 1, scales)] if order == 2 else []
        self.order2 = nn.ModuleDict({f"{j}_{k}": Wavelets(phases) for j, k in pairs})
        names = ["order0", *(f"order1_{j}" for j in range(scales)), *(f"order2_{j}_{k}" for j, k in pairs)]
        self.average = nn.ModuleDict({name: Average() for name in names})
        self.features = nn.Identity()
        self._made: tuple[object, ...] = ()

    def _mean(self, *path: int) -> Average:
        """The averaging module for the images of a path of scales."""
        return cast(Average, self.average["_".join([f"order{len(path)}", *map(str, path)])])

    def _second(self, j: int, k: int) -> Wavelets:
        return cast(Wavelets, self.order2[f"{j}_{k}"])

    def forward(self, x: Tensor) -> Tensor:
        """Scattering coefficients, (n, c P, h, w): for each colour S_0, S_1 by scale and angle, S_2 by path."""
        if x.ndim != 4 or min(x.shape[-2:]) < 2**self.scales:
            raise UsageError(
                f"Images of shape {tuple(x.shape)} can't be scattered over J = {self.scales} scales: (n, c, H, W) with "
                f"sides of at least 2^J = {2**self.scales} pixels is needed. Choose a smaller J, or larger images."
            )
        x = x if x.is_floating_point() else x.float()
        self._make(x)
        c = x.shape[1]
        orders = [self._mean()(x)[:, :, None]]
        later = []
        spectrum: Tensor | None = None
        for j, module in enumerate(self.order1):
            wavelets = cast(Wavelets, module)
            if spectrum is None and wavelets.needs_spectrum:
                spectrum = wavelets.spectrum(x)
            u = wavelets(x, spectrum)  # (n, c L p, ...)
            orders.append(torch.unflatten(self._mean(j)(u), 1, (c, -1)))
            deeper = [(k, self._second(j, k)) for k in range(j + 1, self.scales)] if self.order == 2 else []
            again = spectrum_of(u) if any(wavelet.needs_spectrum for _, wavelet in deeper) else None
            shape = (c, u.shape[1] // c, -1)
            second = [torch.unflatten(self._mean(j, k)(wavelet(u, again)), 1, shape) for k, wavelet in deeper]
            if second:
                later.append(torch.cat(second, dim=3).flatten(2, 3))
        features: Tensor = self.features(torch.cat(orders + later, dim=2).flatten(1, 2))
        return features

    def _make(self, x: Tensor) -> None:
        """Compute the filters for images like x, unless they exist."""
        size = (int(x.shape[-2]), int(x.shape[-1]))
        key = (size, x.dtype, x.device)
        if key == self._made:
            return
        padded = tuple(padded_side(side, self.scales) for side in size)
        filter_bank = _bank(self.filters, padded, self.scales, self.angles, tight=self.tight)
        self._mean().prepare_average(filter_bank, 0, self.scales, x, size)
        for j, wavelets in enumerate(self.order1):
            cast(Wavelets, wavelets).prepare(filter_bank.psi[j], x, stride=2**j, size=size, path=self.path)
            self._mean(j).prepare_average(filter_bank, j, self.scales, x)
            for k in range(j + 1, self.scales) if self.order == 2 else ():
                cropped = np.stack([low_frequencies(psi, j) for psi in filter_bank.psi[k]])
                self._second(j, k).prepare(cropped, x, stride=2 ** (k - j), path=self.path)
                self._mean(j, k).prepare_average(filter_bank, k, self.scales, x)
        self._made = key

    def extra_repr(self) -> str:
        """Its parameters."""
        return f"J={self.scales}, L={self.angles}, order={self.order}, phases={self.phases}, filters={self.filters}"


class Wavelets(Filtering):
    """rho(x * psi_theta) of one scale, for all angles: (n, c, H, W) -> (n, c L p, h, w), by angle, then phase.

    Parameters
    ----------
    phases : {0, 4}
        4: ReLU of four phases; 0: complex modulus.
    """

    def __init__(self, phases: int) -> None:
        super().__init__()
        self.phases = phases

    @property
    def needs_spectrum(self) -> bool:
        """Whether it needs the Fourier transform of the images."""
        return not self.matrix.numel()

    def forward(self, x: Tensor, spectrum: Tensor | None = None) -> Tensor:
        """Rectified images."""
        return self.filtered(x, phases_of if self.phases else modulus_of, spectrum).flatten(1, 2)


class Average(Filtering):
    """x * phi, subsampled to the last scale: (n, c, H, W) -> (n, c, h, w)."""

    rows: Tensor
    columns: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.empty(0), persistent=False)
        self.register_buffer("columns", torch.empty(0), persistent=False)

    def prepare_average(
        self, filter_bank: FilterBank, level: int, scales: int, like: Tensor, size: tuple[int, int] | None = None
    ) -> None:
        """Set the low-pass filter for images of 1/2^level the size."""
        stride = 2 ** (scales - level)
        if filter_bank.window is None:
            self.prepare(low_frequencies(filter_bank.phi, level)[None], like, stride=stride, size=size, margin=1)
            return
        kind = torch.float64 if like.dtype == torch.float64 else torch.float32
        sides = [_averaging(low_frequencies(window, level), stride) for window in filter_bank.window]
        if size is not None:
            sides = [
                _gathered(matrix, side, width) for matrix, side, width in zip(sides, size, filter_bank.phi.shape, strict=True)
            ]
        self.rows, self.columns = (torch.from_numpy(side).to(like.device, kind) for side in sides)

    def forward(self, x: Tensor) -> Tensor:
        """Local averages."""
        if not self.rows.numel():
            return self.filtered(x, _first_real)
        # A Gaussian is separable: one matrix per axis, which includes subsampling, padding and cropping.
        across = (x @ self.columns.T).transpose(-2, -1)
        return (across @ self.rows.T).transpose(-2, -1)


def _first_real(z: Tensor, out: Tensor | None = None) -> Tensor:
    return identity(z[:, 0, ..., 0], out)


def phases_of(z: Tensor, out: Tensor | None = None) -> Tensor:
    """relu(Re z), relu(Im z), relu(-Re z), relu(-Im z) of (m, F, h, w, 2) real and imaginary parts, as (m, 4 F, h, w)."""
    both = z.movedim(-1, -3)
    if out is None:
        return torch.cat([both, -both], dim=-3).relu().flatten(1, 2)
    parts = torch.unflatten(out, 1, (-1, 4))
    torch.clamp(both, min=0, out=parts[:, :, :2])
    torch.clamp(both, max=0, out=parts[:, :, 2:]).neg_()
    return out


def modulus_of(z: Tensor, out: Tensor | None = None) -> Tensor:
    """|z| of (m, F, h, w, 2) real and imaginary parts, as (m, F, h, w)."""
    return torch.abs(torch.view_as_complex(z), out=out)


@lru_cache(maxsize=4)
def _bank(name: str, shape: tuple[int, int], scales: int, angles: int, *, tight: bool) -> FilterBank:
    return bank(name, shape, scales, angles, tight=tight)


def low_frequencies(filters: NDArray[np.float64], level: int) -> NDArray[np.float64]:
    """A filter for images that were subsampled by 2^level: its frequencies up to the new Nyquist frequency.

    Examples
    --------
    >>> low_frequencies(np.array([0.0, 1.0, 2.0, 3.0, 4.0, -3.0, -2.0, -1.0]), 1).tolist()
    [0.0, 1.0, -2.0, -1.0]
    """
    for axis in range(filters.ndim):
        half = filters.shape[axis] // 2 ** (level + 1)
        places = np.r_[0:half, filters.shape[axis] - half : filters.shape[axis]] if level else np.arange(filters.shape[axis])
        filters = np.take(filters, places, axis=axis)
    return filters


def _averaging(window: NDArray[np.float64], stride: int) -> NDArray[np.float64]:
    """Matrix of a circular convolution, subsampled, without the first and last sample."""
    kernel = np.fft.ifft(window).real
    side = len(window)
    out = np.arange(1, side // stride - 1) * stride
    return np.asarray(kernel[(out[:, None] - np.arange(side)) % side])


def _gathered(matrix: NDArray[np.float64], side: int, padded: int) -> NDArray[np.float64]:
    """A matrix on padded signals, as a matrix on signals before padding."""
    gathered = np.zeros((len(matrix), side))
    np.add.at(gathered.T, reflected(side, padded), matrix.T)
    return gathered

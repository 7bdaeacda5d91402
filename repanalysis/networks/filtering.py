r"""Convolution of images with filters given in Fourier, and subsampling: through the FFT, or as one matrix.

    z_f(v) = (x * h_f)(k v),   x reflected at its borders to a size (M, N), the convolution circular on that size.

Subsampling by k sums the k x k blocks of the spectrum (aliasing), so that the inverse transform is small. Small
images are filtered faster by the matrix of the linear map, padding included: below about 20 pixels a filter covers the
image.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["Filtering", "Path", "Then", "identity", "padded_side", "reflected", "spectrum_of"]

Path = Literal["auto", "fft", "matrix"]

_NEGLIGIBLE = 1e-9  # blocks of the spectrum with smaller filters, relative to the largest, are skipped
_MATRIX_BYTES = 64 << 20
_FLOPS_RATIO = 25.0  # operations of a matrix product in the time of one of the FFT (benchmarks/scattering.py)
_CHUNK_BYTES = 2 << 20  # size of a block of filtered images, which should stay in the cache


class Then(Protocol):
    """A function of filtered images."""

    def __call__(self, z: Tensor, out: Tensor | None = None) -> Tensor:
        """The function; its result is written to `out` if that is given."""
        ...


def identity(z: Tensor, out: Tensor | None = None) -> Tensor:
    """The filtered images themselves."""
    return z if out is None else out.copy_(z)


def spectrum_of(x: Tensor) -> Tensor:
    """Fourier transform of real images; one half is computed, the other follows by symmetry.

    Examples
    --------
    >>> x = torch.rand(2, 5, 6)
    >>> torch.allclose(spectrum_of(x), torch.fft.fft2(x), atol=1e-5)
    True
    """
    if x.requires_grad:
        transformed: Tensor = torch.fft.fft2(x)
        return transformed
    images = x.flatten(0, -3)
    rows, side = x.shape[-2:]
    n_stored = side // 2 + 1
    whole = torch.empty(images.shape, dtype=torch.complex128 if x.dtype == torch.float64 else torch.complex64, device=x.device)
    step = max(1, _CHUNK_BYTES // (rows * side * 8))
    for image, out in zip(torch.split(images, step), torch.split(whole, step), strict=True):
        half = torch.fft.rfft2(image)
        out[..., :n_stored] = half
        torch.conj_physical(half[..., :1, 1 : side - n_stored + 1].flip(-1), out=out[..., :1, n_stored:])
        torch.conj_physical(half[..., 1:, 1 : side - n_stored + 1].flip(-2, -1), out=out[..., 1:, n_stored:])
    spectrum: Tensor = whole.view(x.shape)
    return spectrum


def padded_side(side: int, scale: int) -> int:
    """Side of the padded image: a multiple of 2^J, at least 2^J larger than the image.

    Examples
    --------
    >>> padded_side(32, 1), padded_side(32, 2), padded_side(7, 1)
    (36, 40, 10)
    """
    step = 2**scale
    return int(((side + step) // step + 1) * step)


def reflected(side: int, padded: int) -> NDArray[np.int64]:
    """Index of the sample at each position of a signal that is reflected at its borders.

    Examples
    --------
    >>> reflected(4, 8).tolist()
    [2, 1, 0, 1, 2, 3, 2, 1]
    """
    if side == 1:
        return np.zeros(padded, np.int64)
    period = 2 * (side - 1)
    places = (np.arange(padded) - (padded - side) // 2) % period
    return np.asarray(np.minimum(places, period - places), np.int64)


class Filtering(nn.Module):
    """Base class of modules that filter images.

    `prepare` sets the filters; it is called if size, dtype or device of the images change. Filters are buffers outside the
    state dictionary.
    """

    weights: Tensor
    matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", torch.empty(0), persistent=False)
        self.register_buffer("matrix", torch.empty(0), persistent=False)
        self.stride, self.margin = 1, 0
        self.padding: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None
        self._blocks: list[tuple[int, int]] = []
        self._prepared: tuple[object, ...] = ()

    def prepare(
        self,
        filters: NDArray[np.float64],
        like: Tensor,
        *,
        stride: int = 1,
        size: tuple[int, int] | None = None,
        margin: int = 0,
        path: Path = "auto",
    ) -> None:
        """Set the filters for images like `like`.

        Parameters
        ----------
        filters : (F, M, N) float64 array
            Filters in the Fourier domain, which are real there.
        like : tensor
            Tensor with the dtype and device of the images.
        stride : int, default 1
            k, a divisor of M and N.
        size : (H, W), optional
            Size of images that are padded by reflection to (M, N).
        margin : int, default 0
            Number of samples to remove at every border of the result.
        path : {"auto", "fft", "matrix"}, default "auto"
            Method; by default the faster one at this size.
        """
        count, rows, columns = filters.shape
        self.stride, self.margin = stride, margin
        self.padding = None if size is None else (reflected(size[0], rows), reflected(size[1], columns))
        blocks = filters.reshape(count, stride, rows // stride, stride, columns // stride).transpose(1, 3, 0, 2, 4)
        largest = np.abs(blocks).max(axis=(2, 3, 4))
        self._blocks = [(int(a), int(b)) for a, b in zip(*np.nonzero(largest > _NEGLIGIBLE * largest.max()), strict=True)]
        matrices = np.stack([blocks[block] for block in self._blocks]) / stride**2
        kind = torch.float64 if like.dtype == torch.float64 else torch.float32
        # Real filters times complex spectra: a real product with both parts side by side.
        self.weights = torch.from_numpy(np.repeat(matrices[..., None], 2, axis=-1)).to(like.device, kind)
        self.matrix = torch.empty(0)
        if path == "matrix" or (path == "auto" and self._matrix_is_faster(size or (rows, columns), filters.shape)):
            height, width = size or (rows, columns)
            basis = torch.eye(height * width, dtype=torch.float64, device=like.device).view(1, -1, height, width)
            exact, self.weights = self.weights, self.weights.double()
            self.matrix = self._through_fft(basis, identity).reshape(height * width, -1).to(kind)
            self.weights = exact

    def _matrix_is_faster(self, size: tuple[int, int], shape: tuple[int, ...]) -> bool:
        count, padded, inputs = shape[0], math.prod(shape[1:]), math.prod(size)
        out = count * padded // self.stride**2
        product = 2.0 * inputs * 2 * out
        transforms = 5 * (padded * math.log2(padded) + out * math.log2(max(2, padded // self.stride**2)))
        spectrum = transforms + 4.0 * out * len(self._blocks)
        return 8 * inputs * out <= _MATRIX_BYTES and product < _FLOPS_RATIO * spectrum

    def filtered(self, x: Tensor, then: Then, spectrum: Tensor | None = None) -> Tensor:
        """Filter and subsample images, and apply `then`.

        Parameters
        ----------
        x : (n, c, H, W) tensor
            Images.
        then : callable
            From real and imaginary parts, (m, F, h, w, 2), to (m, ...), or into the tensor `out` if that is given. It is
            called for a few images at a time, whose transforms are still in the cache.
        spectrum : (n, c, M, N) complex tensor, optional
            Fourier transform of the images, if known.

        Returns
        -------
        (n, c, ...) tensor
            Results of `then` for all images.
        """
        if not self.matrix.numel():
            return self._through_fft(x, then, spectrum)
        outputs = then((x.flatten(2) @ self.matrix).view(-1, *self._inner()))
        return torch.unflatten(outputs, 0, x.shape[:2])

    def _inner(self) -> tuple[int, int, int, int]:
        _, count, rows, columns, _ = self.weights.shape
        return count, rows - 2 * self.margin, columns - 2 * self.margin, 2

    def spectrum(self, x: Tensor) -> Tensor:
        """Fourier transform of the padded images, (n, c, M, N)."""
        if self.padding is not None:
            rows, columns = (torch.from_numpy(index).to(x.device) for index in self.padding)
            x = x.index_select(-2, rows).index_select(-1, columns)
        return spectrum_of(x)

    def _through_fft(self, x: Tensor, then: Then, spectrum: Tensor | None = None) -> Tensor:
        spectrum = self.spectrum(x) if spectrum is None else spectrum
        parts = torch.view_as_real(spectrum).flatten(0, 1)  # (n c, M, N, 2)
        step = max(1, _CHUNK_BYTES // (self.weights[0].numel() * self.weights.element_size()))
        if parts.requires_grad:
            outputs = torch.cat([then(self._inverse(part)) for part in torch.split(parts, step)])
            return torch.unflatten(outputs, 0, x.shape[:2])
        first = then(self._inverse(parts[:step]))
        whole = first.new_empty(len(parts), *first.shape[1:])
        whole[:step] = first
        for start in range(step, len(parts), step):
            then(self._inverse(parts[start : start + step]), whole[start : start + step])
        return torch.unflatten(whole, 0, x.shape[:2])

    def _inverse(self, parts: Tensor) -> Tensor:
        """(m, M, N, 2) spectra -> (m, F, h, w, 2) filtered images."""
        rows, columns = self.weights.shape[2:4]
        blocks = parts.view(len(parts), self.stride, rows, self.stride, columns, 2)
        total: Tensor | None = None
        for (a, b), weight in zip(self._blocks, self.weights, strict=True):
            block = blocks[:, None, a, :, b]
            total = block * weight if total is None else total.addcmul_(block, weight)
        assert total is not None
        z = torch.view_as_real(torch.fft.ifft2(torch.view_as_complex(total)))
        cut = self.margin
        return z[:, :, cut : rows - cut, cut : columns - cut] if cut else z

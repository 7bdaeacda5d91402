r"""Lifting: random circular convolutions and a ReLU, so that the shifts of different signals span different spaces.

    x  ->  relu( sum_c  w_{o,c} * x_c ),   w i.i.d. N(0, 1), fixed,

a cross-correlation on the circularly padded signal (padded at the end by k - 1), of stride 1: a shift of the input shifts the
output, exactly. All shifts of one generic signal span R^T, so that without a non-linearity every class would fill the space.

References
----------
K. H. R. Chan et al., "ReduNet", JMLR 23, 2022, section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from probes.errors import DataError, UsageError

__all__ = ["Lift"]


class Lift(nn.Module):
    """(n, inputs, *size) -> (n, channels, *size), for one or two axes.

    Parameters
    ----------
    inputs, channels : int
        Channels of the input and of the output.
    kernel : int
        Width of the kernels along every axis.
    dimensions : {1, 2}
        Number of axes.
    seed : int, default 0
        Seed of the kernels.

    Raises
    ------
    UsageError
        If a number is below 1.
    DataError
        When called, if the kernels are wider than the signals.

    Examples
    --------
    >>> lift = Lift(1, 4, 3, 1)
    >>> x = torch.rand(2, 1, 10)
    >>> bool(torch.allclose(lift(x.roll(3, dims=2)), lift(x).roll(3, dims=2), atol=1e-6))
    True
    """

    kernels: Tensor

    def __init__(self, inputs: int, channels: int, kernel: int, dimensions: int, *, seed: int = 0) -> None:
        super().__init__()
        if min(inputs, channels, kernel) < 1 or dimensions not in (1, 2):
            raise UsageError(
                f"{inputs} inputs, {channels} channels, kernels of width {kernel} on {dimensions} axes: numbers of at least 1 "
                "and 1 or 2 axes are needed."
            )
        generator = torch.Generator().manual_seed(seed)
        shape = (channels, inputs, *(kernel,) * dimensions)
        self.register_buffer("kernels", torch.randn(shape, generator=generator, dtype=torch.float64))
        self.kernel = kernel

    def forward(self, x: Tensor) -> Tensor:
        """Rectified convolutions."""
        size = x.shape[2:]
        if min(size) < self.kernel:
            raise DataError(f"Kernels of width {self.kernel} do not fit signals of size {tuple(size)}; give a smaller one.")
        padded = functional.pad(x, (0, self.kernel - 1) * len(size), mode="circular")
        convolve = functional.conv1d if len(size) == 1 else functional.conv2d
        return convolve(padded, self.kernels.to(x.dtype)).relu_()

r"""The network of scale detection: blocks of circular convolution and ReLU, a mean over space, a linear read-out.

    x <- F^{d/2} relu( (H_in F^d)^{-1/2} sum_{c'} w_{c,c'} * x_{c'} + b_c ),      f = alpha ( b + beta . mean(x) / H ),

d dimensions, filters of width F, stride s, H channels, all parameters N(0, 1) at first (docs/stability.md, Formulas).
Even widths pad F/2 - 1 to the left and F/2 to the right. Each block is a layer for hooks.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from probes.errors import UsageError

__all__ = ["ScaleNet"]


class _Block(nn.Module):
    """Circular convolution, bias, ReLU."""

    def __init__(self, inputs: int, channels: int, width: int, stride: int, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(channels, inputs, *(width,) * dimensions))
        self.bias = nn.Parameter(torch.randn(channels))
        self.width, self.stride, self.dimensions = width, stride, dimensions

    def forward(self, x: Tensor) -> Tensor:
        before, after = (self.width - 1) // 2, self.width // 2
        x = functional.pad(x, (before, after) * self.dimensions, mode="circular")
        convolve = functional.conv1d if self.dimensions == 1 else functional.conv2d
        fan = self.weight[0].numel()
        y = convolve(x, self.weight * fan**-0.5, self.bias, self.stride)
        activations: Tensor = functional.relu(y) * self.width ** (self.dimensions / 2)
        return activations


class ScaleNet(nn.Module):
    """A network for scale detection, (n, 1, h, w) -> (n, 1); above 0 is near.

    Parameters
    ----------
    blocks : int, default 12
        Number of layers.
    width : int, default 3
        F.
    stride : int, default 1
        s; F = s pools nested blocks.
    channels : int, default 64
        H; the learning rate is proportional to it, 0.01 H in the paper.
    dimensions : {1, 2}, default 1
        Dimensions of the image; 1: images have one row.
    alpha : float, default 1
        Scale of the output.

    Raises
    ------
    UsageError
        If a parameter is out of range, or, when called, an image is too small for the strides.

    Examples
    --------
    >>> net = ScaleNet(blocks=3, width=2, stride=2, channels=8)
    >>> tuple(net(torch.zeros(5, 1, 1, 32)).shape)
    (5, 1)
    """

    def __init__(  # noqa: PLR0917  # all are passed by name
        self, blocks: int = 12, width: int = 3, stride: int = 1, channels: int = 64, dimensions: int = 1, alpha: float = 1.0
    ) -> None:
        super().__init__()
        if min(blocks, stride, channels) < 1 or width < stride or dimensions not in (1, 2):
            raise UsageError(
                f"{blocks} blocks of width {width}, stride {stride}, {channels} channels, {dimensions} dimensions: all must be "
                "positive, dimensions 1 or 2, and filters at least as wide as the stride."
            )
        self.dimensions, self.stride, self.alpha = dimensions, stride, alpha
        inputs = [1, *[channels] * (blocks - 1)]
        self.blocks = nn.Sequential(*[_Block(n_inputs, channels, width, stride, dimensions) for n_inputs in inputs])
        self.read_out = nn.Linear(channels, 1)
        nn.init.normal_(self.read_out.weight)
        nn.init.normal_(self.read_out.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Score of images."""
        smallest = self.stride ** len(self.blocks)
        if min(x.shape[-self.dimensions :]) < smallest:
            raise UsageError(
                f"{len(self.blocks)} blocks of stride {self.stride} need {smallest} pixels; images have {x.shape[-1]}."
            )
        x = self.blocks(x[:, :, 0] if self.dimensions == 1 and x.ndim == 4 else x)
        pooled = x.flatten(2).mean(2)
        score: Tensor = self.read_out(pooled / pooled.shape[1])
        return self.alpha * score

"""Networks with shuffled channels: every convolution has the same spatial filters on other input channels.

W[out, in, F, F] becomes W[:, pi(in)], with one random permutation pi per layer. Each layer keeps its filters, and so its
spatial pooling; the pairing of channels and filters (channel pooling) is lost. The difference in sensitivity between random
weights and the shuffled copy is due to spatial pooling, that between the copy and the trained network to channel pooling
(docs/stability.md, Formulas; Tomasini et al. 2023).
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from probes.errors import UsageError

__all__ = ["shuffled_channels"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def shuffled_channels(model: nn.Module, *, seed: int = 0, outputs: bool = False) -> nn.Module:
    """A copy of a network whose convolutions read their input channels in random order.

    Parameters
    ----------
    model : torch.nn.Module
        Not changed.
    seed : int, default 0
        Seed of the permutations.
    outputs : bool, default False
        Whether output channels are permuted as well, with one permutation per layer. Biases and norms are not permuted.

    Returns
    -------
    torch.nn.Module
        With the same filters in every layer, in the same mode. Within a group of a grouped convolution, only its own channels
        are exchanged: a depthwise one is unchanged unless `outputs`.

    Raises
    ------
    UsageError
        If the network has no convolution.

    Examples
    --------
    >>> net = nn.Conv2d(4, 2, 3)
    >>> twin = shuffled_channels(net)
    >>> bool(torch.allclose(net.weight.sum(1), twin.weight.sum(1))), bool(torch.equal(net.weight, twin.weight))
    (True, False)
    """
    copied = deepcopy(model)
    layers = [module for module in copied.modules() if isinstance(module, _CONVOLUTIONS)]
    if not layers:
        raise UsageError(f"{type(model).__name__} has no convolution whose channels could be shuffled.")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in layers:
            weight = layer.weight
            weight.copy_(weight[:, torch.randperm(weight.shape[1], generator=generator).to(weight.device)])
            if outputs:
                weight.copy_(weight[torch.randperm(weight.shape[0], generator=generator).to(weight.device)])
    return copied

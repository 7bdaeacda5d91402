"""A small convolutional network for 8 x 8 digits, and its training: the network of `repanalysis demo`.

Four 3 x 3 convolutions (32, 32, 64, 64 channels), each with batch norm and ReLU, a max pooling after the second, a mean
over space, and two linear layers: 69,994 parameters, a few seconds of training on two cores. Without batch norm its
accuracy on the held-out half is 76 % after 20 epochs, with it 99 %.
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

__all__ = ["digits_cnn"]


def digits_cnn() -> nn.Sequential:
    """The untrained network, (n, 1, 8, 8) -> (n, 10).

    Examples
    --------
    >>> import torch
    >>> tuple(digits_cnn()(torch.zeros(2, 1, 8, 8)).shape)
    (2, 10)
    """
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for index, (inputs, outputs) in enumerate([(1, 32), (32, 32), (32, 64), (64, 64)], start=1):
        parts[f"conv{index}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        parts[f"norm{index}"] = nn.BatchNorm2d(outputs)
        parts[f"relu{index}"] = nn.ReLU()
        if index == 2:
            parts["pool"] = nn.MaxPool2d(2)
    parts |= {"mean": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    parts |= {"fc1": nn.Linear(64, 64), "relu5": nn.ReLU(), "fc2": nn.Linear(64, 10)}
    return nn.Sequential(parts)

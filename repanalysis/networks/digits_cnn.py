"""A small convolutional network for 8 x 8 digits, and its training: the network of `repanalysis demo`.

Four 3 x 3 convolutions (32, 32, 64, 64 channels), each with batch norm and ReLU, a max pooling after the second, a mean
over space, and two linear layers: 69,994 parameters, a few seconds of training on two cores. Without batch norm the mean
over space leaves it at 76 % after the same 20 epochs; with it the held-out half is at 99 %.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from repanalysis.inputs.data import Data
from repanalysis.networks.crops import random_crops

__all__ = ["accuracy", "digits_cnn", "train"]


def digits_cnn() -> nn.Sequential:
    """The untrained network, (n, 1, 8, 8) -> (n, 10).

    Examples
    --------
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


def train(model: nn.Module, data: Data, *, epochs: int = 20, seed: int = 0, progress: bool | None = None) -> None:
    """Train in place: cross-entropy, Adam, learning rate 3e-3 falling to 0 as a cosine, random shifts by one pixel.

    Parameters
    ----------
    model : torch.nn.Module
        From images to class scores.
    data : Data
        Training images with labels.
    epochs : int, default 20
        Passes over the data.
    seed : int, default 0
        For the order of the samples and the shifts.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.
    """
    generator = torch.Generator().manual_seed(seed)
    loader = DataLoader(data, 64, shuffle=True, generator=generator, drop_last=True)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
    model.train()
    for _ in tqdm(range(epochs), desc="train", unit=" epochs", disable=None if progress is None else not progress):
        for images, labels, _ids in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(random_crops(images, 1, generator)), labels)
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    model.eval()


def accuracy(model: nn.Module, data: Data) -> float:
    """Share of the samples whose highest score is their own class, in [0, 1]."""
    hits = 0
    with torch.no_grad():
        for images, labels, _ids in data.loader(256):
            hits += int((model(images).argmax(1) == labels).sum())
    return hits / len(data)

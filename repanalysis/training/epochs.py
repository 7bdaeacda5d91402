"""An epoch: images that are kept ready, shuffled and augmented from a seed, and one pass of an optimiser over them.

Order, augmentation and noise of an epoch depend on (seed, epoch) alone, so that whoever runs it again sees the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_doc import Doc
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from probes.errors import DataError, UsageError
from repanalysis._checks import not_negative, one_of, positive
from repanalysis.inputs.data import Data
from repanalysis.networks.crops import random_crops

__all__ = ["Images", "TrainConfig", "accuracy", "fit", "train_epoch"]

SCHEDULES = ("steps", "cosine", "constant")
LOSSES = ("cross-entropy", "hinge")
OPTIMIZERS = ("sgd", "adamw")

_HELD_BYTES = 4 << 30  # images that are kept in memory once they are read
_STEPS = 300 / 70  # the rate falls every 70 of 300 epochs
_BORDER = 8  # crops move by up to 1/8 of the side: 4 pixels of 32


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    Attributes
    ----------
    epochs, batch_size, seed : int
        Passes over the data, samples per step, and what everything random depends on.
    lr : float
        Learning rate at the start.
    schedule : {"steps", "cosine", "constant"}
        A tenth of the rate after every 70 of 300 epochs, down to 0 as half a cosine, or the same throughout.
    augment : bool, "crops" or None
        Random flips and crops, crops alone, or neither; None: both where images have three colours.
    loss : {"cross-entropy", "hinge"}
        Hinge: max(0, 1 - y f) of a single score f, for two classes y = -1, 1.
    momentum, weight_decay : float
        Of SGD; the weight decay is that of all but constrained matrices.
    noise : float
        Euclidean norm of white noise that is added to every image, drawn anew in every epoch: N(0, noise^2 / d) in each of its
        d numbers.
    until_fitted : bool
        Whether to stop after the first epoch with a hinge loss of 0, or, with cross-entropy, without a mistake.
    optimizer : {"sgd", "adamw"}
        AdamW, which transformers need, takes no momentum; its moments fade at their usual rates.
    """

    epochs: Annotated[int, Ge(1), Doc("Passes over the data.")] = 300
    batch_size: Annotated[int, Ge(2), Doc("Images per step.")] = 128
    lr: Annotated[float, Doc("Learning rate at the start.")] = 0.01
    schedule: Annotated[str, Doc("steps: a tenth after every 70 of 300 epochs; cosine or constant.")] = "steps"
    augment: Annotated[bool | Literal["crops"] | None, Doc("Random flips and crops; default for images in colour.")] = None
    seed: int = 0
    loss: Annotated[str, Doc("cross-entropy, or hinge for one score and two classes.")] = "cross-entropy"
    momentum: Annotated[float, Doc("Of SGD.")] = 0.9
    weight_decay: Annotated[float, Doc("Weight decay.")] = 1e-4
    noise: Annotated[float, Doc("Norm of white noise that is added to the images.")] = 0.0
    until_fitted: Annotated[bool, Doc("Stop once the training images are fitted.")] = False
    optimizer: Annotated[str, Doc("sgd, or adamw for transformers, with a learning rate of 0.001 or so.")] = "sgd"

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("loss", self.loss, LOSSES)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        positive("lr", self.lr)
        for what in ("momentum", "weight_decay", "noise"):
            not_negative(what, getattr(self, what))
        if self.epochs < 1 or self.batch_size < 2:
            raise UsageError(f"{self.epochs} epochs of batches of {self.batch_size}; at least 1 and 2 are needed.")

    def optimizer_of(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        """The optimiser of parameters, or of groups of them with weight decays of their own."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def lr_at(self, progress: float) -> float:
        """Learning rate after a share of all steps, in [0, 1].

        Examples
        --------
        >>> [round(TrainConfig().lr_at(epoch / 300), 6) for epoch in (0, 69, 70, 140, 299)]
        [0.01, 0.01, 0.001, 0.0001, 1e-06]
        """
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "cosine":
            return self.lr * (1 + math.cos(math.pi * progress)) / 2
        return float(self.lr * 0.1 ** math.floor(progress * _STEPS + 1e-9))


class Images:
    """Prepared images by row: in memory, or read again and again where they take more than 4 GB.

    Parameters
    ----------
    data : Data
        Where they come from; it has labels.
    images : tensor or None
        All of them, if they are in memory.
    """

    def __init__(self, data: Data, images: Tensor | None) -> None:
        self.data, self.images = data, images
        self.labels = torch.from_numpy(np.asarray(data.labels, np.int64))

    @classmethod
    def of(cls, data: Data, *, hidden: bool | None) -> Images:
        """The images of a data set; reads them, if they can be kept.

        Raises
        ------
        DataError
            If they have no labels.
        """
        if data.labels is None:
            raise DataError(f"{data.spec} has no labels to train on.")
        if lacking := int((data.labels < 0).sum()):
            raise DataError(f"{lacking} of {len(data)} samples of {data.spec} have no label to train on; leave them out.")
        first = data[0][0]
        if first.numel() * 4 * len(data) > _HELD_BYTES:
            return cls(data, None)
        images = torch.empty(len(data), *first.shape)
        for row in tqdm(range(len(data)), desc="read", unit=" images", leave=False, disable=hidden):
            images[row] = data[row][0]
        return cls(data, images)

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images and labels of some rows."""
        if self.images is not None:
            return self.images[rows], self.labels[rows]
        return torch.stack([self.data[int(row)][0] for row in rows]), self.labels[rows]


def train_epoch(
    network: nn.Module,
    images: Images,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    *,
    epoch: int,
    device: str,
    after_step: Callable[[], object] | None = None,
    hidden: bool | None = None,
) -> dict[str, float]:
    """One pass over the images.

    Parameters
    ----------
    network : torch.nn.Module
        In the mode, train or eval, in which it is to be.
    images : Images
        Whole batches of them are used; a rest is left out.
    optimizer : torch.optim.Optimizer
        Of the parameters that are to move.
    config : TrainConfig
        Rate, batches, loss, noise and augmentation.
    epoch : int
        Which, from 1 on.
    device : str
        Where the network is.
    after_step : callable, optional
        What to do after every step, such as to set weights back to where they must be.
    hidden : bool, optional
        Whether the progress bar is hidden; None: unless on a terminal.

    Returns
    -------
    dict
        lr at the start, mean loss, train_accuracy.

    Raises
    ------
    DataError
        If the loss is no longer finite, or there is no whole batch.
    """
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    if not (steps := len(images) // config.batch_size):
        raise DataError(f"{len(images)} images do not fill a batch of {config.batch_size}; take more images.")
    loss_sum, hits = 0.0, 0
    for step, rows in enumerate(
        tqdm(_order(len(images), config.batch_size, generator), leave=False, disable=hidden, unit=" steps")
    ):
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at((epoch - 1 + step / steps) / config.epochs)
        x, labels = images.batch(rows)
        if config.augment or (config.augment is None and x.shape[1] == 3):
            x = _moved(x, generator, mirror=config.augment != "crops")
        if config.noise:
            x = x + torch.randn(x.shape, generator=generator) * (config.noise / x[0].numel() ** 0.5)
        x, labels = x.to(device), labels.to(device)
        optimizer.zero_grad()
        scores = network(x)
        loss = _loss(scores, labels, config.loss)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DataError(f"The loss is {value} in epoch {epoch}: the learning rate {config.lr} is too large; lower --lr.")
        torch.autograd.backward(loss)
        optimizer.step()
        if after_step is not None:
            after_step()
        loss_sum += value * len(rows)
        hits += _hits(scores, labels)
    seen = steps * config.batch_size
    return {"lr": config.lr_at((epoch - 1) / config.epochs), "loss": loss_sum / seen, "train_accuracy": hits / seen}


def fit(
    network: nn.Module, data: Data, config: TrainConfig = TrainConfig(), *, device: str = "cpu", progress: bool | None = None
) -> None:
    """Train a network in place; afterwards it is in eval mode. `repanalysis.train` leaves checkpoints and goes on after a stop.

    Parameters
    ----------
    network : torch.nn.Module
        From images to class scores.
    data : Data
        Training images with labels.
    config : TrainConfig
        How.
    device : str, default "cpu"
        Where the network is.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.

    Raises
    ------
    DataError
        If the images have no labels or do not fill a batch, or the loss is no longer finite.
    """
    hidden = None if progress is None else not progress
    images = Images.of(data, hidden=hidden)
    optimizer = config.optimizer_of(network.parameters())
    for epoch in tqdm(range(1, config.epochs + 1), desc="train", unit=" epochs", disable=hidden):
        train_epoch(network.train(), images, optimizer, config, epoch=epoch, device=device, hidden=True)
    network.eval()


def accuracy(network: nn.Module, images: Images, batch_size: int, device: str) -> float:
    """Share of images that the network, in eval mode from here on, gets right."""
    network.eval()
    hits = 0
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(images)), batch_size):
            x, labels = images.batch(rows)
            hits += _hits(network(x.to(device)).cpu(), labels)
    return hits / len(images)


def _loss(scores: Tensor, labels: Tensor, loss: str) -> Tensor:
    """Mean loss of a batch."""
    if loss == "cross-entropy":
        return functional.cross_entropy(scores, labels)
    if scores.shape[1:] != (1,):
        raise UsageError(f"The hinge loss takes one score per image; the network gives {tuple(scores.shape[1:])}.")
    return functional.relu(1 - (2 * labels - 1) * scores[:, 0]).mean()


def _hits(scores: Tensor, labels: Tensor) -> int:
    """How many are right: the highest score, or the sign of a single one."""
    predicted = scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > 0).long()
    return int((predicted == labels).sum())


def _order(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Rows of every full batch, in random order."""
    return list(torch.randperm(n, generator=generator)[: n // batch_size * batch_size].view(-1, batch_size))


def _moved(images: Tensor, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Each image moved by up to 1/8 of its side, and half of them mirrored; zeros, the mean colour, come in."""
    if mirror:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return random_crops(images, max(1, max(images.shape[-2:]) // _BORDER), generator).contiguous()

"""One epoch of training: seeded shuffling and augmentation of prepared images, and one pass of an optimiser.

Order, augmentation and noise of an epoch depend on (seed, epoch) alone: a repeated epoch has the same batches.
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

_CACHE_BYTES = 4 << 30  # data sets up to this size are kept in memory
_STEPS = 300 / 70  # the learning rate drops every 70 of 300 epochs
_BORDER = 8  # crops move by up to 1/8 of the side: 4 pixels of 32


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training.

    Attributes
    ----------
    epochs, batch_size, seed : int
        Passes over the data, samples per step, and the seed of everything random.
    lr : float
        Initial learning rate.
    schedule : {"steps", "cosine", "constant"}
        Learning rate: divided by 10 after every 70 of 300 epochs, falling to 0 as half a cosine, or constant.
    augment : bool, "crops" or None
        Random flips and crops, crops alone, or neither; None: both if images have three colours.
    loss : {"cross-entropy", "hinge"}
        Hinge: max(0, 1 - y f) of a single score f, for two classes y = -1, 1.
    momentum, weight_decay : float
        Momentum of SGD; weight decay of all parameters but constrained matrices.
    noise : float
        Euclidean norm of white noise added to every image, drawn anew in every epoch: N(0, noise^2 / d) in each of the d
        values.
    until_fitted : bool
        Stop after the first epoch with a hinge loss of 0, or, with cross-entropy, a training accuracy of 1.
    optimizer : {"sgd", "adamw"}
        AdamW, for transformers, ignores `momentum` and has its default betas.
    """

    epochs: Annotated[int, Ge(1), Doc("Passes over the data.")] = 300
    batch_size: Annotated[int, Ge(2), Doc("Images per step.")] = 128
    lr: Annotated[float, Doc("Initial learning rate.")] = 0.01
    schedule: Annotated[str, Doc("steps: divide the rate by 10 after each 70/300 of the epochs; cosine or constant.")] = "steps"
    augment: Annotated[bool | Literal["crops"] | None, Doc("Random flips and crops; default for images in colour.")] = None
    seed: int = 0
    loss: Annotated[str, Doc("cross-entropy, or hinge for one score and two classes.")] = "cross-entropy"
    momentum: Annotated[float, Doc("Momentum of SGD.")] = 0.9
    weight_decay: Annotated[float, Doc("Weight decay.")] = 1e-4
    noise: Annotated[float, Doc("Norm of white noise added to every image.")] = 0.0
    until_fitted: Annotated[bool, Doc("Stop once the training images are fitted.")] = False
    optimizer: Annotated[str, Doc("sgd, or adamw for transformers, with a learning rate of 0.001 or so.")] = "sgd"

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("loss", self.loss, LOSSES)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        positive("lr", self.lr)
        for name in ("momentum", "weight_decay", "noise"):
            not_negative(name, getattr(self, name))
        if self.epochs < 1 or self.batch_size < 2:
            raise UsageError(f"{self.epochs} epochs of batches of {self.batch_size}; at least 1 and 2 are needed.")

    def optimizer_of(self, parameters: Iterable[Any]) -> torch.optim.Optimizer:
        """The optimiser for parameters, or for groups of them with their own weight decay."""
        if self.optimizer == "adamw":
            return torch.optim.AdamW(parameters, self.lr, weight_decay=self.weight_decay)
        return torch.optim.SGD(parameters, self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def lr_at(self, progress: float) -> float:
        """Learning rate at `progress`, the share of all steps that are done, in [0, 1].

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
    """Prepared images by row: in memory, or, above 4 GB, read again in every epoch.

    Parameters
    ----------
    data : Data
        Data set with labels.
    images : tensor or None
        All images, if they are in memory.
    """

    def __init__(self, data: Data, images: Tensor | None) -> None:
        self.data, self.images = data, images
        self.labels = torch.from_numpy(np.asarray(data.labels, np.int64))

    @classmethod
    def of(cls, data: Data, *, hidden: bool | None) -> Images:
        """The images of a data set, read into memory if they fit.

        Raises
        ------
        DataError
            If samples have no labels.
        """
        if data.labels is None:
            raise DataError(f"{data.spec} has no labels; training needs them.")
        if n_unlabelled := int((data.labels < 0).sum()):
            raise DataError(f"{n_unlabelled} of {len(data)} samples of {data.spec} have no label; leave them out.")
        first = data[0][0]
        if first.numel() * 4 * len(data) > _CACHE_BYTES:
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
        In train or eval mode, which is not changed.
    images : Images
        Only full batches are used.
    optimizer : torch.optim.Optimizer
        With the parameters to train.
    config : TrainConfig
        Learning rate, batch size, loss, noise and augmentation.
    epoch : int
        Number of the epoch, from 1.
    device : str
        Device of the network.
    after_step : callable, optional
        Called after every step, for example to project weights onto their constraint.
    hidden : bool, optional
        Hide the progress bar; None: hide it unless on a terminal.

    Returns
    -------
    dict
        lr at the start of the epoch, mean loss, train_accuracy.

    Raises
    ------
    DataError
        If the loss is not finite, or there is no full batch.
    """
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + epoch)
    if not (steps := len(images) // config.batch_size):
        raise DataError(f"{len(images)} images do not fill a batch of {config.batch_size}; take more images.")
    loss_sum, n_correct = 0.0, 0
    for step, rows in enumerate(
        tqdm(_order(len(images), config.batch_size, generator), leave=False, disable=hidden, unit=" steps")
    ):
        for group in optimizer.param_groups:
            group["lr"] = config.lr_at((epoch - 1 + step / steps) / config.epochs)
        x, labels = images.batch(rows)
        if config.augment or (config.augment is None and x.shape[1] == 3):
            x = _augmented(x, generator, mirror=config.augment != "crops")
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
        n_correct += _n_correct(scores, labels)
    n_seen = steps * config.batch_size
    return {"lr": config.lr_at((epoch - 1) / config.epochs), "loss": loss_sum / n_seen, "train_accuracy": n_correct / n_seen}


def fit(
    network: nn.Module, data: Data, config: TrainConfig = TrainConfig(), *, device: str = "cpu", progress: bool | None = None
) -> None:
    """Train a network in place and leave it in eval mode; `repanalysis.train` also writes checkpoints and can resume.

    Parameters
    ----------
    network : torch.nn.Module
        From images to class scores.
    data : Data
        Training images with labels.
    config : TrainConfig
        Options of the training.
    device : str, default "cpu"
        Device of the network.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.

    Raises
    ------
    DataError
        If the images have no labels or do not fill a batch, or the loss is not finite.
    """
    hidden = None if progress is None else not progress
    images = Images.of(data, hidden=hidden)
    optimizer = config.optimizer_of(network.parameters())
    for epoch in tqdm(range(1, config.epochs + 1), desc="train", unit=" epochs", disable=hidden):
        train_epoch(network.train(), images, optimizer, config, epoch=epoch, device=device, hidden=True)
    network.eval()


def accuracy(network: nn.Module, images: Images, batch_size: int, device: str) -> float:
    """Share of correctly classified images; puts the network in eval mode."""
    network.eval()
    n_correct = 0
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(images)), batch_size):
            x, labels = images.batch(rows)
            n_correct += _n_correct(network(x.to(device)).cpu(), labels)
    return n_correct / len(images)


def _loss(scores: Tensor, labels: Tensor, loss: str) -> Tensor:
    """Mean loss of a batch."""
    if loss == "cross-entropy":
        return functional.cross_entropy(scores, labels)
    if scores.shape[1:] != (1,):
        raise UsageError(f"The hinge loss takes one score per image; the network gives {tuple(scores.shape[1:])}.")
    return functional.relu(1 - (2 * labels - 1) * scores[:, 0]).mean()


def _n_correct(scores: Tensor, labels: Tensor) -> int:
    """Number of correct predictions: by the highest score, or the sign of a single score."""
    predicted = scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > 0).long()
    return int((predicted == labels).sum())


def _order(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Rows of the full batches, in random order."""
    return list(torch.randperm(n, generator=generator)[: n // batch_size * batch_size].view(-1, batch_size))


def _augmented(images: Tensor, generator: torch.Generator, *, mirror: bool) -> Tensor:
    """Random crops, shifted by up to 1/8 of the side, with zeros (the mean colour) outside; `mirror` flips half of them."""
    if mirror:
        mirrored = torch.rand(len(images), generator=generator) < 0.5
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return random_crops(images, max(1, max(images.shape[-2:]) // _BORDER), generator).contiguous()

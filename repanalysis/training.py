"""Training a classifier from a specification: SGD, seeded, with checkpoints that can be resumed and analysed.

The recipe is that of the scattering networks (specification of separation, section 4.7), for any network: cross-entropy,
momentum 0.9, weight decay 1e-4 on everything but constrained matrices, a rate that falls by 10 in steps or to 0 as a cosine;
random flips and crops of images in colour. Order and augmentation of an epoch depend on (seed, epoch) only, so that a run that
was stopped goes on to the same end. A folder holds

    run.json              what was asked for
    log.csv               a row per epoch: loss, accuracies, how far frames are from tight, seconds
    epoch-000.safetensors ...  weights, as `--weights` takes them, from before the first epoch on
    last.safetensors      weights and momenta, to go on with
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from probes.errors import DataError, UsageError
from repanalysis._checks import not_negative, one_of, positive
from repanalysis.data import Data, load_data
from repanalysis.extraction import best_device, colours
from repanalysis.models import load_model
from repanalysis.networks.concentrated import frames
from repanalysis.networks.crops import random_crops

__all__ = ["Recipe", "train"]

SCHEDULES = ("steps", "cosine", "constant")
LOSSES = ("cross-entropy", "hinge")

_HELD_BYTES = 4 << 30  # images that are kept in memory once they are read
_STEPS = 300 / 70  # the rate falls every 70 of 300 epochs
_BORDER = 8  # crops move by up to 1/8 of the side: 4 pixels of 32


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes
    ----------
    epochs, batch_size, seed : int
        Passes over the data, samples per step, and what everything random depends on.
    rate : float
        Learning rate at the start.
    schedule : {"steps", "cosine", "constant"}
        A tenth of the rate after every 70 of 300 epochs, down to 0 as half a cosine, or the same throughout.
    augment : bool or None
        Random flips and crops; None: where images have three colours.
    loss : {"cross-entropy", "hinge"}
        Hinge: max(0, 1 - y f) of a single score f, for two classes y = -1, 1.
    momentum, decay : float
        Of SGD; the weight decay is that of all but constrained matrices.
    noise : float
        Euclidean norm of white noise that is added to every image, drawn anew in every epoch: N(0, noise^2 / d) in each of its
        d numbers.
    until_fitted : bool
        Whether to stop after the first epoch with a hinge loss of 0, or, with cross-entropy, without a mistake.
    """

    epochs: int = 300
    batch_size: int = 128
    rate: float = 0.01
    schedule: str = "steps"
    augment: bool | None = None
    seed: int = 0
    loss: str = "cross-entropy"
    momentum: float = 0.9
    decay: float = 1e-4
    noise: float = 0.0
    until_fitted: bool = False

    def __post_init__(self) -> None:
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("loss", self.loss, LOSSES)
        positive("rate", self.rate)
        for what in ("momentum", "decay", "noise"):
            not_negative(what, getattr(self, what))
        if self.epochs < 1 or self.batch_size < 2:
            raise UsageError(f"{self.epochs} epochs of batches of {self.batch_size}; at least 1 and 2 are needed.")

    def rate_at(self, progress: float) -> float:
        """Learning rate after a share of all steps, in [0, 1].

        Examples
        --------
        >>> [round(Recipe().rate_at(epoch / 300), 6) for epoch in (0, 69, 70, 140, 299)]
        [0.01, 0.01, 0.001, 0.0001, 1e-06]
        """
        if self.schedule == "constant":
            return self.rate
        if self.schedule == "cosine":
            return self.rate * (1 + math.cos(math.pi * progress)) / 2
        return float(self.rate * 0.1 ** math.floor(progress * _STEPS + 1e-9))


def train(
    model: str,
    data: str,
    folder: str | PathLike[str],
    recipe: Recipe | None = None,
    *,
    split: str | None = None,
    test: str | None = None,
    test_split: str | None = None,
    limit: int | None = None,
    weights: str | None = "random",
    device: str | None = None,
    save_every: int | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Train a network and leave its checkpoints in a folder.

    Parameters
    ----------
    model : str
        Such as `scattering:variant=SC,J=4`; as for `load_model`.
    data, split : str
        Training images; as for `load_data`.
    folder : path-like
        Where everything goes.
    recipe : Recipe, optional
        How; by default the original's 300 epochs.
    test, test_split : str, optional
        Images to score after every epoch; by default `data` with the test split, if either is given.
    limit : int, optional
        Train on a random subset of so many images.
    weights : str, optional
        Where to start; by default at random weights of the seed.
    device : str, optional
        By default the GPU, if there is one.
    save_every : int, optional
        Keep the weights of every so many epochs; by default of ten in all. First and last are kept anyway.
    resume : bool, default False
        Go on with a folder whose training was stopped.
    progress : bool, optional
        Show progress bars; by default only on a terminal.

    Returns
    -------
    pandas.DataFrame
        The log: a row per epoch.

    Raises
    ------
    UsageError
        If the folder holds a run already and `resume` is false, or another run than this one.
    DataError
        If the images have no labels, or fewer than a batch are there.

    Notes
    -----
    Images are read, prepared and kept in memory once, up to 4 GB; beyond that they are read anew in every epoch.
    """
    recipe, folder = recipe or Recipe(), Path(folder)
    asked = {"model": model, "data": data, "split": split, "limit": limit, "weights": weights, **asdict(recipe)}
    log = _begin(folder, asked, resume=resume)
    torch.manual_seed(recipe.seed)
    built = load_model(model, weights=weights)
    network, where = built.module.to(device or best_device()), device or best_device()
    options: dict[str, Any] = {"transform": built.transform, "colours": colours(built)}
    samples = load_data(data, split=split, **options)
    samples = samples if limit is None else samples.sample(limit, seed=recipe.seed)
    scored = load_data(test or data, split=test_split, **options) if test or test_split else None
    for one in (samples, scored):
        if one is not None and one.labels is None:
            raise DataError(f"{one.spec} has no labels to train on.")
    if len(samples) < recipe.batch_size:
        raise DataError(f"{len(samples)} images do not fill a batch of {recipe.batch_size}; choose a smaller batch size.")
    hidden = None if progress is None else not progress
    training, testing = _Held.of(samples, hidden=hidden), None if scored is None else _Held.of(scored, hidden=hidden)
    optimizer = torch.optim.SGD(_groups(network, recipe.decay), recipe.rate, momentum=recipe.momentum)
    done = len(log)
    if done:
        _restore(folder / "last.safetensors", network, optimizer)
    else:
        _save(folder / "epoch-000.safetensors", network.state_dict(), model, 0)
    if recipe.until_fitted and log and _fitted(log[-1], recipe.loss):
        return pd.DataFrame(log)
    keep = save_every or max(1, recipe.epochs // 10)
    with tqdm(total=recipe.epochs, initial=done, desc="train", unit=" epochs", disable=hidden) as bar:
        for epoch in range(done + 1, recipe.epochs + 1):
            start = time.perf_counter()
            row: dict[str, Any] = {
                "epoch": epoch,
                **_epoch(network, training, optimizer, recipe, epoch=epoch, device=where, hidden=hidden),
            }
            if testing is not None:
                row["test_accuracy"] = _accuracy(network, testing, recipe.batch_size, where)
            row["frame_deviation"] = max((one.deviation() for one in frames(network).values()), default=math.nan)
            row["seconds"] = time.perf_counter() - start
            log.append(row)
            fitted = recipe.until_fitted and _fitted(row, recipe.loss)
            if epoch % keep == 0 or epoch == recipe.epochs or fitted:
                _save(folder / f"epoch-{epoch:03d}.safetensors", network.state_dict(), model, epoch)
            _save(folder / "last.safetensors", _everything(network, optimizer), model, epoch)
            pd.DataFrame(log).to_csv(folder / "log.csv", index=False)
            bar.update()
            bar.set_postfix({key: f"{row[key]:.3g}" for key in ("loss", "test_accuracy") if key in row})
            if fitted:
                break
    return pd.DataFrame(log)


def _begin(folder: Path, asked: Mapping[str, Any], *, resume: bool) -> list[dict[str, Any]]:
    """The epochs that are done; the folder is made, or found to be this run's."""
    known = folder / "run.json"
    if known.exists():
        if not resume:
            raise UsageError(f"{folder} holds a training run already; --resume goes on with it, or give another folder.")
        there = json.loads(known.read_text(encoding="utf-8"))
        if odd := [f"{key} was {there.get(key)!r}, not {value!r}" for key, value in asked.items() if there.get(key) != value]:
            raise UsageError(f"{folder} holds another run ({'; '.join(odd)}); give another folder.")
        if not (folder / "last.safetensors").exists():
            return []
        with safe_open(folder / "last.safetensors", "pt") as file:
            epoch = int(file.metadata()["epoch"])
        log = pd.read_csv(folder / "log.csv").to_dict("records") if (folder / "log.csv").exists() else []
        return [{str(key): value for key, value in row.items()} for row in log][:epoch]
    folder.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps(asked, indent=1), encoding="utf-8")
    return []


def _epoch(
    network: nn.Module, data: _Held, optimizer: torch.optim.SGD, recipe: Recipe, *, epoch: int, device: str, hidden: bool | None
) -> dict[str, float]:
    """One pass over the data: mean loss and share of hits."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + epoch)
    constrained = list(frames(network).values())
    network.train()
    steps = len(data) // recipe.batch_size
    loss_sum, hits = 0.0, 0
    for step, rows in enumerate(
        tqdm(_order(len(data), recipe.batch_size, generator), leave=False, disable=hidden, unit=" steps")
    ):
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_at((epoch - 1 + step / steps) / recipe.epochs)
        images, labels = data.batch(rows)
        if recipe.augment or (recipe.augment is None and images.shape[1] == 3):
            images = _moved(images, generator)
        if recipe.noise:
            images = images + torch.randn(images.shape, generator=generator) * (recipe.noise / images[0].numel() ** 0.5)
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        scores = network(images)
        loss = _loss(scores, labels, recipe.loss)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DataError(f"The loss is {value} in epoch {epoch}: the rate {recipe.rate} is too large; lower --rate.")
        torch.autograd.backward(loss)
        optimizer.step()
        for one in constrained:
            one.constrain()
        loss_sum += value * len(rows)
        hits += _hits(scores, labels)
    seen = steps * recipe.batch_size
    return {"rate": recipe.rate_at((epoch - 1) / recipe.epochs), "loss": loss_sum / seen, "train_accuracy": hits / seen}


def _loss(scores: Tensor, labels: Tensor, loss: str) -> Tensor:
    """Mean loss of a batch."""
    if loss == "cross-entropy":
        return functional.cross_entropy(scores, labels)
    if scores.shape[1:] != (1,):
        raise UsageError(f"The hinge loss takes one score per image; the network gives {tuple(scores.shape[1:])}.")
    return functional.relu(1 - (2 * labels - 1) * scores[:, 0]).mean()


def _hits(scores: Tensor, labels: Tensor) -> int:
    """How many are right: the highest score, or the sign of a single one."""
    said = scores.argmax(1) if scores.shape[1] > 1 else (scores[:, 0] > 0).long()
    return int((said == labels).sum())


def _fitted(row: Mapping[str, Any], loss: str) -> bool:
    """Whether nothing is left to learn."""
    return bool(row["loss"] == 0 if loss == "hinge" else row["train_accuracy"] == 1)


def _order(n: int, batch_size: int, generator: torch.Generator) -> list[Tensor]:
    """Rows of every full batch, in random order."""
    return list(torch.randperm(n, generator=generator)[: n // batch_size * batch_size].view(-1, batch_size))


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images mirrored, and each moved by up to 1/8 of its side; zeros, the mean colour, come in."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
    return random_crops(images, max(1, max(images.shape[-2:]) // _BORDER), generator).contiguous()


def _accuracy(network: nn.Module, data: _Held, batch_size: int, device: str) -> float:
    network.eval()
    hits = 0
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(data)), batch_size):
            images, labels = data.batch(rows)
            hits += _hits(network(images.to(device)).cpu(), labels)
    return hits / len(data)


class _Held:
    """Prepared images by row: in memory, or read again and again where they are too many."""

    def __init__(self, data: Data, images: Tensor | None) -> None:
        self.data, self.images = data, images
        self.labels = torch.from_numpy(np.asarray(data.labels, np.int64))

    @classmethod
    def of(cls, data: Data, *, hidden: bool | None) -> _Held:
        """The images of a data set; reads them, if they can be kept."""
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


def _groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: constrained matrices have none."""
    free = {id(one.weight) for one in frames(network).values()}
    kept = [parameter for parameter in network.parameters() if id(parameter) in free]
    rest = [parameter for parameter in network.parameters() if id(parameter) not in free]
    return [{"params": rest, "weight_decay": decay}, *([{"params": kept, "weight_decay": 0.0}] if kept else [])]


def _everything(network: nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """Weights and momenta by name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    momenta = {
        f"momentum.{names[id(parameter)]}": state["momentum_buffer"]
        for parameter, state in optimizer.state.items()
        if state.get("momentum_buffer") is not None
    }
    return {f"model.{name}": value for name, value in network.state_dict().items()} | momenta


def _restore(path: Path, network: nn.Module, optimizer: torch.optim.SGD) -> None:
    """Weights and momenta from a file."""
    with safe_open(path, "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    network.load_state_dict({name.removeprefix("model."): value for name, value in held.items() if name.startswith("model.")})
    for name, parameter in network.named_parameters():
        if f"momentum.{name}" in held:
            optimizer.state[parameter]["momentum_buffer"] = held[f"momentum.{name}"].to(parameter.device)


def _save(path: Path, tensors: Mapping[str, Tensor], model: str, epoch: int) -> None:
    """Write a file whole or not at all."""
    partial = path.with_suffix(".partial")
    save_file({name: value.detach().contiguous().cpu() for name, value in tensors.items()}, partial,
              {"model": model, "epoch": str(epoch)})  # fmt: skip
    partial.replace(path)

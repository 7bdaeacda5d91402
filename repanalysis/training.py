"""Training a classifier from a specification: SGD or AdamW, seeded, with checkpoints that can be resumed and analysed.

The recipe is that of the scattering networks (specification of separation, section 4.7), for any network: cross-entropy,
momentum 0.9, weight decay 1e-4 on everything but constrained matrices, a rate that falls by 10 in steps or to 0 as a cosine;
random flips and crops of images in colour. Order and augmentation of an epoch depend on (seed, epoch) only, so that a run that
was stopped goes on to the same end. A folder holds

    run.json              what was asked for
    log.csv               a row per epoch: loss, accuracies, how far frames are from tight, seconds
    epoch-000.safetensors ...  weights, as `--weights` takes them, from before the first epoch on
    last.safetensors      weights, and what the optimiser remembers, to go on with
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm

from probes.errors import DataError, UsageError
from repanalysis._checks import writable
from repanalysis.epochs import Images, Recipe, accuracy, one_epoch
from repanalysis.extraction import colours
from repanalysis.inputs.data import load_data
from repanalysis.inputs.devices import device_of
from repanalysis.models import load_model
from repanalysis.networks.concentrated import frames
from repanalysis.weights import save_weights

__all__ = ["Recipe", "train"]


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
    where = device_of(device)
    writable(folder, folder=True)
    log = _begin(folder, asked, resume=resume)
    torch.manual_seed(recipe.seed)
    built = load_model(model, weights=weights)
    network = built.module.to(where)
    options: dict[str, Any] = {"transform": built.transform, "colours": colours(built)}
    samples = load_data(data, split=split, **options)
    samples = samples if limit is None else samples.sample(limit, seed=recipe.seed)
    scored = load_data(test or data, split=test_split, **options) if test or test_split else None
    if len(samples) < recipe.batch_size:
        raise DataError(f"{len(samples)} images do not fill a batch of {recipe.batch_size}; choose a smaller batch size.")
    hidden = None if progress is None else not progress
    training, testing = Images.of(samples, hidden=hidden), None if scored is None else Images.of(scored, hidden=hidden)
    constrained = list(frames(network).values())

    def constrain() -> None:
        for one in constrained:
            one.constrain()

    optimizer = recipe.optimizer_of(_groups(network, recipe.decay))
    done = len(log)
    if done:
        _restore(folder / "last.safetensors", network, optimizer)
    else:
        save_weights(folder / "epoch-000.safetensors", network.state_dict(), {"model": model, "epoch": 0})
    if recipe.until_fitted and log and _fitted(log[-1], recipe.loss):
        return pd.DataFrame(log)
    keep = save_every or max(1, recipe.epochs // 10)
    with tqdm(total=recipe.epochs, initial=done, desc="train", unit=" epochs", disable=hidden) as bar:
        for epoch in range(done + 1, recipe.epochs + 1):
            start = time.perf_counter()
            row: dict[str, Any] = {
                "epoch": epoch,
                **one_epoch(
                    network.train(), training, optimizer, recipe, epoch=epoch, device=where, after_step=constrain, hidden=hidden
                ),
            }
            if testing is not None:
                row["test_accuracy"] = accuracy(network, testing, recipe.batch_size, where)
            row["frame_deviation"] = max((one.deviation() for one in constrained), default=math.nan)
            row["seconds"] = time.perf_counter() - start
            log.append(row)
            facts = {"model": model, "epoch": epoch}
            fitted = recipe.until_fitted and _fitted(row, recipe.loss)
            if epoch % keep == 0 or epoch == recipe.epochs or fitted:
                save_weights(folder / f"epoch-{epoch:03d}.safetensors", network.state_dict(), facts)
            save_weights(folder / "last.safetensors", _everything(network, optimizer), facts)
            pd.DataFrame(log).to_csv(folder / "log.csv", index=False)
            bar.update()
            bar.set_postfix({key: f"{row[key]:.3g}" for key in ("loss", "test_accuracy") if key in row})
            if fitted:
                break
    return pd.DataFrame(log)


def _fitted(row: Mapping[str, Any], loss: str) -> bool:
    """Whether nothing is left to learn."""
    return bool(row["loss"] == 0 if loss == "hinge" else row["train_accuracy"] == 1)


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


def _groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: constrained matrices have none."""
    free = {id(one.weight) for one in frames(network).values()}
    kept = [parameter for parameter in network.parameters() if id(parameter) in free]
    rest = [parameter for parameter in network.parameters() if id(parameter) not in free]
    return [{"params": rest, "weight_decay": decay}, *([{"params": kept, "weight_decay": 0.0}] if kept else [])]


def _everything(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights, and what the optimiser remembers of them, by name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    held = {
        f"{key}.{names[id(parameter)]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }
    return {f"model.{name}": value for name, value in network.state_dict().items()} | held


def _restore(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Weights, and what the optimiser remembers of them, from a file."""
    with safe_open(path, "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    network.load_state_dict({name.removeprefix("model."): value for name, value in held.items() if name.startswith("model.")})
    for name, parameter in network.named_parameters():
        for key in ("momentum_buffer", "exp_avg", "exp_avg_sq", "step"):
            if (value := held.get(f"{key}.{name}")) is not None:
                optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)

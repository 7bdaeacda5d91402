"""Training a classifier from a specification: SGD or AdamW, seeded, with checkpoints that can be resumed and analysed.

The defaults are those of the scattering networks (docs/separation.md, Networks and training), for any network: cross-entropy,
momentum 0.9, weight decay 1e-4 on everything but constrained matrices, a rate that falls by 10 in steps or to 0 as a cosine;
random flips and crops of images in colour. Order and augmentation of an epoch depend on (seed, epoch) only, so that a run that
was stopped goes on to the same end. A folder holds

    last.safetensors      weights, what the optimiser remembers, and in the header options and log: what a run goes on from
    epoch-000.safetensors ...  weights, as `--weights` takes them, from before the first epoch on
    run.json, log.csv     options, and a row per epoch: loss, accuracies, how far frames are from tight, seconds

The last epoch is the one of last.safetensors: it is written first, and all else is made from it, again if need be.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from annotated_doc import Doc
from annotated_types import Ge
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm.auto import tqdm

from probes.atomic_files import locked, replacing
from probes.errors import DataError, UsageError
from repanalysis._checks import writable
from repanalysis.inputs.data import load_data
from repanalysis.inputs.devices import device_of
from repanalysis.inputs.models import input_channels, load_model
from repanalysis.inputs.options import DeviceOption, LimitOption, SplitOption
from repanalysis.inputs.weights import save_weights
from repanalysis.networks.concentrated import frames
from repanalysis.training.epochs import Images, TrainConfig, accuracy, train_epoch

__all__ = ["TrainConfig", "train"]

LAST = "last.safetensors"
_EPOCH_SEEDS = 1_000_003  # as in `train_epoch`


def train(
    model: str,
    data: str,
    folder: str | PathLike[str],
    config: TrainConfig | None = None,
    *,
    split: SplitOption = None,
    test: Annotated[str | None, Doc("Data to score after every epoch; default --data.")] = None,
    test_split: Annotated[str | None, Doc("Split of the data to score.")] = None,
    limit: LimitOption = None,
    weights: Annotated[
        str | None, Doc("Safetensors or torch file to start from; 'random' for an untrained network.")
    ] = "random",
    device: DeviceOption = None,
    save_every: Annotated[int | None, Ge(1), Doc("Keep every so many epochs; default ten in all.")] = None,
    resume: Annotated[bool, Doc("Go on with a folder whose training was stopped.")] = False,
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
    config : TrainConfig, optional
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
        Go on with a folder whose training was stopped, to the same end. All options must be as they were, but `device`,
        `save_every` and `progress`; a folder that holds no epoch yet is begun anew.
    progress : bool, optional
        Show progress bars; by default only on a terminal.

    Returns
    -------
    pandas.DataFrame
        The log: a row per epoch.

    Raises
    ------
    UsageError
        If the folder holds epochs already and `resume` is false, holds another run than this one, or is in use.
    DataError
        If the images have no labels, or fewer than a batch are there.

    Notes
    -----
    Images are read, prepared and kept in memory once, up to 4 GB; beyond that they are read anew in every epoch.
    """
    config, folder = config or TrainConfig(), Path(folder)
    where = device_of(device)
    writable(folder, folder=True)
    scores = test or test_split
    asked: dict[str, Any] = {
        "model": model,
        "data": data,
        "split": split,
        "test": test or data if scores else None,
        "test_split": test_split,
    }
    asked |= {"limit": limit, "weights": None if weights is None else str(weights), **asdict(config)}
    _epochs_done(folder, asked, resume=resume)  # what must be refused, is refused at once
    torch.manual_seed(config.seed)
    built = load_model(model, weights=weights)
    network = built.module.to(where)
    options: dict[str, Any] = {"transform": built.transform, "colours": input_channels(built)}
    samples = load_data(data, split=split, **options)
    samples = samples if limit is None else samples.sample(limit, seed=config.seed)
    scored = load_data(test or data, split=test_split, **options) if scores else None
    if len(samples) < config.batch_size:
        raise DataError(f"{len(samples)} images do not fill a batch of {config.batch_size}; choose a smaller batch size.")
    hidden = None if progress is None else not progress
    training, testing = Images.of(samples, hidden=hidden), None if scored is None else Images.of(scored, hidden=hidden)
    asked |= {"images": len(samples), "test_images": None if scored is None else len(scored)}
    optimizer = config.optimizer_of(_groups(network, config.weight_decay))

    def row_of(epoch: int) -> dict[str, Any]:
        return _epoch(network, optimizer, training, testing, config, epoch=epoch, device=where, hidden=hidden)

    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), tqdm(total=config.epochs, desc="train", unit=" epochs", disable=hidden) as bar:
        log = _epochs_done(folder, asked, resume=resume)
        try:
            _train(folder, asked, config, network, optimizer, row_of, log, save_every or max(1, config.epochs // 10), bar)
        except KeyboardInterrupt as error:
            error.add_note(f"{folder} holds {len(log)} of {config.epochs} epochs; resume (--resume) goes on from there")
            raise
    return pd.DataFrame(log)


def _train(  # noqa: PLR0917  # one call, above
    folder: Path, asked: Mapping[str, Any], config: TrainConfig, network: nn.Module, optimizer: torch.optim.Optimizer,
    row_of: Callable[[int], dict[str, Any]], log: list[dict[str, Any]], save_every: int, bar: Any,
) -> None:  # fmt: skip
    """Epoch after epoch from where the log ends; each is done once `last.safetensors` has it."""
    if log:
        _restore(folder / LAST, network, optimizer)
        bar.update(len(log))
    while True:
        epoch = len(log)
        ended = epoch == config.epochs or (bool(log) and config.until_fitted and _fitted(log[-1], config.loss))
        if epoch % save_every == 0 or ended:
            save_weights(folder / _epoch_file(epoch), network.state_dict(), {"model": asked["model"], "epoch": epoch})
        _write_readable(folder, asked, log)
        if ended:
            return
        row = row_of(epoch + 1)
        facts = {"model": asked["model"], "epoch": epoch + 1, "options": json.dumps(asked), "log": json.dumps([*log, row])}
        save_weights(folder / LAST, _everything(network, optimizer), facts)
        log.append(row)
        bar.update()
        bar.set_postfix({key: f"{row[key]:.3g}" for key in ("loss", "test_accuracy") if key in row})


def _epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    training: Images,
    testing: Images | None,
    config: TrainConfig,
    *,
    epoch: int,
    device: str,
    hidden: bool | None,
) -> dict[str, Any]:
    """One epoch, and its row of the log."""
    start = time.perf_counter()
    constrained = list(frames(network).values())

    def constrain() -> None:
        for frame in constrained:
            frame.constrain()

    torch.manual_seed(config.seed * _EPOCH_SEEDS + epoch)  # of dropout and the like
    options: dict[str, Any] = {"epoch": epoch, "device": device, "after_step": constrain, "hidden": hidden}
    row: dict[str, Any] = {"epoch": epoch, **train_epoch(network.train(), training, optimizer, config, **options)}
    if testing is not None:
        row["test_accuracy"] = accuracy(network, testing, config.batch_size, device)
    row["frame_deviation"] = max((layer.deviation() for layer in constrained), default=math.nan)
    return row | {"seconds": time.perf_counter() - start}


def _epoch_file(epoch: int) -> str:
    return f"epoch-{epoch:03d}.safetensors"


def _fitted(row: Mapping[str, Any], loss: str) -> bool:
    """Whether nothing is left to learn."""
    return bool(row["loss"] == 0 if loss == "hinge" else row["train_accuracy"] == 1)


def _epochs_done(folder: Path, asked: Mapping[str, Any], *, resume: bool) -> list[dict[str, Any]]:
    """The log of the epochs that a folder holds.

    Raises
    ------
    UsageError
        If there are some and the run is not to go on, is another one, or can't go on.
    """
    last = folder / LAST
    if not last.exists():  # weights before the first epoch are no work that could be lost
        if any(path.name != _epoch_file(0) for path in folder.glob("epoch-*.safetensors")):
            raise UsageError(f"{folder} holds weights, but no {LAST} to go on from; give another folder.")
        return []
    if not resume:
        raise UsageError(f"{folder} holds a training run already; --resume goes on with it, or give another folder.")
    try:
        with safe_open(last, "pt") as file:
            facts = file.metadata() or {}
    except SafetensorError as error:
        raise UsageError(f"{last} can't be read ({error}): it was cut or changed. Train anew in another folder.") from error
    if not {"options", "log"} <= facts.keys():
        raise UsageError(
            f"{last} holds no log: an earlier version wrote it, and its run can't go on. Its weights can be trained further in "
            f"another folder, with --weights and the file of its last epoch."
        )
    recorded = json.loads(facts["options"])
    if mismatches := [
        f"{key} was {recorded.get(key)!r}, not {value!r}" for key, value in asked.items() if recorded.get(key) != value
    ]:
        raise UsageError(f"{folder} holds another run ({'; '.join(mismatches)}); give another folder.")
    return list(json.loads(facts["log"]))


def _write_readable(folder: Path, asked: Mapping[str, Any], log: list[dict[str, Any]]) -> None:
    """Options and log, for people and programs; what goes on reads the checkpoint."""
    with replacing(folder / "run.json") as draft:
        draft.write_text(json.dumps(asked, indent=1), encoding="utf-8")
    if log:
        with replacing(folder / "log.csv") as draft:
            pd.DataFrame(log).to_csv(draft, index=False)


def _groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameters with and without weight decay: constrained matrices have none."""
    free = {id(frame.weight) for frame in frames(network).values()}
    constrained = [parameter for parameter in network.parameters() if id(parameter) in free]
    rest = [parameter for parameter in network.parameters() if id(parameter) not in free]
    return [{"params": rest, "weight_decay": decay}, *([{"params": constrained, "weight_decay": 0.0}] if constrained else [])]


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

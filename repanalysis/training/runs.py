"""Trains a classifier from a specification: SGD or AdamW, seeded, with checkpoints that can be resumed and analysed.

The defaults are those of the scattering networks (docs/separation.md, Networks and training): cross-entropy, momentum 0.9,
weight decay 1e-4 on everything but constrained matrices, a learning rate that falls in steps or as a cosine, random flips and
crops of colour images. Order and augmentation of an epoch depend on (seed, epoch) only, so that a resumed run ends with the
same weights. A folder holds

    last.safetensors      weights, state of the optimiser, and, in the header, options and log: all that resuming needs
    epoch-000.safetensors ...  weights for `--weights`; 000 is before the first epoch
    run.json, log.csv     options, and a row per epoch: loss, accuracies, deviation of frames from tightness, seconds

last.safetensors is written first and defines the last epoch; the other files are derived from it, again when resuming.
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
    test: Annotated[str | None, Doc("Test data, scored after every epoch; default --data.")] = None,
    test_split: Annotated[str | None, Doc("Split of the test data.")] = None,
    limit: LimitOption = None,
    weights: Annotated[
        str | None, Doc("Safetensors or torch file with initial weights; 'random' for an untrained network.")
    ] = "random",
    device: DeviceOption = None,
    save_every: Annotated[int | None, Ge(1), Doc("Interval between saved epochs; default: ten are saved in all.")] = None,
    resume: Annotated[bool, Doc("Continue a stopped training.")] = False,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Train a network and write its checkpoints to a folder.

    Parameters
    ----------
    model : str
        Such as `scattering:variant=SC,J=4`; as for `load_model`.
    data, split : str
        Training images; as for `load_data`.
    folder : path-like
        Output folder.
    config : TrainConfig, optional
        Options of the training; by default 300 epochs.
    test, test_split : str, optional
        Images that are scored after every epoch; if only one is given, `test` defaults to `data`. By default none.
    limit : int, optional
        Size of a random subset to train on.
    weights : str, optional
        Initial weights; by default random, from the seed.
    device : str, optional
        By default the GPU, if there is one.
    save_every : int, optional
        Interval between saved epochs; by default, ten are saved in all. The first and the last are always saved.
    resume : bool, default False
        Continue a stopped training; the result equals that of an uninterrupted one. All options but `device`, `save_every` and
        `progress` must be unchanged. A folder without any epoch starts from the beginning.
    progress : bool, optional
        Show progress bars; by default only on a terminal.

    Returns
    -------
    pandas.DataFrame
        The log: a row per epoch.

    Raises
    ------
    UsageError
        If the folder holds epochs and `resume` is false, holds another run, or is in use.
    DataError
        If images have no labels, or there are fewer than one batch.

    Notes
    -----
    Images are read and prepared once and kept in memory, up to 4 GB; larger data sets are read again in every epoch.
    """
    config, folder = config or TrainConfig(), Path(folder)
    device = device_of(device)
    writable(folder, folder=True)
    has_test = test or test_split
    requested: dict[str, Any] = {
        "model": model,
        "data": data,
        "split": split,
        "test": test or data if has_test else None,
        "test_split": test_split,
    }
    requested |= {"limit": limit, "weights": None if weights is None else str(weights), **asdict(config)}
    _epochs_done(folder, requested, resume=resume)  # refuse what must be refused before loading
    torch.manual_seed(config.seed)
    built = load_model(model, weights=weights)
    network = built.module.to(device)
    options: dict[str, Any] = {"transform": built.transform, "colours": input_channels(built)}
    train_data = load_data(data, split=split, **options)
    train_data = train_data if limit is None else train_data.sample(limit, seed=config.seed)
    test_data = load_data(test or data, split=test_split, **options) if has_test else None
    if len(train_data) < config.batch_size:
        raise DataError(f"{len(train_data)} images do not fill a batch of {config.batch_size}; choose a smaller --batch-size.")
    hidden = None if progress is None else not progress
    training, testing = Images.of(train_data, hidden=hidden), None if test_data is None else Images.of(test_data, hidden=hidden)
    requested |= {"images": len(train_data), "test_images": None if test_data is None else len(test_data)}
    optimizer = config.optimizer_of(_groups(network, config.weight_decay))

    def row_of(epoch: int) -> dict[str, Any]:
        return _epoch(network, optimizer, training, testing, config, epoch=epoch, device=device, hidden=hidden)

    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder), tqdm(total=config.epochs, desc="train", unit=" epochs", disable=hidden) as bar:
        log = _epochs_done(folder, requested, resume=resume)
        try:
            _train(folder, requested, config, network, optimizer, row_of, log, save_every or max(1, config.epochs // 10), bar)
        except KeyboardInterrupt as error:
            error.add_note(f"{folder} holds {len(log)} of {config.epochs} epochs; --resume continues from there")
            raise
    return pd.DataFrame(log)


def _train(  # noqa: PLR0917  # one call, above
    folder: Path, requested: Mapping[str, Any], config: TrainConfig, network: nn.Module, optimizer: torch.optim.Optimizer,
    row_of: Callable[[int], dict[str, Any]], log: list[dict[str, Any]], save_every: int, bar: Any,
) -> None:  # fmt: skip
    """Runs the epochs that the log lacks; an epoch counts as done once `last.safetensors` holds it."""
    if log:
        _restore(folder / LAST, network, optimizer)
        bar.update(len(log))
    while True:
        epoch = len(log)
        ended = epoch == config.epochs or (bool(log) and config.until_fitted and _fitted(log[-1], config.loss))
        if epoch % save_every == 0 or ended:
            save_weights(folder / _epoch_file(epoch), network.state_dict(), {"model": requested["model"], "epoch": epoch})
        _write_readable(folder, requested, log)
        if ended:
            return
        row = row_of(epoch + 1)
        metadata = {"model": requested["model"], "epoch": epoch + 1}
        metadata |= {"options": json.dumps(requested), "log": json.dumps([*log, row])}
        save_weights(folder / LAST, _state_of(network, optimizer), metadata)
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
    """Runs one epoch; returns its row of the log."""
    start = time.perf_counter()
    constrained = list(frames(network).values())

    def constrain() -> None:
        for frame in constrained:
            frame.constrain()

    torch.manual_seed(config.seed * _EPOCH_SEEDS + epoch)  # for dropout and the like
    options: dict[str, Any] = {"epoch": epoch, "device": device, "after_step": constrain, "hidden": hidden}
    row: dict[str, Any] = {"epoch": epoch, **train_epoch(network.train(), training, optimizer, config, **options)}
    if testing is not None:
        row["test_accuracy"] = accuracy(network, testing, config.batch_size, device)
    row["frame_deviation"] = max((layer.deviation() for layer in constrained), default=math.nan)
    return row | {"seconds": time.perf_counter() - start}


def _epoch_file(epoch: int) -> str:
    return f"epoch-{epoch:03d}.safetensors"


def _fitted(row: Mapping[str, Any], loss: str) -> bool:
    """Whether the training data are fitted."""
    return bool(row["loss"] == 0 if loss == "hinge" else row["train_accuracy"] == 1)


def _epochs_done(folder: Path, requested: Mapping[str, Any], *, resume: bool) -> list[dict[str, Any]]:
    """The log of a folder's epochs; empty if it has none.

    Raises
    ------
    UsageError
        If there are epochs and `resume` is false, they are of another run, or the run can't be continued.
    """
    last = folder / LAST
    if not last.exists():  # initial weights alone can be written again
        if any(path.name != _epoch_file(0) for path in folder.glob("epoch-*.safetensors")):
            raise UsageError(f"{folder} holds weights, but no {LAST} to resume from; give another folder.")
        return []
    if not resume:
        raise UsageError(f"{folder} already holds a training run; continue it with --resume, or give another folder.")
    try:
        with safe_open(last, "pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise UsageError(f"{last} can't be read ({error}): it was cut or changed. Train anew in another folder.") from error
    if not {"options", "log"} <= metadata.keys():
        raise UsageError(
            f"{last} holds no log: an earlier version wrote it, and its run can't be resumed. To train its weights "
            f"further, give another folder, and --weights with the file of its last epoch."
        )
    recorded = json.loads(metadata["options"])
    if mismatches := [
        f"{key} was {recorded.get(key)!r}, not {value!r}" for key, value in requested.items() if recorded.get(key) != value
    ]:
        raise UsageError(f"{folder} holds another run ({'; '.join(mismatches)}); give another folder.")
    return list(json.loads(metadata["log"]))


def _write_readable(folder: Path, requested: Mapping[str, Any], log: list[dict[str, Any]]) -> None:
    """Writes options and log for people and programs; resuming reads the checkpoint instead."""
    with replacing(folder / "run.json") as draft:
        draft.write_text(json.dumps(requested, indent=1), encoding="utf-8")
    if log:
        with replacing(folder / "log.csv") as draft:
            pd.DataFrame(log).to_csv(draft, index=False)


def _groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Parameter groups with and without weight decay: constrained matrices have none."""
    constrained_ids = {id(frame.weight) for frame in frames(network).values()}
    constrained = [parameter for parameter in network.parameters() if id(parameter) in constrained_ids]
    rest = [parameter for parameter in network.parameters() if id(parameter) not in constrained_ids]
    return [{"params": rest, "weight_decay": decay}, *([{"params": constrained, "weight_decay": 0.0}] if constrained else [])]


def _state_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and state of the optimiser, by name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    optimizer_state = {
        f"{key}.{names[id(parameter)]}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if value is not None
    }
    return {f"model.{name}": value for name, value in network.state_dict().items()} | optimizer_state


def _restore(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Loads weights and state of the optimiser from a file."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    network.load_state_dict(weights)
    for name, parameter in network.named_parameters():
        for key in ("momentum_buffer", "exp_avg", "exp_avg_sq", "step"):
            if (value := tensors.get(f"{key}.{name}")) is not None:
                optimizer.state[parameter][key] = value if key == "step" else value.to(parameter.device)

"""`repanalysis train` and `study`: networks from specifications."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from repanalysis.cli._arguments import DataSpec, ModelSpec
from repanalysis.cli._declared import Options
from repanalysis.cli._outputs import file_plots, save_figure
from repanalysis.cli._texts import MOST_EPOCHS, frame_text
from repanalysis.cli._verbs import CommandResult, Settings, command
from repanalysis.studies.noise import TRAINING, noise_study
from repanalysis.training.epochs import TrainConfig
from repanalysis.training.runs import train as train_network


@command
def train(
    settings: Settings,
    model: ModelSpec,
    data: DataSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints and log.")],
    config: Annotated[Any, Options(TrainConfig)] = None,
    options: Annotated[Any, Options(train_network)] = None,
) -> CommandResult:
    """Train a network; its checkpoints can be read by extract and analyze."""
    log = train_network(model, data, output, config, **options)
    shown = log if len(log) <= MOST_EPOCHS else log.iloc[[0, *range(len(log) - MOST_EPOCHS + 1, len(log))]]
    text = f"{frame_text(shown, 4)}\n\n{output}: {len(log)} epochs."
    return CommandResult(text, {"folder": str(output), "log": log.to_dict("records")})


@command
def study(
    settings: Settings,
    models: Annotated[list[str], typer.Argument(help="Networks to train, such as small:lenet small:vgg_bn small:mlp.")],
    data: DataSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for runs, runs.csv, stability.csv and errors.svg.")],
    config: Annotated[Any, Options(TRAINING, only=("epochs", "batch_size", "lr"))] = None,
    options: Annotated[Any, Options(noise_study)] = None,
) -> CommandResult:
    """Train networks with noise, and compare their test errors with their stability; the same command continues."""
    runs = noise_study(models, data, output, config=config, **options)
    text = frame_text(runs, 3)
    if len(runs) > 2:
        save_figure(file_plots().errors(runs), output / "errors.svg")
    return CommandResult(f"{text}\n\n{output}: {len(runs)} runs.", {"runs": runs.to_dict("records")})

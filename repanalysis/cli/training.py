"""`repanalysis train` and `study`: networks from specifications."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repanalysis.cli._choices import DataSpec, Device, Limit, ModelSpec, Split, Weights
from repanalysis.cli._outputs import file_plots, saved
from repanalysis.cli._texts import MOST_EPOCHS
from repanalysis.cli._verbs import Said, Settings, verb

if TYPE_CHECKING:
    pass


@verb
def train(
    settings: Settings,
    model: ModelSpec,
    data: DataSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for checkpoints and log.")],
    split: Split = None,
    test: Annotated[str | None, typer.Option(help="Data to score after every epoch; default --data.")] = None,
    test_split: Annotated[str | None, typer.Option(help="Split of the data to score.")] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 300,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.")] = 128,
    rate: Annotated[float, typer.Option(help="Learning rate at the start.")] = 0.01,
    schedule: Annotated[str, typer.Option(help="steps: a tenth after every 70 of 300 epochs; cosine or constant.")] = "steps",
    loss: Annotated[str, typer.Option(help="cross-entropy, or hinge for one score and two classes.")] = "cross-entropy",
    optimizer: Annotated[str, typer.Option(help="sgd, or adamw for transformers, with a rate of 0.001 or so.")] = "sgd",
    momentum: Annotated[float, typer.Option(help="Of SGD.")] = 0.9,
    decay: Annotated[float, typer.Option(help="Weight decay.")] = 1e-4,
    noise: Annotated[float, typer.Option(help="Norm of white noise that is added to the images.")] = 0.0,
    until_fitted: Annotated[bool, typer.Option("--until-fitted", help="Stop once the training images are fitted.")] = False,
    augment: Annotated[bool | None, typer.Option(help="Random flips and crops; default for images in colour.")] = None,
    limit: Limit = None,
    weights: Weights = "random",
    save_every: Annotated[int | None, typer.Option(min=1, help="Keep every so many epochs; default ten in all.")] = None,
    device: Device = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a folder whose training was stopped.")] = False,
) -> Said:
    """Train a network; its checkpoints go through extract and analyze."""
    from repanalysis.training.runs import Recipe
    from repanalysis.training.runs import train as train_network

    recipe = Recipe(
        epochs,
        batch_size,
        rate,
        schedule,
        augment,
        settings.seed,
        loss,
        momentum,
        decay,
        noise,
        until_fitted=until_fitted,
        optimizer=optimizer,
    )
    log = train_network(
        model, data, output, recipe, split=split, test=test, test_split=test_split, limit=limit, weights=weights,
        device=device, save_every=save_every, resume=resume, progress=settings.progress,
    )  # fmt: skip
    shown = log if len(log) <= MOST_EPOCHS else log.iloc[[0, *range(len(log) - MOST_EPOCHS + 1, len(log))]]
    text = f"{shown.to_string(index=False, float_format='{:.4g}'.format)}\n\n{output}: {len(log)} epochs."
    return Said(text, {"folder": str(output), "log": log.to_dict("records")})


@verb
def study(
    settings: Settings,
    models: Annotated[list[str], typer.Argument(help="Networks to train, such as small:lenet small:vgg_bn small:mlp.")],
    data: DataSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for runs, runs.csv, stability.csv and errors.svg.")],
    noise: Annotated[
        list[float] | None, typer.Option(help="Norm of white noise in training; repeat it. Default 0 1 10.")
    ] = None,
    split: Split = "train",
    test: Annotated[str | None, typer.Option(help="Data to score; default --data.")] = None,
    test_split: Annotated[str | None, typer.Option(help="Split of the data to score.")] = "test",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 10,
    batch_size: Annotated[int, typer.Option(min=2, help="Images per step.")] = 128,
    rate: Annotated[float, typer.Option(help="Learning rate at the start, which falls to 0 as a cosine.")] = 0.05,
    limit: Limit = None,
    diffeo: Annotated[str, typer.Option(help="The deformation.")] = "diffeo:delta=1,c=3",
    images: Annotated[int, typer.Option(min=2, help="Test images to measure stability with.")] = 500,
    device: Device = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Measure curves again that stand there and were measured otherwise.")
    ] = False,
) -> Said:
    """Train networks with noise, and set their test errors against their stability; the same command goes on."""
    from repanalysis.studies.noise import noise_study
    from repanalysis.training.runs import Recipe

    recipe = Recipe(epochs, batch_size, rate, "cosine", seed=settings.seed)
    runs = noise_study(
        models, data, output, noises=noise or (0.0, 1.0, 10.0), recipe=recipe,
        split=split, test=test, test_split=test_split, train_limit=limit, diffeo=diffeo, images=images, device=device,
        progress=settings.progress, overwrite=overwrite,
    )  # fmt: skip
    text = runs.to_string(index=False, float_format="{:.3g}".format)
    if len(runs) > 2:
        saved(file_plots().errors(runs), output / "errors.svg")
    return Said(f"{text}\n\n{output}: {len(runs)} runs.", {"runs": runs.to_dict("records")})

"""Training with noise: many networks, many noise levels, and how test error goes with their stability; a table of runs.

White noise in the training images makes networks less sensitive to noise in the first layers; does depth still lower their
sensitivity to deformations, and raise that to noise? And does the error of different architectures follow D_f, G_f and R_f
of their outputs? (Specification of stability, section 6, F1; Tomasini et al. 2023.) Each run is a folder of `train`;
`runs.csv` has a row each and is written after every run, so that a study which was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from probes.errors import UsageError
from repanalysis._checks import writable
from repanalysis.inputs.devices import device_of
from repanalysis.perturbations.specification import perturbations
from repanalysis.stability_runs import stability_runs
from repanalysis.table import Table
from repanalysis.training import Recipe, train

__all__ = ["noise_study"]

COLUMNS = ("model", "noise", "seed", "train_accuracy", "test_error", "D", "D_se", "G", "G_se", "R", "R_se")


def noise_study(
    models: Sequence[str],
    data: str,
    folder: str | PathLike[str],
    *,
    noises: Sequence[float] = (0.0, 1.0, 10.0),
    recipe: Recipe | None = None,
    split: str | None = "train",
    test: str | None = None,
    test_split: str | None = "test",
    train_limit: int | None = None,
    diffeo: str = "diffeo:delta=1,c=3",
    images: int = 500,
    device: str | None = None,
    progress: bool | None = None,
) -> pd.DataFrame:
    """Train every network with every noise, and measure error and stability.

    Parameters
    ----------
    models : sequence of str
        As for `load_model`.
    data, split, test, test_split
        As for `train`.
    folder : path-like
        Where runs and tables go; runs that are there already are not done again.
    noises : sequence of float, default (0, 1, 10)
        Norms of the noise in training.
    recipe : Recipe, optional
        How to train; its noise is replaced.
    train_limit : int, optional
        Train on a random subset of so many images.
    diffeo : str
        The deformation; noise that matches it goes beside it.
    images : int, default 500
        Test images to measure stability with.
    device, progress
        As for `train`.

    Returns
    -------
    pandas.DataFrame
        A row per run: model, noise, seed, train_accuracy, test_error, and D, G, R at the network's output with standard errors.
        `runs.csv` holds it, `stability.csv` the curves over all layers.

    Raises
    ------
    UsageError
        If two models are the same, or the folder's runs are others.
    """
    recipe, folder = recipe or Recipe(), Path(folder)
    if len(set(models)) < len(models) or not models:
        raise UsageError("A study needs models, each of them once.")
    device_of(device)
    perturbations([diffeo, "noise:match=diffeo"])
    recipes = {noise: replace(recipe, noise=float(noise)) for noise in noises}
    writable(folder, folder=True)
    folder.mkdir(parents=True, exist_ok=True)
    rows, tables = [], []
    pairs = list(product(models, noises))
    for model, noise in tqdm(pairs, desc="study", unit=" runs", disable=None if progress is None else not progress):
        name = f"{model.rpartition(':')[2]}, noise {noise:g}"
        place = folder / "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
        log = train(
            model, data, place, recipes[noise], split=split, test=test, test_split=test_split,
            limit=train_limit, device=device, resume=(place / "run.json").exists(), progress=False,
        )  # fmt: skip
        table = _curves(model, place, test or data, test_split, name, diffeo, images, len(log), device)
        tables.append(table)
        rows.append(_row(model, noise, recipe.seed, log, table))
        pd.DataFrame(rows, columns=list(COLUMNS)).to_csv(folder / "runs.csv", index=False)
        Table.concat(tables).to_csv(folder / "stability.csv")
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _curves(  # noqa: PLR0917  # one call, above
    model: str, place: Path, data: str, split: str | None, name: str, diffeo: str, images: int, epochs: int, device: str | None
) -> Table:
    """A run's curves: those on disk, or measured now."""
    known = place / "stability.csv"
    if known.exists():
        return Table.from_csv(known)
    weights = place / f"epoch-{epochs:03d}.safetensors"
    options: dict[str, Any] = {"weights": weights, "split": split, "limit": images, "device": device, "progress": False}
    measured = stability_runs(model, data, [diffeo, "noise:match=diffeo"], **options)
    (facts,) = measured.provenance.values()
    found = Table(measured.frame.assign(run=name), {name: facts})
    found.to_csv(known)
    return found


def _row(model: str, noise: float, seed: int, log: pd.DataFrame, table: Table) -> dict[str, Any]:
    """Error and the output's stability."""
    frame = table.frame
    last = frame[(frame["order"] == frame["order"].max()) & (frame["variant"] == "")]
    row: dict[str, Any] = {"model": model, "noise": noise, "seed": seed, "train_accuracy": log["train_accuracy"].iloc[-1]}
    row["test_error"] = 1 - log["test_accuracy"].iloc[-1]
    matched = last["perturbation"].str.startswith("noise")
    kinds = {
        "D": (last["metric"] == "sensitivity") & ~matched,
        "G": (last["metric"] == "sensitivity") & matched,
        "R": last["metric"] == "relative_stability",
    }
    for letter, rows in kinds.items():
        one = last[rows].iloc[0]
        row |= {letter: one["value"], f"{letter}_se": one["se"]}
    return row

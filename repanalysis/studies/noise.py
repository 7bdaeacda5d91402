"""Training with noise: trains several networks at several noise levels, and compares test error with stability.

White noise in the training images makes the first layers less sensitive to noise. Does sensitivity to deformations still fall
with depth, and sensitivity to noise rise? Does the error of different architectures follow D_f, G_f and R_f of their outputs?
(Tomasini et al. 2023.) Each run is a folder of `train`. `runs.csv` has one row per run and is written after every run, so that
a stopped study can be resumed. The curves of a run store how they were measured; curves with other options are refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from annotated_doc import Doc
from annotated_types import Ge
from tqdm.auto import tqdm

from probes.atomic_files import replacing
from probes.errors import FormatError, UsageError
from repanalysis._checks import writable
from repanalysis.analyses.stability.twins import stability_runs
from repanalysis.inputs.devices import device_of
from repanalysis.inputs.options import DeviceOption, LimitOption, SplitOption
from repanalysis.perturbations.specification import perturbations
from repanalysis.specs import Names
from repanalysis.table import Table
from repanalysis.training.runs import TrainConfig, train

__all__ = ["TRAINING", "noise_study"]

CURVES = "stability.csv"
TRAINING = TrainConfig(epochs=10, lr=0.05, schedule="cosine")
COLUMNS = ("model", "noise", "seed", "train_accuracy", "test_error", "D", "D_se", "G", "G_se", "R", "R_se")


def noise_study(
    models: Sequence[str],
    data: str,
    folder: str | PathLike[str],
    *,
    noises: Annotated[Sequence[float], Doc("Norm of white noise in training; may be repeated."), Names("--noise")] = (
        0.0,
        1.0,
        10.0,
    ),
    config: TrainConfig = TRAINING,
    split: SplitOption = "train",
    test: Annotated[str | None, Doc("Test data; default --data.")] = None,
    test_split: Annotated[str | None, Doc("Split of the test data.")] = "test",
    limit: LimitOption = None,
    diffeo: Annotated[str, Doc("Deformation, as for stability.")] = "diffeo:delta=1,c=3",
    images: Annotated[int, Ge(2), Doc("Number of test images for stability.")] = 500,
    device: DeviceOption = None,
    progress: bool | None = None,
    overwrite: Annotated[bool, Doc("Measure curves again that were measured with other options.")] = False,
) -> pd.DataFrame:
    """Train every network with every noise, and measure error and stability.

    Parameters
    ----------
    models : sequence of str
        As for `load_model`.
    data, split, test, test_split
        As for `train`.
    folder : path-like
        Output folder; runs that it holds are not repeated.
    noises : sequence of float, default (0, 1, 10)
        Norms of the noise in training.
    config : TrainConfig, optional
        Options of the training, but for the noise. By default ten epochs, with a cosine schedule from 0.05.
    limit : int, optional
        Size of a random subset to train on.
    diffeo : str
        The deformation; noise that matches it is measured too.
    images : int, default 500
        Number of test images for stability.
    device, progress
        As for `train`.
    overwrite : bool, default False
        Measure curves again that were measured with other options.

    Returns
    -------
    pandas.DataFrame
        A row per run: model, noise, seed, train_accuracy, test_error, and D, G, R at the network's output with standard errors.
        `runs.csv` holds it, `stability.csv` the curves over all layers.

    Raises
    ------
    UsageError
        If two models are equal, or the folder holds runs or curves with other options.
    """
    folder = Path(folder)
    if len(set(models)) < len(models) or not models:
        raise UsageError("A study needs at least one model, and each model once.")
    device_of(device)
    perturbations([diffeo, "noise:match=diffeo"])
    configs = {float(noise): replace(config, noise=float(noise)) for noise in noises}
    writable(folder, folder=True)
    pairs = list(dict.fromkeys(product(models, map(float, noises))))
    names = {pair: f"{pair[0].rpartition(':')[2]}, noise {pair[1]:g}" for pair in pairs}
    folders = {pair: folder / "".join(c if c.isalnum() or c in "-_." else "-" for c in name) for pair, name in names.items()}
    measured = {"data": test or data, "split": test_split, "diffeo": diffeo, "images": images}
    done = {pair for pair in pairs if _curves_of(folders[pair], measured, overwrite=overwrite)}  # refused now, not later
    rows: dict[tuple[str, float], dict[str, Any]] = {}
    tables: dict[tuple[str, float], Table] = {}
    ordered = sorted(pairs, key=lambda pair: pair not in done)  # so that runs.csv never gets shorter
    for model, noise in (bar := tqdm(ordered, desc="study", unit=" runs", disable=None if progress is None else not progress)):
        pair, run_folder = (model, noise), folders[model, noise]
        bar.set_postfix_str(names[pair])
        log = train(
            model, data, run_folder, configs[noise], split=split, test=test, test_split=test_split,
            limit=limit, device=device, resume=True, progress=False,
        )  # fmt: skip
        table = _curves_of(run_folder, measured, overwrite=overwrite)
        if new := table is None:
            table = _measure(model, run_folder, names[pair], measured, len(log), device)
        tables[pair], rows[pair] = table, _row(model, noise, config.seed, log, table)
        if new or len(rows) == len(pairs):
            _write(folder, [pair for pair in pairs if pair in rows], rows, tables)
    return pd.DataFrame([rows[pair] for pair in pairs], columns=list(COLUMNS))


def _write(folder: Path, pairs: Sequence[Any], rows: Mapping[Any, dict[str, Any]], tables: Mapping[Any, Table]) -> None:
    """Writes the tables of the finished runs."""
    with replacing(folder / "runs.csv") as draft:
        pd.DataFrame([rows[pair] for pair in pairs], columns=list(COLUMNS)).to_csv(draft, index=False)
    Table.concat([tables[pair] for pair in pairs]).save(folder / CURVES)


def _curves_of(run_folder: Path, measured: Mapping[str, Any], *, overwrite: bool) -> Table | None:
    """The curves in the folder of a run; None if there are none, or the file is truncated.

    Raises
    ------
    UsageError
        If they were measured with other options and `overwrite` is false.
    """
    try:
        table = Table.from_csv(run_folder / CURVES)
    except (FileNotFoundError, FormatError):
        return None
    (provenance,) = table.provenance.values() or ({},)
    recorded = provenance.get("study", {})
    if mismatches := [
        f"{key} was {recorded.get(key)!r}, not {value!r}" for key, value in measured.items() if recorded.get(key) != value
    ]:
        if overwrite:
            return None
        raise UsageError(
            f"{run_folder / CURVES} was measured with other options ({'; '.join(mismatches)}); give another folder, or "
            "--overwrite to measure it again."
        )
    return table


def _measure(model: str, run_folder: Path, name: str, measured: Mapping[str, Any], epochs: int, device: str | None) -> Table:  # noqa: PLR0917  # one call, above
    """Measures the curves of a run and saves them."""
    options: dict[str, Any] = {"weights": run_folder / f"epoch-{epochs:03d}.safetensors", "device": device, "progress": False}
    options |= {"split": measured["split"], "limit": measured["images"]}
    table = stability_runs(model, measured["data"], [measured["diffeo"], "noise:match=diffeo"], **options)
    (provenance,) = table.provenance.values()
    named = Table(table.frame.assign(run=name), {name: {**provenance, "study": dict(measured)}})
    named.save(run_folder / CURVES)
    return named


def _row(model: str, noise: float, seed: int, log: pd.DataFrame, table: Table) -> dict[str, Any]:
    """A row of runs.csv: test error and stability of the output."""
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
        values = last[rows].iloc[0]
        row |= {letter: values["value"], f"{letter}_se": values["se"]}
    return row

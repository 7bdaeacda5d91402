"""`repanalysis stability` and `filter-energy`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from probes.options import CaptureOptions, PassKeywords, keywords_of
from repanalysis.analyses.stability.filter_energy import filter_energy as measure_filter_energy
from repanalysis.analyses.stability.sensitivity import stability as measure_stability
from repanalysis.analyses.stability.twins import stability_runs
from repanalysis.cli._arguments import DataSpec, FigureFile, ModelSpec, Overwrite, TableFile
from repanalysis.cli._declared import Options
from repanalysis.cli._outputs import FIGURES, TABLES, check_output_path, file_plots, missing, save_figure
from repanalysis.cli._tables import columns
from repanalysis.cli._texts import MOST_COLUMNS, MOST_EPOCHS, data_of, notes, number, pretty
from repanalysis.cli._verbs import CommandResult, Settings, command
from repanalysis.inputs.models import load_model
from repanalysis.table import Table

MEASURE = ("statistic", "self_pairs", "batch_norm", "strict")


@command
def stability(
    settings: Settings,
    models: Annotated[
        list[str], typer.Argument(help="One or more of timm:NAME, torchvision:NAME, scattering:J=3 or py:module:factory")
    ],
    data: DataSpec,
    perturb: Annotated[
        list[str],
        typer.Option(
            "--perturb", "-p", help="diffeo:delta=1,c=3, noise:match=diffeo, noise:sigma=0.1, shift:1..8, rotation:5."
        ),
    ],
    output: TableFile,
    figure: FigureFile = None,
    networks: Annotated[Any, Options(stability_runs)] = None,
    measure: Annotated[Any, Options(measure_stability, only=MEASURE)] = None,
    passes: Annotated[Any, Options(CaptureOptions, only=keywords_of(PassKeywords), without=("batch_size",))] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step, before they are perturbed.")] = None,
    overwrite: Overwrite = False,
) -> CommandResult:
    """Measure how much perturbations of the images change the output of each layer."""
    check_output_path("table format", output, TABLES, overwrite=overwrite)
    check_output_path("figure format", figure, FIGURES, overwrite=overwrite)
    options = {name: getattr(passes, name) for name in keywords_of(PassKeywords) if name != "batch_size"}
    options |= {} if batch_size is None else {"batch_size": batch_size}
    table = stability_runs(models, data, perturb, **options, **measure, **networks)
    table.save(output)
    if figure is not None:
        save_figure(file_plots().stability(table), figure)
    wide = _sensitivities(table)
    text = f"{wide}\n\n{output}: {len(table)} values. Next: repanalysis plot {output} -o stability.svg"
    return CommandResult(text, data_of(table), missing(table.failures, table.failure))


def _sensitivities(table: Table) -> str:
    """First, middle and last layers' sensitivities, a column per perturbation and a block per run."""
    lines = []
    for run, rows in table.frame[table.frame["variant"] == ""].groupby("run", sort=False):
        layers = list(dict.fromkeys(rows.sort_values("order")["layer"]))
        shown = layers if len(layers) <= MOST_EPOCHS else [*layers[:4], "...", *layers[-8:]]
        keys = [
            (metric, label, strength)
            for metric, label, strength in dict.fromkeys(map(tuple, rows[["metric", "perturbation", "strength"]].to_numpy()))
            if metric != "squared_distance"
        ][: MOST_COLUMNS // 2]
        value = {
            key: dict(zip(part["layer"], part["value"], strict=True))
            for key, part in rows.groupby(["metric", "perturbation", "strength"])
        }
        head = [f"{'R ' if metric == 'relative_stability' else ''}{label} {strength:.3g}" for metric, label, strength in keys]
        body = [[layer, *("" if layer == "..." else number(value[key][layer]) for key in keys)] for layer in shown]
        lines.append(f"{run}, n = {rows['n'].iloc[0]}\n{columns(['layer', *head], body, numeric=True)}")
    return "\n\n".join([*lines, notes(table.frame)]).rstrip()


@command
def filter_energy(
    settings: Settings,
    model: ModelSpec,
    output: TableFile,
    weights: Annotated[list[str] | None, typer.Option(help="Weights file; repeat it for several checkpoints.")] = None,
    overwrite: Overwrite = False,
) -> CommandResult:
    """Measure the smoothness of filters: their energy on the eigenspaces of the grid's Laplacian, layer by layer."""
    check_output_path("table format", output, TABLES, overwrite=overwrite)
    tables = []
    files: list[str | None] = list(weights) if weights else [None]
    for file in files:
        torch.manual_seed(settings.seed)
        built = load_model(model, weights=file)
        tables.append(
            measure_filter_energy(built.module, run=output.stem if file is None else Path(file).stem, name=built.card["model"])
        )
    table = Table.concat(tables)
    table.save(output)
    shown = table.select(metric="filter_homogeneity")
    then = f"repanalysis plot {output} -m filter_homogeneity -o energy.svg"
    return CommandResult(f"{pretty(shown)}\n\n{output}: {len(table)} values. Next: {then}", data_of(table))

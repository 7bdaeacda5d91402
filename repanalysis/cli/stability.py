"""`repanalysis stability` and `filter-energy`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from repanalysis.cli._choices import Colours, DataSpec, Device, Layers, ModelSpec, Ops, Overwrite, Size, Split, Strict, numbers
from repanalysis.cli._outputs import FIGURES, TABLES, file_plots, free, missing, saved
from repanalysis.cli._texts import MOST_COLUMNS, MOST_EPOCHS, columns, data_of, notes, number, pretty
from repanalysis.cli._verbs import Said, Settings, verb

if TYPE_CHECKING:
    from repanalysis.table import Table


@verb
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
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")],
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Figure to draw: .svg, .pdf or .png.")] = None,
    weights: Annotated[
        list[str] | None, typer.Option(help="Weights file, one per model; or several checkpoints of one model.")
    ] = None,
    init: Annotated[int, typer.Option(min=0, help="Untrained networks to average over, beside the model.")] = 0,
    shuffled: Annotated[int, typer.Option(min=0, help="Channel-shuffled copies to average over, beside the model.")] = 0,
    split: Split = None,
    limit: Annotated[int, typer.Option(min=0, help="Random subset of so many images; 0 for all.")] = 500,
    layers: Layers = None,
    ops: Ops = False,
    statistic: Annotated[str, typer.Option(help="mean or median, over images.")] = "mean",
    self_pairs: Annotated[bool, typer.Option(help="Count an image's distance to itself among all pairs.")] = True,
    batch_norm: Annotated[str, typer.Option(help="What batch norms use: running or batch statistics.")] = "running",
    size: Size = None,
    mean: Colours = None,
    std: Colours = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step, before they are perturbed.")] = None,
    device: Device = None,
    precision: Annotated[str, typer.Option(help="float32; bfloat16 or float16 for automatic mixed precision.")] = "float32",
    strict: Strict = False,
    overwrite: Overwrite = False,
) -> Said:
    """Say how far perturbations of the images move what each layer makes of them."""
    from repanalysis.analyses.stability.twins import stability_runs

    free("table format", output, TABLES, overwrite=overwrite)
    free("figure format", figure, FIGURES, overwrite=overwrite)
    table = stability_runs(
        models, data, perturb, weights=weights, init=init, shuffled=shuffled, split=split, limit=limit or None, layers=layers,
        ops=ops, statistic=statistic, self_pairs=self_pairs, size=size, mean=numbers(mean), std=numbers(std),  # type: ignore[arg-type]
        batch_norm=batch_norm, batch_size=batch_size, device=device, precision=precision,  # type: ignore[arg-type]
        seed=settings.seed, progress=settings.progress, strict=strict,
    )  # fmt: skip
    table.save(output)
    if figure is not None:
        saved(file_plots().stability(table), figure)
    wide = _sensitivities(table)
    text = f"{wide}\n\n{output}: {len(table)} values. Next: repanalysis plot {output} -o stability.svg"
    return Said(text, data_of(table), missing(table.failures, table.failure))


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
        lines.append(f"{run}, n = {rows['n'].iloc[0]}\n{columns(['layer', *head], body)}")
    return "\n\n".join([*lines, notes(table.frame)]).rstrip()


@verb
def filter_energy(
    settings: Settings,
    model: ModelSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")],
    weights: Annotated[list[str] | None, typer.Option(help="Weights file; repeat it for several checkpoints.")] = None,
    overwrite: Overwrite = False,
) -> Said:
    """Say how smooth the filters are: their energy on the eigenspaces of the grid's Laplacian, layer by layer."""
    import torch

    from repanalysis.analyses.stability.filter_energy import filter_energy as energy_of
    from repanalysis.inputs.models import load_model
    from repanalysis.table import Table

    free("table format", output, TABLES, overwrite=overwrite)
    tables = []
    files: list[str | None] = list(weights) if weights else [None]
    for file in files:
        torch.manual_seed(settings.seed)
        built = load_model(model, weights=file)
        tables.append(energy_of(built.module, run=output.stem if file is None else Path(file).stem, name=built.card["model"]))
    table = Table.concat(tables)
    table.save(output)
    shown = table.select(metric="filter_homogeneity")
    then = f"repanalysis plot {output} -m filter_homogeneity -o energy.svg"
    return Said(f"{pretty(shown)}\n\n{output}: {len(table)} values. Next: {then}", data_of(table))

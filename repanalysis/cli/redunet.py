"""`repanalysis redunet`: networks that are constructed by maximising the rate reduction."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from probes.atomic_files import replacing
from repanalysis._checks import one_of, writable
from repanalysis.cli._arguments import DataSpec, FigureFile, Overwrite
from repanalysis.cli._commands import Command
from repanalysis.cli._declared import Options
from repanalysis.cli._outputs import FIGURES, TABLES, check_output_path, file_plots, save_figure
from repanalysis.cli._texts import frame_text
from repanalysis.cli._verbs import CommandResult, Settings, command
from repanalysis.networks.redunet.config import ReduNetConfig
from repanalysis.networks.redunet.construction import plan as plan_construction
from repanalysis.studies.redunets import EXPERIMENTS, SHIFTS, held_out_cosines, run_experiment
from repanalysis.table import Table
from repanalysis.training.redunets import build_redunet, rates_table, read_samples

MOST_LAYERS = 12  # rows of the printed table

redunet = typer.Typer(
    no_args_is_help=True, help="ReduNets: networks constructed by maximising the rate reduction, by forward passes alone."
)


@command
def build(
    settings: Settings,
    data: DataSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="Network to write, .safetensors; `redunet:FILE` names it.")],
    table: Annotated[Path | None, typer.Option(help="Table of the rates to write: .csv or .parquet.")] = None,
    figure: FigureFile = None,
    config: Annotated[Any, Options(ReduNetConfig)] = None,
    options: Annotated[Any, Options(build_redunet)] = None,
) -> CommandResult:
    """Construct a ReduNet layer by layer, with the rates of training and test samples after each layer."""
    check_output_path("network format", output, (".safetensors",), overwrite=options["overwrite"] or options["resume"])
    check_output_path("table format", table, TABLES, overwrite=options["overwrite"])
    check_output_path("figure format", figure, FIGURES, overwrite=options["overwrite"])
    network = build_redunet(data, output, config, **options)
    rates = rates_table(network, output.stem)
    if table is not None:
        rates.save(table)
    if figure is not None:
        save_figure(file_plots().overview(rates), figure)
    curve = network.curve()
    whole = {0: "", 1: " --pool none --axes '*=BCT'", 2: " --pool none"}[len(network.step.grid.size)]
    wide = curve.pivot_table(values="rate_reduction", index=["order", "layer"], columns="split", sort=False).reset_index()
    every = max(1, len(wide) // MOST_LAYERS)
    shown = wide.iloc[sorted({*range(0, len(wide), every), len(wide) - 1})].drop(columns="order")
    step = network.step
    text = (
        f"Rate reduction, in nats\n{frame_text(shown, 4)}\n\n"
        f"{output}: {len(network.layers)} layers, {step.n:,} training samples, "
        f"effective eps^2 = {step.eps_sq:g}, eta_eff = {step.eta_eff:.3g}, lam_eff = {step.lam_eff:.3g}. "
        f"Next: repanalysis extract redunet:{output} --data {data} -o activations.h5{whole}"
    )
    return CommandResult(text, {"network": str(output), "rates": curve.to_dict("records")})


@command
def plan(
    settings: Settings,
    data: DataSpec,
    config: Annotated[Any, Options(ReduNetConfig)] = None,
    options: Annotated[Any, Options(build_redunet, only=("split", "per_class", "size", "labels"))] = None,
) -> CommandResult:
    """Compute the sizes of a network and of its construction, without building anything."""
    training = read_samples(data, seed=settings.seed, hidden=True, **options)
    classes = len(set(training.y.tolist()))
    sizes = plan_construction(training.x.shape[1:], classes, len(training.y), config=config)
    text = (
        f"{len(training.y):,} samples of {classes} classes, features {'x'.join(map(str, sizes.shape))}: "
        f"{sizes.layer_bytes / 2**20:,.1f} MiB a layer, {sizes.file_bytes / 2**20:,.1f} MiB in all, "
        f"{sizes.memory_bytes / 2**20:,.1f} MiB of memory."
    )
    return CommandResult(text, asdict(sizes))


@command
def study(
    settings: Settings,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for networks, tables and figures.")],
    names: Annotated[list[str] | None, typer.Argument(help="Experiments; default all.", show_default=False)] = None,
    options: Annotated[Any, Options(run_experiment)] = None,
    overwrite: Overwrite = False,
) -> CommandResult:
    """Run the publication's experiments: rates by layer, accuracies, invariance to shifts."""
    for name in names or ():
        one_of("experiment", name, EXPERIMENTS)
    writable(output, folder=True)
    chosen = names or list(EXPERIMENTS)
    paths = {name: output / f"{name}.safetensors" for name in chosen}
    for name, path in paths.items():
        for target, endings in ((path, (".safetensors",)), (output / f"{name}.svg", FIGURES)):
            check_output_path("format", target, endings, overwrite=overwrite)
    tables = {name: output / f"{name}.csv" for name in ("rates", "accuracies", "shifts")}
    for path in tables.values():
        check_output_path("table format", path, TABLES, overwrite=overwrite)
    results = []
    for name, path in paths.items():
        results.append(run_experiment(name, path, overwrite=overwrite, **options))
        save_figure(file_plots().overview(results[-1].rates), output / f"{name}.svg")
        save_figure(file_plots().cosines(held_out_cosines(results[-1]), title=name).figure, output / f"{name}-cosines.svg")
    Table.concat([result.rates for result in results]).save(tables["rates"])
    accuracies, shifts = (pd.concat([getattr(result, kind) for result in results]) for kind in ("accuracies", "shifts"))
    for name, frame in (("accuracies", accuracies), ("shifts", shifts)):
        with replacing(tables[name]) as draft:
            frame.to_csv(draft, index=False)
    text = frame_text(accuracies, 3)
    if len(shifts):
        text += f"\n\nAssignments of test samples under {SHIFTS} random circular shifts\n{frame_text(shifts, 3)}"
    files = f"{output}: networks, rates.csv, accuracies.csv, shifts.csv and figures of {', '.join(chosen)}."
    return CommandResult(
        f"{text}\n\n{files}", {"accuracies": accuracies.to_dict("records"), "shifts": shifts.to_dict("records")}
    )


for verb in (build, plan, study):
    redunet.command(verb.__name__, cls=Command)(verb)

"""`repanalysis filters`: the label clusters of single filters, and pruning by them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

import probes
from probes.errors import DataError, UsageError
from repanalysis.analyses.filters.laws import against_labels, against_width
from repanalysis.analyses.filters.measures import LayerFilters, load_layer, top_activating
from repanalysis.analyses.filters.measures import filters as filters_analysis
from repanalysis.analyses.pruning.networks import RETRAINING
from repanalysis.analyses.pruning.networks import prune as prune_analysis
from repanalysis.analyses.pruning.recorded_heads import prune_head as prune_head_analysis
from repanalysis.cli._arguments import DataSpec, FigureFile, ModelSpec, Overwrite, TableFile, TestFile, TrainFile
from repanalysis.cli._commands import Command
from repanalysis.cli._declared import Options
from repanalysis.cli._outputs import FIGURES, TABLES, check_output_path, file_plots, missing, save_figure
from repanalysis.cli._tables import columns
from repanalysis.cli._texts import data_of, notes, number
from repanalysis.cli._verbs import CommandResult, Settings, command
from repanalysis.heads.clusters import ClusterOptions
from repanalysis.heads.fitting import HeadOptions
from repanalysis.inputs.data import load_data
from repanalysis.inputs.devices import device_of
from repanalysis.inputs.models import input_channels, load_model
from repanalysis.inputs.weights import save_heads, save_weights
from repanalysis.plots.filter_sheets import clearest_filters
from repanalysis.table import Table
from repanalysis.training import runs
from repanalysis.training.epochs import Images

Clusters = Annotated[Any, Options(ClusterOptions)]
Heads = Annotated[Any, Options(HeadOptions)]


class _MeasuringGroup(typer.core.TyperGroup):
    """A group of commands with a default, `measure`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert `measure` if the first word is not a command."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["measure", *args]
        return super().parse_args(ctx, args)


filters = typer.Typer(
    cls=_MeasuringGroup, no_args_is_help=True,
    help="Label clusters of single filters, and pruning by them. `filters A B` is `filters measure A B`.",
)  # fmt: skip


@command
def measure(
    settings: Settings,
    train: TrainFile,
    test: TestFile = None,
    output: TableFile = Path("filters.csv"),
    options: Annotated[Any, Options(filters_analysis)] = None,
    clusters: Clusters = None,
    head_options: Heads = None,
    heads: Annotated[Path | None, typer.Option(help="Safetensors file to write the heads to.")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Curves to draw: .svg, .pdf or .png.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Sheet of the last layer's filters: .svg, .pdf or .png.")] = None,
    filter: Annotated[list[int] | None, typer.Option(help="Filter to put on the sheet; repeat it.")] = None,
    data: Annotated[str | None, typer.Option(help="The test images, to show those that activate the filters most.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data.")] = None,
    overwrite: Overwrite = False,
) -> CommandResult:
    """Fit a head to every layer, and measure the label clusters of the layer's filters."""
    check_output_path("table format", output, TABLES, overwrite=overwrite)
    for path in (figure, sheet):
        check_output_path("figure format", path, FIGURES, overwrite=overwrite)
    check_output_path("weights format", heads, (".safetensors",), overwrite=overwrite)
    if sheet is None and (data is not None or filter is not None):
        raise UsageError("--data and --filter belong to a sheet; give --sheet as well.")
    if split is not None and data is None:
        raise UsageError("--split says which images of --data are shown; give --data as well.")
    table, layers = filters_analysis(train, test, clusters=clusters, heads=head_options, run=train.stem, **options)
    if sheet is not None and not layers:
        raise DataError(f"There is no filter sheet to draw: {table.failure}.")
    table.save(output)
    if heads is not None:
        save_heads(heads, {name: layer.weight for name, layer in layers.items()})
    if figure is not None:
        save_figure(file_plots().overview(table.select(variant=""), metrics=_FILTER_CURVES), figure)
    if sheet is not None:
        _draw_sheet(layers, test or train, sheet, filter, data, split)
    wide = table.select(variant="", metric=_FILTER_CURVES).frame
    values = {layer: dict(zip(part["metric"], part["value"], strict=True)) for layer, part in wide.groupby("layer", sort=False)}
    rows = [[layer, *(number(row.get(name)) for name in _FILTER_CURVES)] for layer, row in values.items()]
    text = columns(["layer", *_FILTER_CURVES], rows) + "\n" + notes(table.frame)
    hint = f" Next: repanalysis plot {output} -m layer_accuracy -m snr_pair -o snr.svg" if figure is None else ""
    text = f"{text.rstrip()}\n\n{output}: {len(table)} values.{hint}"
    return CommandResult(text, data_of(table), missing(table.failures, table.failure))


_FILTER_CURVES = ["layer_accuracy", "clusters_per_filter", "cluster_size", "noise_per_filter", "snr_pair", "snr_field_unit"]


def _draw_sheet(
    layers: Mapping[str, LayerFilters], source: Path, path: Path, indices: list[int] | None, data: str | None, split: str | None
) -> None:
    """Draw the last layer's filters, with the images that activate them most."""
    name, layer = list(layers.items())[-1]
    filters = indices or clearest_filters(layer.clusters, 6)
    with probes.open(source) as opened:
        names = opened.class_names
        labels = None if names is None else [names[label] for label in layer.labels]
        images = None
        if data is not None:
            samples = load_data(data, split=split)
            best = {index: samples.pick(top_activating(opened, name, index, 5)) for index in filters}
            images = {
                index: [top[row][0].numpy().transpose(1, 2, 0).squeeze() for row in range(5)] for index, top in best.items()
            }
    matrices = (layer.clusters, layer.means, layer.weight)
    save_figure(file_plots().filter_sheet(*matrices, filters=indices, names=labels, images=images, title=name), path)


Layer = Annotated[str | None, typer.Option(help="The layer before the head; default the last.")]


@command
def prune_head(
    settings: Settings,
    train: TrainFile,
    test: TestFile = None,
    output: TableFile = Path("prune.csv"),
    layer: Layer = None,
    options: Annotated[Any, Options(prune_head_analysis)] = None,
    head_options: Heads = None,
    figure: FigureFile = None,
    overwrite: Overwrite = False,
) -> CommandResult:
    """Keep the weights of a linear head that serve its filters' clusters, and measure the remaining accuracy."""
    _check_outputs(output, figure, overwrite)
    name, train_data, test_data, classes = load_layer(train, test, layer=layer)
    table = prune_head_analysis(train_data, test_data, classes=classes, heads=head_options, run=name, **options)
    table.save(output)
    if figure is not None:
        save_figure(file_plots().dilution(table).figure, figure)
    frame = table.select(metric="head_accuracy").frame
    rows = [[r.variant, f"{r.strength:.3f}", f"{r.value:.4f}", r.note] for r in frame.itertuples()]
    return CommandResult(
        f"{columns(['weights', 'dilution', 'accuracy', ''], rows)}\n\n{output}: {len(table)} values.", data_of(table)
    )


@command
def prune(
    settings: Settings,
    model: ModelSpec,
    data: DataSpec,
    output: TableFile = Path("prune.csv"),
    images: Annotated[Any, Options(runs.train, only=("test", "test_split", "limit", "device"))] = None,
    weights: Annotated[str | None, typer.Option(help="Safetensors or torch file with the trained weights.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of the data.")] = "train",
    options: Annotated[Any, Options(prune_analysis)] = None,
    head_options: Heads = None,
    config: Annotated[Any, Options(RETRAINING, only=("epochs", "lr"))] = None,
    figure: FigureFile = None,
    save: Annotated[
        Path | None, typer.Option(help="Safetensors file for the pruned network's weights; takes one --theta.")
    ] = None,
    overwrite: Overwrite = False,
) -> CommandResult:
    """Prune a trained network by its filters' clusters, train it again briefly, and measure the remaining accuracy."""
    thetas = options["thetas"]
    _check_outputs(output, figure, overwrite)
    check_output_path("weights format", save, (".safetensors",), overwrite=overwrite)
    if save is not None and len(thetas) != 1:
        raise UsageError("--save writes one network; give --theta once.")
    device = device_of(images["device"])
    built = load_model(model, weights=weights)
    preprocessing: dict[str, Any] = {"transform": built.transform, "colours": input_channels(built)}
    samples = load_data(data, split=split, **preprocessing)
    samples = samples if images["limit"] is None else samples.sample(images["limit"], seed=settings.seed)
    hidden = None if settings.progress is None else not settings.progress
    test_samples = load_data(images["test"] or data, split=images["test_split"] or "test", **preprocessing)
    parts = [Images.of(part, hidden=hidden) for part in (samples, test_samples)]
    table, networks = prune_analysis(
        built.module, *parts, config=config, heads=head_options, run=output.stem, card=built.card, device=device, **options
    )
    table.save(output)
    pruned = ", ".join(table.provenance[output.stem]["layers"])
    if save is not None:
        metadata = {"model": built.card["model"], "theta": thetas[0], "pruned": pruned}
        save_weights(save, networks[thetas[0]].state_dict(), metadata)
    if figure is not None:
        save_figure(file_plots().dilution(table).figure, figure)
    frame = table.select(metric="network_accuracy").frame
    products = table.select(metric="kept_multiplications").frame
    rows = [[r.variant, f"{r.strength:.3f}", f"{r.value:.4f}", r.note] for r in frame.itertuples()]
    remaining = "\n".join(f"{r.value:.1%} of all multiplications remain at {r.note}." for r in products.itertuples())
    summary = f"{pruned} pruned; n = {table.frame['n'].max():,} images."
    accuracies = columns(["weights", "dilution", "accuracy", ""], rows)
    text = f"{summary}\n\n{accuracies}\n\n{remaining}\n\n{output}: {len(table)} values."
    return CommandResult(text + (f" Weights: {save}." if save is not None else ""), data_of(table))


@command
def labels(
    settings: Settings,
    train: TrainFile,
    test: TestFile = None,
    output: TableFile = Path("labels.csv"),
    layer: Annotated[str | None, typer.Option(help="The layer; default the last.")] = None,
    options: Annotated[Any, Options(against_labels)] = None,
    clusters: Clusters = None,
    head_options: Heads = None,
    figure: FigureFile = None,
    overwrite: Overwrite = False,
) -> CommandResult:
    """Measure a layer's error and clusters against the number of labels."""
    _check_outputs(output, figure, overwrite)
    name, train_data, test_data, classes = load_layer(train, test, layer=layer)
    table = against_labels(
        train_data, test_data, classes=classes, clusters=clusters, heads=head_options, run=train.stem, layer=name, **options
    )
    return _law(table, output, figure)


@command
def widths(
    settings: Settings,  # of every command
    tables: Annotated[
        list[Path], typer.Argument(help="Tables of `repanalysis filters`, of networks of at least three widths.")
    ],
    output: TableFile = Path("widths.csv"),
    layer: Annotated[str | None, typer.Option(help="The layer; default each network's last.")] = None,
    figure: FigureFile = None,
    overwrite: Overwrite = False,
) -> CommandResult:
    """Fit power laws of error and noise per filter to networks of several widths."""
    _check_outputs(output, figure, overwrite)
    return _law(against_width(Table.concat([Table.load(path) for path in tables]), layer=layer), output, figure)


def _check_outputs(output: Path, figure: Path | None, overwrite: bool) -> None:
    check_output_path("table format", output, TABLES, overwrite=overwrite)
    check_output_path("figure format", figure, FIGURES, overwrite=overwrite)


def _law(table: Table, output: Path, figure: Path | None) -> CommandResult:
    """Write the table, draw the figure, and print points and fitted laws."""
    table.save(output)
    if figure is not None:
        save_figure(file_plots().laws(table), figure)
    frame = table.frame
    points = frame[frame["strength"].notna()]
    keys = list(dict.fromkeys(zip(points["metric"], points["variant"], strict=True)))
    value = points.drop_duplicates(["metric", "variant", "strength"]).set_index(["metric", "variant", "strength"])["value"]
    head = [points["perturbation"].iloc[0], *(f"{variant or metric}" for metric, variant in keys)]
    body = [
        [f"{strength:g}", *(number(value.get((*key, strength))) for key in keys)]
        for strength in sorted(set(points["strength"]))
    ]
    fits = frame[frame["strength"].isna()]
    names = fits["metric"] + fits["variant"].map(lambda name: f" ({name})" if name else "")
    errors = fits["se"].map(lambda se: "" if math.isnan(se) else f" +- {se:.2g}")
    fitted = [f"{name} = {fit:.4g}{error}" for name, fit, error in zip(names, fits["value"], errors, strict=True)]
    text = "\n".join(filter(None, [columns(head, body), "", *fitted, notes(frame)]))
    return CommandResult(f"{text}\n\n{output}: {len(table)} values.", data_of(table))


for _command in (measure, prune, prune_head, labels, widths):
    filters.command(cls=Command)(_command)

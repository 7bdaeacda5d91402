"""`repanalysis filters`: what single filters know, and pruning by it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import typer.core

from probes.errors import DataError, UsageError
from repanalysis.cli._choices import DataSpec, Device, Layers, Limit, ModelSpec, Overwrite, Split, Strict, Weights
from repanalysis.cli._commands import Command
from repanalysis.cli._outputs import FIGURES, TABLES, file_plots, free, missing, saved
from repanalysis.cli._texts import columns, data_of, notes, number
from repanalysis.cli._verbs import Said, Settings, verb

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    from repanalysis.table import Table


class _MeasuringGroup(typer.core.TyperGroup):
    """A group whose first verb needs not be named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `measure` in front of what is none of the verbs."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = ["measure", *args]
        return super().parse_args(ctx, args)


filters = typer.Typer(
    cls=_MeasuringGroup, no_args_is_help=True,
    help="What single filters know of the labels. `filters A B` is `filters measure A B`.",
)  # fmt: skip


@verb
def measure(
    settings: Settings,
    train: Annotated[Path, typer.Argument(help="Activations to fit heads on; or of both splits, train and test.")],
    test: Annotated[Path | None, typer.Argument(help="Activations of other samples, to measure with.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")] = Path("filters.csv"),
    layers: Layers = None,
    theta: Annotated[float, typer.Option(help="Share of the largest entry above which a field counts.")] = 0.3,
    order: Annotated[str, typer.Option(help="In which clusters are sought: label or degree.")] = "label",
    gauge: Annotated[str, typer.Option(help="center, or none for weights as they are.")] = "center",
    solver: Annotated[str, typer.Option(help="lbfgs, or sgd for the papers' protocol.")] = "lbfgs",
    group: Annotated[
        list[str] | None, typer.Option(help="Channels that count as one filter, PATTERN=COUNT, such as '*attn*=3' heads.")
    ] = None,
    bootstrap: Annotated[int, typer.Option(min=0, help="Resamplings for standard errors.")] = 20,
    heads: Annotated[Path | None, typer.Option(help="Safetensors file to write the heads to.")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Curves to draw: .svg, .pdf or .png.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Sheet of the last layer's filters: .svg, .pdf or .png.")] = None,
    filter: Annotated[list[int] | None, typer.Option(help="Filter to put on the sheet; repeat it.")] = None,
    data: Annotated[str | None, typer.Option(help="The test images, to show those that drive the filters.")] = None,
    split: Split = None,
    strict: Strict = False,
    overwrite: Overwrite = False,
) -> Said:
    """Fit a head to every layer, and say what its single filters know of the labels."""
    from repanalysis.analyses.filters.measures import filters as look

    free("table format", output, TABLES, overwrite=overwrite)
    for path in (figure, sheet):
        free("figure format", path, FIGURES, overwrite=overwrite)
    free("weights format", heads, (".safetensors",), overwrite=overwrite)
    if sheet is None and (data is not None or filter is not None):
        raise UsageError("--data and --filter belong to a sheet; give --sheet as well.")
    if split is not None and data is None:
        raise UsageError("--split says which images of --data are shown; give --data as well.")
    table, found = look(
        train, test, layers=layers, theta=theta, order=order, gauge=gauge, solver=solver, groups=_groups(group),
        bootstrap=bootstrap, seed=settings.seed, run=train.stem, progress=settings.progress, strict=strict,
    )  # fmt: skip
    if sheet is not None and not found:
        raise DataError(f"There is no filter sheet to draw: {table.failure}.")
    table.save(output)
    if heads is not None:
        from repanalysis.inputs.weights import save_heads

        save_heads(heads, {layer: one.weight for layer, one in found.items()})
    if figure is not None:
        saved(file_plots().overview(table.select(variant=""), metrics=_FILTER_CURVES), figure)
    if sheet is not None:
        _sheet(found, test or train, sheet, filter, data, split, {"theta": theta, "gauge": gauge})
    wide = table.select(variant="", metric=_FILTER_CURVES).frame
    values = {layer: dict(zip(part["metric"], part["value"], strict=True)) for layer, part in wide.groupby("layer", sort=False)}
    rows = [[layer, *(number(row.get(name)) for name in _FILTER_CURVES)] for layer, row in values.items()]
    text = columns(["layer", *_FILTER_CURVES], rows) + "\n" + notes(table.frame)
    then = f" Next: repanalysis plot {output} -m layer_accuracy -m snr_pair -o snr.svg" if figure is None else ""
    said = f"{text.rstrip()}\n\n{output}: {len(table)} values.{then}"
    return Said(said, data_of(table), missing(table.failures, table.failure))


_FILTER_CURVES = ["layer_accuracy", "clusters_per_filter", "cluster_size", "noise_per_filter", "snr_pair", "snr_field_unit"]


def _groups(given: list[str] | None) -> dict[str, int]:
    """`"*attn*=3"` -> {"*attn*": 3}."""
    found = {}
    for text in given or ():
        pattern, equals, count = text.rpartition("=")
        if not equals or not count.isdigit() or int(count) < 1:
            raise UsageError(f"{text!r} is no PATTERN=COUNT, such as '*attn*=3'.")
        found[pattern] = int(count)
    return found


def _sheet(  # one call, above
    found: dict[str, Any], source: Path, path: Path, chosen: list[int] | None, data: str | None, split: str | None, options: Any
) -> None:
    """Draw the last layer's filters, with the images that drive them."""
    import probes
    from repanalysis.analyses.filters.measures import driving
    from repanalysis.plots.filter_sheets import telling

    layer, one = list(found.items())[-1]
    shown = chosen or telling(one.found, 6)
    with probes.open(source) as opened:
        names = opened.class_names
        told = None if names is None else [names[label] for label in one.labels]
        images = None
        if data is not None:
            from repanalysis.inputs.data import load_data

            samples = load_data(data, split=split)
            best = {one: samples.pick(driving(opened, layer, one, 5)) for one in shown}
            images = {one: [data[at][0].numpy().transpose(1, 2, 0).squeeze() for at in range(5)] for one, data in best.items()}
    matrices = (one.found, one.means, one.weight)
    saved(file_plots().filter_sheet(*matrices, chosen=chosen, names=told, images=images, title=layer, **options), path)


@verb
def prune_head(
    settings: Settings,
    train: Annotated[Path, typer.Argument(help="Activations to fit heads and choose masks on; or of both splits.")],
    test: Annotated[Path | None, typer.Argument(help="Activations of other samples, to measure with.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")] = Path("prune.csv"),
    layer: Annotated[str | None, typer.Option(help="The layer before the head; default the last.")] = None,
    theta: Annotated[list[float] | None, typer.Option(help="Threshold; repeat it. Default 0.1 0.3 0.5 0.7 0.9.")] = None,
    controls: Annotated[int, typer.Option(min=0, help="Random masks of equal size, to average over.")] = 3,
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Figure to draw: .svg, .pdf or .png.")] = None,
    overwrite: Overwrite = False,
) -> Said:
    """Keep the weights of a linear head that serve its filters' clusters, and say what accuracy is left."""
    from repanalysis.analyses.filters.measures import held
    from repanalysis.analyses.pruning.recorded_heads import prune_head as prune

    _refuse(output, figure, overwrite)
    name, first, last, classes = held(train, test, layer=layer)
    options: dict[str, Any] = {"controls": controls, "seed": settings.seed, "run": name, "progress": settings.progress}
    table = prune(first, last, thetas=theta or (0.1, 0.3, 0.5, 0.7, 0.9), classes=classes, **options)
    table.save(output)
    if figure is not None:
        saved(file_plots().dilution(table).figure, figure)
    frame = table.select(metric="head_accuracy").frame
    rows = [[r.variant, f"{r.strength:.3f}", f"{r.value:.4f}", r.note] for r in frame.itertuples()]
    return Said(f"{columns(['weights', 'dilution', 'accuracy', ''], rows)}\n\n{output}: {len(table)} values.", data_of(table))


@verb
def prune(
    settings: Settings,
    model: ModelSpec,
    data: DataSpec,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")] = Path("prune.csv"),
    weights: Weights = None,
    split: Split = "train",
    test: Annotated[str | None, typer.Option(help="Images to score; default --data.")] = None,
    test_split: Annotated[str | None, typer.Option(help="Split of the images to score.")] = "test",
    limit: Limit = None,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", "-l", help="Convolutions and linear layers to prune; default the last convolution and on."),
    ] = None,
    theta: Annotated[list[float] | None, typer.Option(help="Threshold; repeat it. Default 0.3.")] = None,
    places: Annotated[int, typer.Option(min=1, help="Maps are averaged to so many by so many places.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images after pruning.")] = 2,
    rate: Annotated[float, typer.Option(help="Learning rate of these.")] = 0.01,
    controls: Annotated[int, typer.Option(min=0, help="Random masks of equal size, trained alike, to average over.")] = 1,
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Figure to draw: .svg, .pdf or .png.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Safetensors file for the pruned network's weights; takes one --theta.")
    ] = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> Said:
    """Prune a trained network by its filters' clusters, train it again for a moment, and say what accuracy is left."""
    from dataclasses import replace

    from repanalysis.analyses.pruning.networks import RETRAINING, prune
    from repanalysis.inputs.data import load_data
    from repanalysis.inputs.devices import device_of
    from repanalysis.inputs.models import input_channels, load_model
    from repanalysis.inputs.weights import save_weights
    from repanalysis.training.epochs import Images

    thetas = theta or [0.3]
    _refuse(output, figure, overwrite)
    free("weights format", save, (".safetensors",), overwrite=overwrite)
    if save is not None and len(thetas) != 1:
        raise UsageError("--save writes one network; give --theta once.")
    where = device_of(device)
    built = load_model(model, weights=weights)
    options: dict[str, Any] = {"transform": built.transform, "colours": input_channels(built)}
    samples = load_data(data, split=split, **options)
    samples = samples if limit is None else samples.sample(limit, seed=settings.seed)
    hidden = None if settings.progress is None else not settings.progress
    parts = [Images.of(one, hidden=hidden) for one in (samples, load_data(test or data, split=test_split, **options))]
    recipe = replace(RETRAINING, epochs=epochs, rate=rate, seed=settings.seed)
    table, networks = prune(
        built.module, *parts, layers=layers, thetas=thetas, places=places, controls=controls, recipe=recipe,
        run=output.stem, card=built.card, device=where, progress=settings.progress,
    )  # fmt: skip
    table.save(output)
    pruned = ", ".join(table.provenance[output.stem]["layers"])
    if save is not None:
        facts = {"model": built.card["model"], "theta": thetas[0], "pruned": pruned}
        save_weights(save, networks[thetas[0]].state_dict(), facts)
    if figure is not None:
        saved(file_plots().dilution(table).figure, figure)
    frame = table.select(metric="network_accuracy").frame
    kept = table.select(metric="kept_multiplications").frame
    rows = [[r.variant, f"{r.strength:.3f}", f"{r.value:.4f}", r.note] for r in frame.itertuples()]
    left = "\n".join(f"{r.value:.1%} of all products are left at {r.note}." for r in kept.itertuples())
    head = f"{pruned} pruned; n = {table.frame['n'].max():,} images."
    text = f"{head}\n\n{columns(['weights', 'dilution', 'accuracy', ''], rows)}\n\n{left}\n\n{output}: {len(table)} values."
    return Said(text + (f" Weights: {save}." if save is not None else ""), data_of(table))


@verb
def labels(
    settings: Settings,
    train: Annotated[Path, typer.Argument(help="Activations to fit heads on; or of both splits, train and test.")],
    test: Annotated[Path | None, typer.Argument(help="Activations of other samples, to measure with.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")] = Path("labels.csv"),
    layer: Annotated[str | None, typer.Option(help="The layer; default the last.")] = None,
    size: Annotated[list[int] | None, typer.Option(min=2, help="Number of labels; repeat it. Default six, 2 to all.")] = None,
    subsets: Annotated[int, typer.Option(min=1, help="Random subsets of labels of each size.")] = 5,
    theta: Annotated[float, typer.Option(help="Share of the largest entry above which a field counts.")] = 0.3,
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Figure to draw: .svg, .pdf or .png.")] = None,
    overwrite: Overwrite = False,
) -> Said:
    """Say how a layer's error and clusters go with the number of labels."""
    from repanalysis.analyses.filters.laws import against_labels
    from repanalysis.analyses.filters.measures import held

    _refuse(output, figure, overwrite)
    name, first, last, classes = held(train, test, layer=layer)
    options: dict[str, Any] = {"classes": classes, "seed": settings.seed, "run": train.stem, "progress": settings.progress}
    return _law(against_labels(first, last, sizes=size, subsets=subsets, theta=theta, layer=name, **options), output, figure)


@verb
def widths(
    settings: Settings,  # every verb's
    tables: Annotated[
        list[Path], typer.Argument(help="Tables of `repanalysis filters`, of networks of at least three widths.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")] = Path("widths.csv"),
    layer: Annotated[str | None, typer.Option(help="The layer; default each network's last.")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Figure to draw: .svg, .pdf or .png.")] = None,
    overwrite: Overwrite = False,
) -> Said:
    """Fit power laws of error and noise per filter to networks of several widths."""
    from repanalysis.analyses.filters.laws import against_width
    from repanalysis.table import Table

    _refuse(output, figure, overwrite)
    return _law(against_width(Table.concat([Table.load(path) for path in tables]), layer=layer), output, figure)


def _refuse(output: Path, figure: Path | None, overwrite: bool) -> None:
    free("table format", output, TABLES, overwrite=overwrite)
    free("figure format", figure, FIGURES, overwrite=overwrite)


def _law(table: Table, output: Path, figure: Path | None) -> Said:
    """A law, written, drawn and told."""
    table.save(output)
    if figure is not None:
        saved(file_plots().laws(table), figure)
    frame = table.frame
    points = frame[frame["strength"].notna()]
    keys = list(dict.fromkeys(zip(points["metric"], points["variant"], strict=True)))
    value = points.drop_duplicates(["metric", "variant", "strength"]).set_index(["metric", "variant", "strength"])["value"]
    head = [points["perturbation"].iloc[0], *(f"{variant or metric}" for metric, variant in keys)]
    body = [[f"{at:g}", *(number(value.get((*key, at))) for key in keys)] for at in sorted(set(points["strength"]))]
    rest = frame[frame["strength"].isna()]
    names = rest["metric"] + rest["variant"].map(lambda name: f" ({name})" if name else "")
    errors = rest["se"].map(lambda se: "" if math.isnan(se) else f" +- {se:.2g}")
    fitted = [f"{name} = {at:.4g}{error}" for name, at, error in zip(names, rest["value"], errors, strict=True)]
    told = "\n".join(filter(None, [columns(head, body), "", *fitted, notes(frame)]))
    return Said(f"{told}\n\n{output}: {len(table)} values.", data_of(table))


for _one in (measure, prune, prune_head, labels, widths):
    filters.command(cls=Command)(_one)

"""`repanalysis analyze`, `compare` and `plot`: from activations to tables and figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from probes.errors import UsageError
from repanalysis._checks import one_of
from repanalysis.cli._choices import (
    MOST_PROCESSES,
    Budget,
    IgnoreLabel,
    Labels,
    Layers,
    Metrics,
    Overwrite,
    Partial,
    Strict,
    Targets,
)
from repanalysis.cli._config import read_toml
from repanalysis.cli._outputs import FIGURES, TABLES, file_plots, free, missing, saved, tabled
from repanalysis.cli._texts import MOST_COLUMNS, columns, number
from repanalysis.cli._verbs import Said, Settings, verb

if TYPE_CHECKING:
    pass


@verb
def analyze(
    settings: Settings,
    sources: Annotated[list[Path], typer.Argument(help="Activations files; a folder is read as shards of one run.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")] = None,
    metrics: Metrics = None,
    layers: Layers = None,
    split: Annotated[str | None, typer.Option(help="Analyze this split alone.")] = None,
    by_split: Annotated[bool, typer.Option("--by-split", help="Analyze every split by itself.")] = False,
    classes: Annotated[str | None, typer.Option(help="Classes to look at, by label or name: cat,dog,7")] = None,
    superclasses: Annotated[Path | None, typer.Option(help='TOML file of classes to join: animal = ["cat", "dog"]')] = None,
    groups: Annotated[int, typer.Option(min=0, help="Groups of the jackknife; 0 for no standard errors.")] = 10,
    null: Annotated[int, typer.Option(min=0, help="Permutations of the labels: what chance alone would give.")] = 0,
    head: Annotated[
        str | None, typer.Option(help="Weights of the last linear layer, FILE:NAME, such as model.safetensors:fc")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, max=MOST_PROCESSES, help="Processes that analyze layers.")] = 0,
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Overview to draw: .svg, .pdf or .png.")] = None,
    dask: Annotated[str | None, typer.Option(help="Address of a dask scheduler, such as tcp://10.0.0.1:8786")] = None,
    labels: Labels = None,
    targets: Targets = None,
    ignore_label: IgnoreLabel = None,
    partial: Partial = False,
    state_budget: Budget = 2.0,
    strict: Strict = False,
    overwrite: Overwrite = False,
) -> Said:
    """Compute metrics of every layer, with standard errors; with --null, what random labels give."""
    from repanalysis.analyses.geometry.engine import analyze as analyze_source
    from repanalysis.inputs.weights import load_head
    from repanalysis.table import Table

    free("table format", output, TABLES, overwrite=overwrite)
    free("figure format", figure, FIGURES, overwrite=overwrite)
    options: dict[str, Any] = {
        "layers": layers, "partial": partial, "progress": settings.progress, "state_budget": int(state_budget * 2**30),
        "split": split, "by_split": by_split, "classes": classes.split(",") if classes else None,
        "superclasses": _superclasses(superclasses), "groups": groups, "null": null, "seed": settings.seed, "workers": workers,
        "head": load_head(head) if head else None, "strict": strict,
        "labels": labels, "targets": targets, "ignore_labels": ignore_label or (),
    }  # fmt: skip
    with _dask(dask) as executor:
        tables = [analyze_source(source, metrics, executor=executor, **options) for source in sources]
    table = Table.concat(tables)
    said = tabled(table, output)  # before the figure, which may fail
    if figure is not None:
        saved(file_plots().overview(table), figure)
    return said


def _superclasses(path: Path | None) -> dict[str, list[int | str]] | None:
    """Names of superclasses and the classes that they join, from a TOML file."""
    if path is None:
        return None
    content = read_toml(path)
    names = [name for classes in content.values() for name in (classes if isinstance(classes, list) else [None])]
    if not names or not all(isinstance(name, str | int) and not isinstance(name, bool) for name in names):
        raise UsageError(f'{path} should hold a list of classes per superclass, such as animal = ["cat", "dog"].')
    return content


@contextmanager
def _dask(address: str | None) -> Iterator[Any]:
    """An executor on a dask cluster, or None."""
    if address is None:
        yield None
        return
    try:
        from dask.distributed import Client
    except ImportError:
        raise UsageError("--dask needs dask.distributed: pip install 'repanalysis[dask]'.") from None
    try:
        client: Any = Client(address, timeout=10)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise UsageError(f"There is no dask scheduler at {address}: {error}.") from None
    with client:
        yield client.get_executor()


@verb
def compare(
    settings: Settings,
    a: Annotated[Path, typer.Argument(help="An activations file, or a folder of shards.")],
    b: Annotated[
        Path | None, typer.Argument(help="Another one of the same samples; default: the layers of a among themselves.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Table to write: .csv")] = None,
    figure: Annotated[Path | None, typer.Option("--figure", "-f", help="Heat map to write: .svg, .pdf or .png.")] = None,
    method: Annotated[str, typer.Option(help="cka, cka_biased, cka_rbf, cca, svcca, procrustes or rsa.")] = "cka",
    samples: Annotated[int, typer.Option(min=4, help="Samples to look at, drawn by id.")] = 2000,
    layers: Layers = None,
    groups: Annotated[int, typer.Option(min=0, help="Groups of the jackknife; 0 for no standard errors.")] = 10,
    null: Annotated[int, typer.Option(min=0, help="Random pairings of the samples: what unrelated layers would give.")] = 0,
    strict: Strict = False,
    same_samples: Annotated[
        bool, typer.Option("--same-samples", help="Equal ids are the same samples, whatever labels and names of data sets say.")
    ] = False,
    overwrite: Overwrite = False,
) -> Said:
    """Say how alike layers are, within one file or between two of the same samples; with --null, whether by chance."""
    from repanalysis.analyses.similarity import compare as compare_layers

    free("table format", output, (".csv",), overwrite=overwrite)
    free("figure format", figure, FIGURES, overwrite=overwrite)
    options: dict[str, Any] = {
        "samples": samples, "groups": groups, "null": null, "seed": settings.seed, "strict": strict,
        "same_samples": same_samples,
    }  # fmt: skip
    found = compare_layers(a, b, method, layers=layers, progress=settings.progress, **options)
    if output is not None:
        found.to_csv(output)
    if figure is not None:
        saved(file_plots().similarity(found).figure, figure)
    matrix = found.matrix()
    rows = [[name, *(number(value) for value in line)] for name, line in zip(matrix.index, matrix.to_numpy(), strict=True)]
    shown = rows if len(matrix.columns) <= MOST_COLUMNS else []
    text = columns([method, *matrix.columns], shown) if shown else f"{len(found.frame)} pairs of layers"
    written = "\n".join(f"{path}: {len(found.frame)} pairs." for path in (output, figure) if path is not None)
    text = "\n\n".join(filter(None, [text, written]))
    return Said(text, {"rows": found.frame.to_dict("records")}, missing(found.failures, found.failure))


@verb
def plot(
    settings: Settings,
    tables: Annotated[list[Path], typer.Argument(help="Tables that analyze wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Figure to write: .svg, .pdf or .png.")],
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help="Metric to show; repeat it. Default all.")] = None,
    variant: Annotated[str | None, typer.Option(help="Variant of a single metric, such as relative.")] = None,
    x: Annotated[str, typer.Option("--x", help="auto, layer or depth; strength for sensitivities")] = "auto",
    heatmap: Annotated[bool, typer.Option("--heatmap", help="One metric over layers and runs, such as epochs.")] = False,
    overwrite: Overwrite = False,
) -> Said:
    """Draw metrics against depth; with --heatmap, one metric over depth and runs."""
    from repanalysis.table import Table

    free("figure format", output, FIGURES, overwrite=overwrite)
    one_of("x", x, ("auto", "layer", "depth", "strength"))
    if variant is not None and len(metric or ()) != 1:
        raise UsageError("--variant belongs to one metric; give --metric once.")
    table, plots = Table.concat([Table.load(path) for path in tables]), file_plots()
    if not metric and not heatmap and "sensitivity" in set(table.frame["metric"]):
        saved(plots.stability(table, x="strength" if x == "strength" else "depth"), output)
        return Said(f"{output}: {table.frame['perturbation'].nunique() - 1} perturbations.", {"path": str(output)})
    if heatmap:
        if len(metric or ()) != 1:
            raise UsageError("--heatmap shows one metric; give --metric once.")
        figure = plots.checkpoints(table, metric=(metric or [""])[0], variant=variant or "").figure
    elif metric and len(metric) == 1:
        figure = plots.depth(table, metric=metric[0], variant=variant or "", x=x).figure
    else:
        figure = plots.overview(table, metrics=metric, x=x)
    saved(figure, output)
    return Said(f"{output}: {table.frame['metric'].nunique() if not metric else len(metric)} metrics.", {"path": str(output)})

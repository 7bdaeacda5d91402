"""`repanalysis analyze`, `compare` and `plot`: from activations to tables and figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from probes.errors import UsageError
from repanalysis._checks import one_of
from repanalysis.analyses.geometry.engine import analyze as analyze_source
from repanalysis.analyses.similarity import compare as compare_layers
from repanalysis.cli._arguments import FigureFile, Overwrite, SourceFile
from repanalysis.cli._declared import Options
from repanalysis.cli._outputs import FIGURES, TABLES, check_output_path, file_plots, missing, save_figure, save_table
from repanalysis.cli._tables import columns
from repanalysis.cli._texts import MOST_COLUMNS, number
from repanalysis.cli._verbs import CommandResult, Settings, command
from repanalysis.table import Table


@command
def analyze(
    settings: Settings,
    sources: Annotated[list[Path], typer.Argument(help="Activations files; a folder is read as shards of one run.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Table to write: .csv or .parquet.")] = None,
    options: Annotated[Any, Options(analyze_source)] = None,
    figure: FigureFile = None,
    dask: Annotated[str | None, typer.Option(help="Address of a dask scheduler, such as tcp://10.0.0.1:8786")] = None,
    overwrite: Overwrite = False,
) -> CommandResult:
    """Compute metrics of every layer, with standard errors; with --null, their distribution under random labels."""
    check_output_path("table format", output, TABLES, overwrite=overwrite)
    check_output_path("figure format", figure, FIGURES, overwrite=overwrite)
    with _dask(dask) as executor:
        tables = [analyze_source(source, executor=executor, **options) for source in sources]
    table = Table.concat(tables)
    result = save_table(table, output)  # before the figure, which may fail
    if figure is not None:
        save_figure(file_plots().overview(table), figure)
    return result


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


@command
def compare(
    settings: Settings,
    a: SourceFile,
    b: Annotated[
        Path | None, typer.Argument(help="Another one of the same samples; default: the layers of a among themselves.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Table to write: .csv")] = None,
    options: Annotated[Any, Options(compare_layers)] = None,
    figure: FigureFile = None,
    overwrite: Overwrite = False,
) -> CommandResult:
    """Measure how similar layers are, within a file or between two of the same samples; --null: random pairings."""
    check_output_path("table format", output, (".csv",), overwrite=overwrite)
    check_output_path("figure format", figure, FIGURES, overwrite=overwrite)
    similarity = compare_layers(a, b, **options)
    if output is not None:
        similarity.to_csv(output)
    if figure is not None:
        save_figure(file_plots().similarity(similarity).figure, figure)
    matrix = similarity.matrix()
    rows = [[name, *(number(value) for value in line)] for name, line in zip(matrix.index, matrix.to_numpy(), strict=True)]
    shown = rows if len(matrix.columns) <= MOST_COLUMNS else []
    text = (
        columns([options["method"], *matrix.columns], shown, numeric=True)
        if shown
        else f"{len(similarity.frame)} pairs of layers"
    )
    written = "\n".join(f"{path}: {len(similarity.frame)} pairs." for path in (output, figure) if path is not None)
    text = "\n\n".join(filter(None, [text, written]))
    data = {"rows": similarity.frame.to_dict("records"), "provenance": dict(similarity.provenance)}
    return CommandResult(text, data, missing(similarity.failures, similarity.failure))


@command
def plot(
    settings: Settings,
    tables: Annotated[list[Path], typer.Argument(help="Tables that analyze wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Figure to write: .svg, .pdf or .png.")],
    metric: Annotated[list[str] | None, typer.Option("--metric", "-m", help="Metric to show; repeat it. Default all.")] = None,
    variant: Annotated[str | None, typer.Option(help="Variant of a single metric, such as relative.")] = None,
    x: Annotated[str, typer.Option("--x", help="auto, layer or depth; strength for sensitivities")] = "auto",
    heatmap: Annotated[bool, typer.Option("--heatmap", help="One metric over layers and runs, such as epochs.")] = False,
    kind: Annotated[
        str | None, typer.Option(help="Plot of your own, py:module:function or the name of an installed one.")
    ] = None,
    overwrite: Overwrite = False,
) -> CommandResult:
    """Draw metrics against depth; with --heatmap, one metric over depth and runs."""
    check_output_path("figure format", output, FIGURES, overwrite=overwrite)
    one_of("x", x, ("auto", "layer", "depth", "strength"))
    if variant is not None and len(metric or ()) != 1:
        raise UsageError("--variant belongs to one metric; give --metric once.")
    table, plots = Table.concat([Table.load(path) for path in tables]), file_plots()
    if kind is not None:
        save_figure(plots.own(kind, table), output)
        return CommandResult(f"{output}: {len(table)} values.", {"path": str(output)})
    if not metric and not heatmap and "sensitivity" in set(table.frame["metric"]):
        save_figure(plots.stability(table, x="strength" if x == "strength" else "depth"), output)
        return CommandResult(f"{output}: {table.frame['perturbation'].nunique() - 1} perturbations.", {"path": str(output)})
    if heatmap:
        if len(metric or ()) != 1:
            raise UsageError("--heatmap shows one metric; give --metric once.")
        figure = plots.checkpoints(table, metric=(metric or [""])[0], variant=variant or "").figure
    elif metric and len(metric) == 1:
        figure = plots.depth(table, metric=metric[0], variant=variant or "", x=x).figure
    else:
        figure = plots.overview(table, metrics=metric, x=x)
    save_figure(figure, output)
    return CommandResult(
        f"{output}: {table.frame['metric'].nunique() if not metric else len(metric)} metrics.", {"path": str(output)}
    )

"""Output files of commands: existing files are not overwritten, and the format must be known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probes.atomic_files import plain_file, replacing
from repanalysis._checks import one_of, writable
from repanalysis.cli._texts import data_of, pretty, without
from repanalysis.cli._verbs import CommandResult

if TYPE_CHECKING:
    from probes.storage.store import Store
    from repanalysis.table import Table


TABLES, FIGURES = (".csv", ".parquet"), (".svg", ".pdf", ".png")


def check_output_path(what: str, path: Path | None, endings: tuple[str, ...], *, overwrite: bool) -> None:
    """Raise UsageError if a file exists, is not a plain file, has an unknown format, or can't be written there."""
    from probes.storage.writer import check_target

    if path is not None:
        plain_file(path)
        one_of(what, check_target(path, overwrite=overwrite).suffix, endings)
        writable(path)


def file_plots() -> Any:
    """The plots module, with a backend that draws to files."""
    import matplotlib

    matplotlib.use("agg")
    from repanalysis import plots

    return plots


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure, and close it: pyplot keeps every open one in memory."""
    from matplotlib import pyplot as plt

    with replacing(path) as draft:
        figure.savefig(draft, dpi=150)
    plt.close(figure)


def save_table(table: Table, output: Path | None) -> CommandResult:
    """Save a table if there is an output path."""
    if output is not None:
        table.save(output)
    hint = "" if output is None else f"\n\n{output}: {len(table)} values. Next: repanalysis plot {output} -o depth.svg"
    return CommandResult(pretty(table) + hint, data_of(table), missing(table.failures, table.failure))


def missing(failures: Mapping[str, str], sentence: str) -> str:
    """The sentence on layers that could not be analyzed, with advice; empty if there are none."""
    if not failures:
        return ""
    layer = next(iter(failures)).rpartition(", ")[2]
    return f"{sentence}. What is missing is NaN; --layers '!{layer}' leaves a layer out, and --strict stops at the first."


def recording_summary(store: Store | None, output: Path) -> CommandResult:
    """The summary of a recording."""
    if store is None:
        return CommandResult(f"{output}: this process has nothing to do; there are fewer batches than processes.", {"n": 0})
    size_mb = store.path.stat().st_size / 2**20
    text = f"{store.path}: {len(store)} samples, {len(store.layers)} layers, {size_mb:.1f} MB{without(store.skipped)}"
    for layer, count in store.non_finite.items():
        text += f"\n{layer} holds {count} NaN or infinite values; --dtype float32 or --precision float32 may help."
    facts = {"path": str(store.path), "n": len(store), "layers": store.layers, "left_out": store.skipped}
    return CommandResult(text, facts | {"non_finite": store.non_finite})

"""Laws of single filters: error and clusters against the number of labels or the width, a panel per quantity.

Fitted lines are dashed. The plot reads the table of `against_labels` or `against_width` and computes nothing.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes.errors import UsageError
from probes.printable import as_label
from repanalysis.plots.curves import COLOURS, INK, MARKERS, logarithmic, style_axes
from repanalysis.table import Table

__all__ = ["laws"]

_TITLES = {
    "error_rate": "error", "clusters_per_filter": "clusters per filter, $N_c$", "cluster_size": "cluster size, $C_s$",
    "labels_per_filter": "labels per filter", "noise_per_filter": "noise per filter, $n$", "snr_pair": "signal to noise, pairs",
}  # fmt: skip
_COLUMNS = 3


def laws(table: Table) -> Figure:
    """Draw error and clusters against the number of labels, or error and noise against width on logarithmic axes.

    Parameters
    ----------
    table : Table
        Table of `filters.laws.against_labels` or `filters.laws.against_width`.

    Returns
    -------
    matplotlib Figure
        A panel per quantity.

    Raises
    ------
    UsageError
        If the table has no such rows.
    """
    frame = table.frame[table.frame["strength"].notna()]
    kinds = [name for name in ("labels", "width") if name in set(frame["perturbation"])]
    metrics = [name for name in _TITLES if name in set(frame["metric"])]
    if not kinds or not metrics:
        raise UsageError("The table holds no laws; `repanalysis filters labels` and `filters widths` write them.")
    across = kinds[0]
    shown = min(_COLUMNS, len(metrics))
    rows = -(-len(metrics) // shown)
    figure, axes = plt.subplots(rows, shown, figsize=(4.4 * shown, 3.3 * rows + 0.3), layout="constrained", squeeze=False)
    for ax, metric in zip(axes.flat, metrics, strict=False):
        _panel(ax, frame[(frame["metric"] == metric) & (frame["perturbation"] == across)], table.frame, metric, across)
    for ax in axes.flat[len(metrics) :]:
        ax.axis("off")
    return figure


def _panel(ax: Axes, rows: pd.DataFrame, every: pd.DataFrame, metric: str, across: str) -> None:
    """One quantity."""
    by = "variant" if across == "labels" else "perturbation"  # the networks of a law of width are the points of one line
    for index, (name, part) in enumerate(rows.sort_values("strength").groupby(by, sort=False)):
        x, value, se = (part[column].to_numpy(dtype=float) for column in ("strength", "value", "se"))
        colour, joined = COLOURS[index % len(COLOURS)], 1.6 if across == "labels" else 0
        ax.plot(
            x, value, color=colour, marker=MARKERS[index % len(MARKERS)], markersize=4.5, linewidth=joined, label=as_label(name)
        )
        ax.vlines(x, value - np.nan_to_num(se), value + np.nan_to_num(se), color=colour, alpha=0.5, linewidth=2.5)
        grid = np.geomspace(x.min(), x.max(), 60)
        fitted = _fitted(every, metric, str(name) if across == "labels" else "", across, grid)
        if fitted is not None:
            ax.plot(grid, fitted[0], color=colour, linewidth=1, linestyle="--")
            ax.plot([], [], " ", label=fitted[1])
    style_axes(ax)
    ax.set_title(_TITLES[metric], loc="left", fontsize=10, fontweight="bold", color=INK)
    ax.set_xlabel("labels, K" if across == "labels" else "filters in the layer, d", fontsize=9, color=INK)
    if across == "width":
        logarithmic(ax)
        widths = sorted(set(rows["strength"]))
        ax.set_xticks(widths, [f"{width:g}" for width in widths])
    else:
        ax.set_ylim(bottom=0)
    handles, names = ax.get_legend_handles_labels()
    if indices := [at for at, name in enumerate(names) if name not in ("", "width")]:
        ax.legend([handles[at] for at in indices], [names[at] for at in indices], frameon=False, fontsize=8)


def _fitted(every: pd.DataFrame, metric: str, variant: str, across: str, grid: np.ndarray) -> tuple[np.ndarray, str] | None:
    """A line or power law of the table, on a grid, and its label."""
    short = {"error_rate": "error", "noise_per_filter": "noise"}.get(metric)
    table = every[every["variant"] == variant].drop_duplicates("metric", keep="last").set_index("metric")
    values = table["value"]
    names = ("slope", "offset") if across == "labels" else ("factor", "exponent")
    if short is None or any(f"{short}_{name}" not in values for name in names):
        return None
    first, second = (float(values[f"{short}_{name}"]) for name in names)
    if not np.isfinite([first, second]).all():
        return None
    r_squared = float(values[f"{short}_r_squared"])
    if across == "labels":
        return first * grid + second, f"line, $R^2$ = {r_squared:.3f}"
    spread = float(table["se"][f"{short}_exponent"])
    return first * grid**-second, f"$d^{{{-second:.2f} \\pm {spread:.2f}}}$, $R^2$ = {r_squared:.3f}"

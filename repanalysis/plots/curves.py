"""Depth curves: one metric against depth, a line per run; and the overview, a panel per metric.

A plot reads a `Table` and computes nothing. A band is one standard error; a dashed line with a band of two standard
deviations is the null distribution (`null=`, --null). Runs are coloured from dark to light in their order if there are more
than distinct colours, as for epochs. An undefined value is a gap, an infinite one a triangle at the upper edge; the caption
counts both.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from probes.errors import UsageError
from probes.printable import as_label
from repanalysis._checks import one_of
from repanalysis.table import Table

__all__ = ["depth", "overview"]

COLOURS = ("#2563eb", "#d97706", "#059669", "#c026d3", "#dc2626", "#0891b2", "#65a30d", "#475569")
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_UNITS = {
    "class_mean_separation": "squared units",
    "within_class_variance": "squared units",
    "between_class_variance": "squared units",
    "coding_rate": "nats per sample",
    "coding_rate_classes": "nats per sample",
    "rate_reduction": "nats per sample",
    "effective_rank": "directions",
    "participation_ratio": "directions",
    "intrinsic_dimension": "dimensions",
    "power_law_exponent": "exponent",
    "clusters_per_filter": "clusters",
    "cluster_size": "labels",
    "labels_per_filter": "labels",
    "noise_per_filter": "elements of a filter's matrix",
    "noise_in_served_columns": "elements of a filter's matrix",
    "internal_per_filter": "elements of a filter's matrix",
    "filters_per_label": "filters",
    "filters_per_layer": "filters",
    "empty_filters": "filters",
    "vote_margin": "filters",
    "orphan_labels": "labels",
    "fragile_elements": "elements",
    "places_per_filter": "places",
}
_FIRST = (
    "fisher_ratio", "rate_reduction_normalized", "within_class_variance", "class_mean_separation", "nc1", "nc2_equiangular",
    "linear_probe_accuracy", "knn_accuracy", "effective_rank", "participation_ratio", "intrinsic_dimension", "coding_rate",
)  # fmt: skip
_WIDE = 200.0  # a positive curve whose ends differ by this factor gets a logarithmic axis
_SHARES = ("_accuracy", "_share", "_separability", "_mismatch")
_MOST_RUNS = len(COLOURS)
_MOST_NAMES = 26  # more layer names are not legible under one panel
INK, _FAINT = "#1f2937", "#e5e7eb"


def depth(
    table: Table,
    *,
    metric: str = "fisher_ratio",
    variant: str = "",
    x: Literal["auto", "layer", "depth"] = "auto",
    ax: Axes | None = None,
) -> Axes:
    """Draw one metric against depth, a line per run.

    Parameters
    ----------
    table : Table
        Results of one or more runs.
    metric : str, default "fisher_ratio"
        Metric to draw.
    variant : str, default ""
        Variant of the metric.
    x : {"auto", "layer", "depth"}, default "auto"
        "layer" names the layers, which all runs must share; "depth" is the share of the network's leaf calls that have
        run, 0 at the input and 1 at the output; "auto" is "layer" if the runs share few layers.
    ax : matplotlib Axes, optional
        Axes to draw in; by default a new figure.

    Returns
    -------
    matplotlib Axes
        Axes with the curves.

    Raises
    ------
    UsageError
        If the table has no such metric or variant, or the runs' layers can't be named on one axis.

    Examples
    --------
    >>> rows = [dict(run="a", layer=f"l{i}", order=i, depth=(i + 1) / 3, metric="nc1", value=i, n=9) for i in range(3)]
    >>> axes = depth(Table.from_rows(rows), metric="nc1")
    >>> [text.get_text() for text in axes.get_xticklabels()]
    ['l0', 'l1', 'l2']
    >>> plt.close(axes.figure)
    """
    frame = _rows(table, metric, variant)
    named = _named(frame, x)
    if ax is None:
        width = max(6.4, 0.32 * frame["layer"].nunique() + 2.0) if named else 6.4
        ax = plt.subplots(figsize=(width, 4.6 if named else 4.0), layout="constrained")[1]
    runs = list(dict.fromkeys(frame["run"]))
    styles = [_style(index, len(runs)) for index in range(len(runs))]
    chance = table.select(metric=metric, variant=variant, perturbation="label permutation").frame
    for run, style in zip(runs, styles, strict=True):
        _null(ax, chance[chance["run"] == run].sort_values("order"), style, named=named)
        _plot_run(ax, frame[frame["run"] == run].sort_values("order"), as_label(run), style, named=named)
    title = as_label(_titled(metric) + (f" ({variant})" if variant else ""))
    unit = "" if variant in ("relative", "trace", "pinv") else _UNITS.get(metric, "")
    ax.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    ax.set_ylabel(unit or ("share" if metric.endswith(_SHARES) else "ratio"), fontsize=9, color=INK)
    if named:
        layers = list(dict.fromkeys(frame.sort_values("order")["layer"]))
        ax.set_xticks(
            range(len(layers)), [as_label(layer) for layer in layers], rotation=90 if len(layers) > 8 else 30, fontsize=8
        )
        ax.set_xlabel("layer, in order of execution", fontsize=9, color=INK)
    else:
        ax.set_xlim(-0.02, 1.02)
        ax.set_xlabel("depth (share of the network's leaf calls that have run)", fontsize=9, color=INK)
    _finish_axes(ax)
    if 1 < len(runs) <= _MOST_RUNS or len(chance):
        ax.legend(frameon=False, fontsize=9)
    ax.set_title(_caption(frame), loc="right", fontsize=8, color="#6b7280")
    return ax


def overview(table: Table, *, metrics: Sequence[str] | None = None, x: Literal["auto", "layer", "depth"] = "auto") -> Figure:
    """Draw small multiples: a panel per metric, against depth.

    Parameters
    ----------
    table : Table
        Results of one or more runs.
    metrics : sequence of str, optional
        Metrics in order; default: the main metrics of the table, or all if it has few. For a metric with units, the variant
        "relative" is drawn if it exists, since it is comparable across layers.
    x : {"auto", "layer", "depth"}, default "auto"
        As for `depth`.

    Returns
    -------
    matplotlib Figure
        Figure with a panel per metric and one legend.

    Raises
    ------
    UsageError
        If the table has no such metric.
    """
    present = sorted(dict.fromkeys(table.frame["metric"]), key=_rank)
    headline = [name for name in present if name in _FIRST and table.select(metric=name).frame["value"].notna().any()]
    names = list(metrics or (headline if len(present) > len(_FIRST) and headline else present))
    if not names:
        raise UsageError("The table is empty; there is nothing to plot.")
    panels = {metric: _best_variant(table, metric) for metric in names}
    named = all(_named(_rows(table, metric, variant), x) for metric, variant in panels.items())
    columns = len(names) if len(names) <= 3 else min(4, ceil(len(names) / 2))
    count = ceil(len(names) / columns)
    size = (4.6 * columns, (3.5 if named else 2.9) * count + 0.4)
    figure, grid = plt.subplots(count, columns, figsize=size, layout="constrained", squeeze=False)
    shared = _caption(table.frame.assign(value=0.0))
    for ax, (metric, variant) in zip(grid.flat, panels.items(), strict=False):
        depth(table, metric=metric, variant=variant, x="layer" if named else "depth", ax=ax)
        ax.set_xlabel("" if named else "depth", fontsize=9)
        if legend := ax.get_legend():
            legend.remove()
        if ax.get_title("right") == shared:
            ax.set_title("", loc="right")
    bands = "   bands: one standard error" if table.frame["se"].notna().any() else ""
    figure.supxlabel(f"{shared}{bands}", x=1.0, ha="right", fontsize=8, color="#6b7280")
    for ax in grid.flat[len(names) :]:
        ax.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc="outside upper left", ncols=min(6, len(labels)), frameon=False, fontsize=10)
    return figure


def _rank(metric: str) -> tuple[int, str]:
    return (_FIRST.index(metric) if metric in _FIRST else len(_FIRST), metric)


def _best_variant(table: Table, metric: str) -> str:
    """The variant "relative", else "", else the first (if parameters were set)."""
    variants = list(dict.fromkeys(table.select(metric=metric).frame["variant"]))
    return next((variant for variant in ("relative", "") if variant in variants), variants[0] if variants else "")


def _rows(table: Table, metric: str, variant: str) -> pd.DataFrame:
    one_of("metric of this table", metric, list(dict.fromkeys(table.frame["metric"])))
    frame = table.select(metric=metric, perturbation="").frame
    one_of(f"variant of {metric}", variant, list(dict.fromkeys(frame["variant"])))
    return frame[frame["variant"] == variant]


def _named(frame: pd.DataFrame, x: str) -> bool:
    """Whether the horizontal axis has the names of layers."""
    one_of("x", x, ("auto", "layer", "depth"))
    lists = {tuple(rows.sort_values("order")["layer"]) for _, rows in frame.groupby("run")}
    if x == "layer" and len(lists) > 1:
        raise UsageError("The runs have different layers, which can't share an axis of names; use x='depth'.")
    return x == "layer" or (x == "auto" and len(lists) == 1 and len(next(iter(lists))) <= _MOST_NAMES)


def _titled(metric: str) -> str:
    """A metric's name as a heading, with the field's spelling of abbreviations."""
    first, _, rest = metric.replace("_", " ").partition(" ")
    head = {"knn": "kNN", "lda": "LDA"}.get(first, first.upper() if first.startswith(("nc", "snr")) else first.capitalize())
    return f"{head} {rest}".rstrip()


def _style(index: int, runs: int) -> dict[str, Any]:
    """Colour and marker of a run: distinct ones for few, an ordered scale for many."""
    if runs <= _MOST_RUNS:
        return {"color": COLOURS[index], "marker": MARKERS[index]}
    return {"color": plt.get_cmap("viridis")(index / (runs - 1)), "marker": "."}


def _null(ax: Axes, rows: pd.DataFrame, style: dict[str, Any], *, named: bool) -> None:
    """The null distribution: a dashed line at the mean, and a band of two standard deviations."""
    if rows.empty or not np.isfinite(rows["value"]).any():
        return
    at = np.arange(len(rows), dtype=float) if named else rows["depth"].to_numpy()
    value, spread = rows["value"].to_numpy(), rows["se"].to_numpy()
    ax.plot(at, value, linestyle="--", linewidth=1.1, color=style["color"], alpha=0.7, label="random labels")
    ax.fill_between(at, value - 2 * spread, value + 2 * spread, color=style["color"], alpha=0.08, linewidth=0)


def _plot_run(ax: Axes, rows: pd.DataFrame, run: str, style: dict[str, Any], *, named: bool) -> None:
    """One run's line, its band, and triangles at infinite values."""
    at = np.arange(len(rows), dtype=float) if named else rows["depth"].to_numpy()
    value, se = rows["value"].to_numpy(), rows["se"].to_numpy()
    finite = np.where(np.isfinite(value), value, np.nan)
    ax.plot(at, finite, label=run, linewidth=1.8, markersize=4.5, **style)
    if np.isfinite(se).any():
        ax.fill_between(at, finite - se, finite + se, color=style["color"], alpha=0.18, linewidth=0)
    infinite = at[np.isposinf(value)]
    if len(infinite):  # an empty line without clipping has no extent, which the layout engine can't place
        top = np.full(len(infinite), 0.98)
        hollow = style | {"linestyle": "none", "marker": "^", "markersize": 7, "markerfacecolor": "none"}
        ax.plot(infinite, top, transform=ax.get_xaxis_transform(), clip_on=False, **hollow)


def _caption(frame: pd.DataFrame) -> str:
    """Number of samples, and of undefined and infinite values."""
    low, high = frame["n"].min(), frame["n"].max()
    parts = [f"n = {low:,}" if low == high else f"n = {low:,} to {high:,}"]
    if infinite := int(np.isposinf(frame["value"]).sum()):
        parts.append(f"▵ infinite: {infinite}")
    if undefined := int(frame["value"].isna().sum()):
        parts.append(f"undefined: {undefined}")
    return "   ".join(parts)


def style_axes(ax: Axes) -> None:
    """Style the frame."""
    ax.grid(visible=True, color=_FAINT, linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color("#9ca3af")
    ax.tick_params(colors=INK, labelsize=7.5)


def logarithmic(ax: Axes) -> None:
    """Logarithmic axes with plain numbers, also at 2 and 5 if there are few decades."""
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())


def _finish_axes(ax: Axes) -> None:
    """Style the frame, and include zero if it is near."""
    style_axes(ax)
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in ax.get_lines() if line.get_transform() == ax.transData]
    values = np.concatenate([*drawn, [np.nan]])
    values = values[np.isfinite(values)]
    if len(values) and values.min() > 0 and values.max() > _WIDE * values.min():
        ax.set_yscale("log")
        return
    low, high = ax.get_ylim()
    if 0 < low < 0.5 * high:
        ax.set_ylim(bottom=0)

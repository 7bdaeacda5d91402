"""Sensitivity and relative stability against depth or strength, on logarithmic axes.

A panel per perturbation, and one for relative stability; a line per run. If a perturbation has several strengths, lines go
from light to dark with it. A band is one standard error. The dashed line at 1 is the mean distance of two images, or, for
relative stability, equal sensitivity to noise and perturbation. The plot reads a `Table` and computes nothing.
"""

from __future__ import annotations

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
from repanalysis.plots.curves import COLOURS, INK, MARKERS, style_axes
from repanalysis.table import Table

__all__ = ["sensitivities", "stability"]

Across = Literal["depth", "strength"]


def sensitivities(
    table: Table,
    *,
    perturbation: str,
    metric: str = "sensitivity",
    x: Across = "depth",
    layer: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw one perturbation's curves, a line per run.

    Parameters
    ----------
    table : Table
        Table of `repanalysis.analyses.stability.sensitivity.stability`.
    perturbation : str
        Label of the perturbation, such as "diffeo".
    metric : {"sensitivity", "relative_stability"}, default "sensitivity"
        Metric to draw.
    x : {"depth", "strength"}, default "depth"
        Horizontal axis; "strength" draws one layer.
    layer : str, optional
        Layer to draw against strength; by default the last.
    ax : matplotlib Axes, optional
        Axes to draw in; by default a new figure.

    Returns
    -------
    matplotlib Axes
        Axes with a logarithmic vertical axis.

    Raises
    ------
    UsageError
        If the table has no such perturbation, metric or layer.
    """
    one_of("metric", metric, ("sensitivity", "relative_stability"))
    one_of("x", x, ("depth", "strength"))
    rows = table.select(metric=metric, variant="").frame
    one_of(f"perturbation with {metric} in this table", perturbation, list(dict.fromkeys(rows["perturbation"])))
    rows = rows[rows["perturbation"] == perturbation]
    if x == "strength":
        layer_name = layer or str(rows.sort_values("order")["layer"].iloc[-1])
        rows = rows[rows["layer"] == one_of("layer of this table", layer_name, list(dict.fromkeys(rows["layer"])))]
    ax = ax or plt.subplots(figsize=(6.4, 4.0), layout="constrained")[1]
    strengths = sorted(set(rows["strength"]))
    for index, (run, part) in enumerate(rows.groupby("run", sort=False)):
        colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
        style: dict[str, Any] = {"color": colour, "marker": marker}
        if x == "strength":
            _line(ax, part.sort_values("strength"), "strength", as_label(run), style)
            continue
        for rank, strength in enumerate(strengths):
            label = as_label(run) if strength == strengths[-1] else ""
            style["marker"] = marker if len(strengths) == 1 else ""
            style["alpha"] = 1.0 if len(strengths) == 1 else 0.25 + 0.75 * rank / (len(strengths) - 1)
            _line(ax, part[part["strength"] == strength].sort_values("order"), "depth", label, style)
    values = f"strength {strengths[0]:g} to {strengths[-1]:g}" if len(strengths) > 1 else f"strength {strengths[0]:g}"
    where = f" in {rows['layer'].iloc[0]}" if x == "strength" else f", {values}"
    _label(ax, metric, x, as_label(f"{perturbation}{where}"))
    return ax


def _label(ax: Axes, metric: str, x: Across, name: str) -> None:
    """Scales, labels and title."""
    ax.axhline(1.0, color=INK, linewidth=0.8, linestyle="--", alpha=0.6)
    style_axes(ax)
    ax.set_yscale("log")
    if x == "strength":
        ax.set_xscale("log")
        ax.set_xlabel("strength", fontsize=9, color=INK)
    else:
        ax.set_xlim(-0.02, 1.02)
        ax.set_xlabel("depth (share of the network's leaf calls that have run)", fontsize=9, color=INK)
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    ax.yaxis.set_major_formatter("{x:g}")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
    title = "Sensitivity to" if metric == "sensitivity" else "Relative stability,"
    ax.set_title(f"{title} {name}", loc="left", fontsize=10, fontweight="bold", color=INK)
    formula = "||f(τx) − f(x)||² / ||f(x) − f(x′)||²" if metric == "sensitivity" else "sensitivity / sensitivity to noise"
    ax.set_ylabel(formula, fontsize=8.5, color=INK)


def _line(ax: Axes, rows: pd.DataFrame, across: str, label: str, style: dict[str, Any]) -> None:
    """One curve and its band; values without a logarithm are gaps."""
    at, se = rows[across].to_numpy(), rows["se"].to_numpy()
    value = rows["value"].where(rows["value"] > 0).to_numpy(dtype=float)
    ax.plot(at, value, linewidth=1.4, markersize=3, label=label or "_", **style)
    if np.isfinite(se).any() and style["marker"]:
        low = np.maximum(value - se, value * 1e-2)
        ax.fill_between(at, low, value + se, color=style["color"], alpha=0.15, linewidth=0)


def stability(table: Table, *, x: Across = "depth", layer: str | None = None) -> Figure:
    """Draw small multiples: a panel per perturbation, then relative stability.

    Parameters
    ----------
    table : Table
        Table of `repanalysis.analyses.stability.sensitivity.stability`.
    x, layer
        As for `sensitivities`.

    Returns
    -------
    matplotlib Figure
        Figure with one legend.

    Raises
    ------
    UsageError
        If the table has no sensitivities.
    """
    frame = table.frame
    panels = [
        (metric, label)
        for metric in ("sensitivity", "relative_stability")
        for label in dict.fromkeys(frame[frame["metric"] == metric]["perturbation"])
    ]
    if not panels:
        raise UsageError("The table holds no sensitivities; `repanalysis stability` writes them.")
    columns = len(panels) if len(panels) <= 3 else min(4, ceil(len(panels) / 2))
    count = ceil(len(panels) / columns)
    figure, grid = plt.subplots(count, columns, figsize=(4.8 * columns, 3.5 * count + 0.4), layout="constrained", squeeze=False)
    for ax, (metric, label) in zip(grid.flat, panels, strict=False):
        sensitivities(table, perturbation=label, metric=metric, x=x, layer=layer, ax=ax)
        if x == "depth":
            ax.set_xlabel("depth", fontsize=9)
    for ax in grid.flat[len(panels) :]:
        ax.set_axis_off()
    handles, labels = grid.flat[0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside upper left", ncols=min(5, len(labels)), frameon=False, fontsize=9)
    counts = sorted(set(frame["n"]))
    caption = f"n = {counts[0]:,}" if len(counts) == 1 else f"n = {counts[0]:,} to {counts[-1]:,}"
    figure.supxlabel(f"{caption} images", x=1.0, ha="right", fontsize=8, color="#6b7280")
    return figure

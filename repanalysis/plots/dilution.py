"""Accuracy against dilution: how much of a head can go, and by which rule.

A line per way of choosing what stays; a band is one standard error. A plot reads the table of `prune_head` and computes
nothing.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from probes.errors import UsageError
from repanalysis.plots.curves import COLOURS, INK, MARKERS, framed
from repanalysis.table import Table

__all__ = ["dilution"]


def dilution(table: Table, *, ax: Axes | None = None) -> Axes:
    """Draw accuracy against the share of the head's weights that are gone.

    Parameters
    ----------
    table : Table
        As `repanalysis.pruning.prune_head` makes it.
    ax : matplotlib Axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    matplotlib Axes
        A line per variant, and the whole head's accuracy as a dashed one.

    Raises
    ------
    UsageError
        If the table holds no such rows.
    """
    frame = table.select(metric="head_accuracy").frame
    if frame.empty:
        raise UsageError("The table holds no accuracies of pruned heads; `repanalysis prune` writes them.")
    ax = ax or plt.subplots(figsize=(6.4, 4.0), layout="constrained")[1]
    whole = frame[frame["variant"] == "full"]["value"]
    if len(whole):
        ax.axhline(float(whole.iloc[0]), color=INK, linewidth=1, linestyle="--", label="whole head")
    pruned = frame[frame["variant"] != "full"]
    for index, (variant, rows) in enumerate(pruned.groupby("variant", sort=False)):
        part = rows.sort_values("strength")
        at, value, se = (part[name].to_numpy(dtype=float) for name in ("strength", "value", "se"))
        ax.plot(at, value, color=COLOURS[index], marker=MARKERS[index], markersize=4, linewidth=1.6, label=str(variant))
        if np.isfinite(se).any():
            ax.fill_between(at, value - se, value + se, color=COLOURS[index], alpha=0.15, linewidth=0)
    framed(ax)
    ax.set_xlabel("dilution (share of the head's weights that are gone)", fontsize=9, color=INK)
    ax.set_ylabel("accuracy", fontsize=9, color=INK)
    ax.set_title("Pruning by filters' clusters", loc="left", fontsize=10.5, fontweight="bold", color=INK)
    ax.set_title(f"n = {int(frame['n'].iloc[0]):,}", loc="right", fontsize=8, color="#6b7280")
    ax.legend(frameon=False, fontsize=9)
    return ax

"""Accuracy against dilution: the share of pruned weights of a head or a network, by rule.

A line per rule of selecting weights; bars are standard errors. The plot reads the table of `prune_head` or `prune` and
computes nothing.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from probes.errors import UsageError
from probes.printable import as_label
from repanalysis.plots.curves import COLOURS, INK, MARKERS, style_axes
from repanalysis.table import Table

__all__ = ["dilution"]

_WHAT = {"head_accuracy": "head", "network_accuracy": "network"}


def dilution(table: Table, *, ax: Axes | None = None) -> Axes:
    """Draw accuracy against the share of pruned weights.

    Parameters
    ----------
    table : Table
        Table of `pruning.recorded_heads.prune_head` or `pruning.networks.prune`, of one run.
    ax : matplotlib Axes, optional
        Axes to draw in; by default a new figure.

    Returns
    -------
    matplotlib Axes
        A line per variant, and dashed lines for the unpruned network, as given and retrained.

    Raises
    ------
    UsageError
        If the table has no such rows.
    """
    frame = table.frame[table.frame["metric"].isin(_WHAT)]
    if frame.empty:
        raise UsageError("The table holds no accuracies of pruned networks; `repanalysis filters prune` writes them.")
    what = _WHAT[str(frame["metric"].iloc[0])]
    ax = ax or plt.subplots(figsize=(6.4, 4.0), layout="constrained")[1]
    full = frame["variant"].str.startswith("full")
    for variant, value, style in zip(frame[full]["variant"], frame[full]["value"], ("--", ":"), strict=False):
        ax.axhline(
            value,
            color=INK,
            linewidth=1,
            linestyle=style,
            label=f"{variant} {what}" if variant == "full" else as_label(variant),
        )
    pruned = frame[~full]
    for index, (variant, rows) in enumerate(pruned.groupby("variant", sort=False)):
        part = rows.sort_values("strength")
        colour = COLOURS[index % len(COLOURS)]
        at, value, se = (part[name].to_numpy(dtype=float) for name in ("strength", "value", "se"))
        ax.plot(
            at, value, color=colour, marker=MARKERS[index % len(MARKERS)], markersize=4, linewidth=1.6, label=as_label(variant)
        )
        if np.isfinite(se).any():
            ax.vlines(at, value - se, value + se, color=colour, alpha=0.5, linewidth=3)
    style_axes(ax)
    of = "the head's" if what == "head" else "the pruned layers'"
    ax.set_xlabel(f"dilution (share of {of} weights that are gone)", fontsize=9, color=INK)
    ax.set_ylabel("accuracy", fontsize=9, color=INK)
    ax.set_title("Pruning by filters' clusters", loc="left", fontsize=10.5, fontweight="bold", color=INK)
    ax.set_title(f"n = {int(frame['n'].iloc[0]):,}", loc="right", fontsize=8, color="#6b7280")
    ax.legend(frameon=False, fontsize=9)
    return ax

"""Test error against the stability of the output, a point per run.

A colour per network, a larger marker for more noise in training, bars of one standard error; Spearman's rank correlation over
all runs is above each panel, and the only quantity computed here from the table of `noise_study`.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from probes.errors import UsageError
from probes.printable import as_label
from repanalysis.plots.curves import COLOURS, INK, MARKERS, logarithmic, style_axes

__all__ = ["errors"]

_TITLES = {"D": "sensitivity to deformations, D", "G": "sensitivity to noise, G", "R": "relative stability, R = D / G"}


def errors(runs: pd.DataFrame) -> Figure:
    """Draw test error against D, G and R of the output.

    Parameters
    ----------
    runs : pandas.DataFrame
        As `noise_study` returns it, or its `runs.csv`.

    Returns
    -------
    matplotlib Figure
        Three panels, logarithmic in both directions.

    Raises
    ------
    UsageError
        If a column is missing, or there are fewer than three runs.
    """
    if missing := [column for column in ("model", "noise", "test_error", "D", "G", "R") if column not in runs]:
        raise UsageError(f"The table lacks the columns {', '.join(missing)}; `repanalysis study` writes them to runs.csv.")
    if len(runs) < 3:
        raise UsageError(f"A correlation over {len(runs)} runs says nothing; three are the least.")
    figure, axes = plt.subplots(1, 3, figsize=(13.5, 4.2), layout="constrained", sharey=True)
    noises = sorted(set(runs["noise"]))
    for ax, letter in zip(axes, _TITLES, strict=True):
        for index, (model, rows) in enumerate(runs.groupby("model", sort=False)):
            colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
            sizes = [28 + 60 * noises.index(noise) / max(1, len(noises) - 1) for noise in rows["noise"]]
            bars = rows.get(f"{letter}_se")
            ax.errorbar(rows[letter], rows["test_error"], xerr=bars, fmt="none", ecolor=colour, elinewidth=1, alpha=0.5)
            name = str(model).rpartition(":")[2].partition(",")[0]
            ax.scatter(rows[letter], rows["test_error"], s=sizes, color=colour, marker=marker, label=as_label(name), zorder=3)
        style_axes(ax)
        logarithmic(ax)
        rank = runs[letter].rank().corr(runs["test_error"].rank())
        ax.set_title(f"Spearman {rank:+.2f}", loc="right", fontsize=9, color="#6b7280")
        ax.set_xlabel(_TITLES[letter], fontsize=9, color=INK)
    axes[0].set_ylabel("test error", fontsize=9, color=INK)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=min(8, len(labels)), frameon=False, fontsize=9)
    caption = f"{len(runs)} runs; larger markers: more noise in training ({noises[0]:g} to {noises[-1]:g})"
    figure.supxlabel(caption, x=1.0, ha="right", fontsize=8, color="#6b7280")
    return figure

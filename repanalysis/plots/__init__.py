"""Plots of a `Table` with matplotlib. They compute nothing and set no global style."""

from __future__ import annotations

from repanalysis.plots.cosine_maps import cosines
from repanalysis.plots.curves import depth, overview
from repanalysis.plots.dilution_curves import dilution
from repanalysis.plots.error_curves import errors
from repanalysis.plots.filter_sheets import filter_sheet
from repanalysis.plots.heatmaps import checkpoints, similarity
from repanalysis.plots.label_laws import laws
from repanalysis.plots.own_plots import own
from repanalysis.plots.stability_curves import sensitivities, stability
from repanalysis.plots.theorems import theorem

__all__ = [
    "checkpoints",
    "cosines",
    "depth",
    "dilution",
    "errors",
    "filter_sheet",
    "laws",
    "overview",
    "own",
    "sensitivities",
    "similarity",
    "stability",
    "theorem",
]

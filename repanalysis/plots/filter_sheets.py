"""A sheet of filters: the matrix of each, with labels sorted by cluster, so that clusters are blocks on the diagonal.

Rows are true labels, columns outputs; colour is the field over its largest entry, clusters are framed, and dots are
elements above the threshold. Images that activate the filter most may be beside each matrix. The plot computes only fields from
the result of `filters`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from probes.errors import UsageError
from probes.printable import as_label
from repanalysis.heads.clusters import FilterClusters, display_order, field_of
from repanalysis.plots.curves import INK

__all__ = ["clearest_filters", "filter_sheet"]

_ROOM = 58.0  # in points
_MOST_NAMES = 24  # more labels have no names


def clearest_filters(clusters: FilterClusters, count: int) -> list[int]:
    """The filters with most labels in clusters and least noise, best first."""
    score = clusters.served / (1 + clusters.noise) + 1e-3 * clusters.served
    return [int(index) for index in np.argsort(-score, kind="stable")[:count] if clusters.clusters[index]]


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def filter_sheet(
    clusters: FilterClusters,
    means: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    filters: Sequence[int] | None = None,
    names: Sequence[str] | None = None,
    images: Mapping[int, Sequence[Any]] | None = None,
    title: str = "",
) -> Figure:
    """Draw filters' matrices.

    Parameters
    ----------
    clusters : FilterClusters
        Clusters of the filters.
    means, weights : (K, F, P) arrays
        Class means and head from which the clusters were computed.
    filters : sequence of int, optional
        Filters to draw; by default the six of `clearest_filters`.
    names : sequence of str, optional
        Names of the labels.
    images : mapping of filter to sequence of images, optional
        Images that activate it most, (h, w) or (h, w, 3) arrays in [0, 1].
    title : str
        Title, such as the layer's name.

    Returns
    -------
    matplotlib Figure
        A panel per filter.

    Raises
    ------
    UsageError
        If there is no such filter, or none that serves a label.
    """
    f, k = clusters.cluster.shape
    shown = list(clearest_filters(clusters, 6) if filters is None else filters)
    if invalid := [row for row in shown if not 0 <= row < f]:
        raise UsageError(f"There is no filter {invalid[0]}; they go from 0 to {f - 1}.")
    if not shown:
        raise UsageError("No filter serves a label; there is nothing to show.")
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    height = 4.6 + (1.3 if images else 0.0)
    figure, grid = plt.subplots(rows, columns, figsize=(4.4 * columns, height * rows), layout="constrained", squeeze=False)
    for ax, index in zip(grid.flat, shown, strict=False):
        picture = _draw_filter(ax, clusters, field_of(means, weights, index, gauge=clusters.options.gauge), index, names)
        ax.set_title(ax.get_title(loc="left"), fontsize=8.5, loc="left", color=INK, pad=_ROOM if images else 6.0)
        for at, image in enumerate(list((images or {}).get(index, ()))[:5]):
            inset = ax.inset_axes((at * 0.2, 1.02, 0.19, 0.19))
            inset.imshow(image, cmap="gray", interpolation="nearest")
            inset.set_axis_off()
    for ax in grid.flat[len(shown) :]:
        ax.set_axis_off()
    bar = figure.colorbar(picture, ax=grid, shrink=0.5, pad=0.01, extend="min")
    bar.set_label("field / its largest entry", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    places = (
        "one place per filter: matrices are of rank one" if clusters.places == 1 else f"{clusters.places} places per filter"
    )
    rule = "" if filters is not None else ": those with most labels for least noise"
    mean = clusters.noise[clusters.clusters > 0].mean() if (clusters.clusters > 0).any() else 0.0
    figure.suptitle(
        f"{as_label(title)}   ({f} filters, {k} labels, {places}; columns are outputs)", fontsize=10, x=0.01, ha="left"
    )
    legend = f"Frames: clusters; dots: above {clusters.options.theta:g}."
    caption = f"{len(shown)} of {f} filters{rule}; mean noise of the layer {mean:.1f}. {legend}"
    figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color="#6b7280")
    return figure


def _draw_filter(
    ax: Axes, filters: FilterClusters, field: NDArray[np.float64], index: int, names: Sequence[str] | None
) -> AxesImage:
    """One filter's field over its largest entry, labels of a cluster side by side, with frames, dots and a title."""
    k = filters.cluster.shape[1]
    cluster = filters.cluster[index]
    order = display_order(cluster)
    shares = field[np.ix_(order, order)] / (filters.maximum[index] or 1.0)
    picture = ax.imshow(shares, cmap="RdBu_r", vmin=-1, vmax=1)
    start = 0
    for size in -np.sort(-np.bincount(cluster[cluster >= 0], minlength=1)):
        ax.add_patch(Rectangle((start - 0.5, start - 0.5), size, size, fill=False, edgecolor=INK, linewidth=1.6))
        start += int(size)
    above = np.argwhere(shares > filters.options.theta) if k <= _MOST_NAMES else np.zeros((0, 2), int)
    ax.scatter(above[:, 1], above[:, 0], s=4, c=["white" if shares[i, j] > 0.75 else INK for i, j in above])
    if k <= _MOST_NAMES:
        labels = [as_label(names[label] if names else label) for label in order]
        ax.set_xticks(range(k), labels, rotation=90, fontsize=7)
        ax.set_yticks(range(k), labels, fontsize=7)
    else:
        ax.set_xticks([])
        ax.set_yticks([])
    clusters, served = _counted(filters.clusters[index], "cluster"), _counted(filters.served[index], "label")
    ax.set_title(f"filter {index}: {clusters}, {served}, noise {filters.noise[index]}", loc="left")
    ax.set_ylabel("true label", fontsize=8)
    return picture

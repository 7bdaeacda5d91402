"""Heat maps: the similarity of layers, and one metric over depth and checkpoints.

Nothing is computed: `similarity` draws the result of `repanalysis.compare`, `checkpoints` a `Table` of several runs, in
its order.
"""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from probes.errors import UsageError
from probes.printable import as_label
from repanalysis._checks import one_of
from repanalysis.analyses.similarity import Similarity
from repanalysis.plots.curves import INK
from repanalysis.table import Table

__all__ = ["checkpoints", "similarity"]

_MOST_NAMES = 40  # more names are not legible along one axis


def similarity(values: Similarity, *, ax: Axes | None = None) -> Axes:
    """Draw the similarity of every pair of layers.

    Parameters
    ----------
    values : Similarity
        Result of `compare`.
    ax : matplotlib Axes, optional
        Axes to draw in; by default a new figure.

    Returns
    -------
    matplotlib Axes
        Axes with the image: layers of a are rows, layers of b columns.

    Examples
    --------
    >>> import probes
    >>> from repanalysis.analyses.similarity import compare
    >>> x = np.random.default_rng(0).normal(size=(50, 4))
    >>> axes = similarity(compare(probes.from_arrays({"a": x, "b": x**2})))
    >>> [text.get_text() for text in axes.get_xticklabels()]
    ['a', 'b']
    >>> plt.close(axes.figure)
    """
    matrix = values.matrix()
    method, n = str(values.frame["method"].iloc[0]), int(values.frame["n"].iloc[0])
    ax = ax or _axes(*matrix.shape)
    low = -1.0 if method == "rsa" else 0.0
    _draw(ax, matrix, method.replace("_", " "), colours="RdBu_r" if low < 0 else "viridis", span=(low, 1.0))
    run_a, run_b = (str(values.frame[column].iloc[0]) for column in ("run_a", "run_b"))
    ax.set_ylabel(f"layers of {as_label(run_a)}", fontsize=9, color=INK)
    ax.set_xlabel(f"layers of {as_label(run_b)}", fontsize=9, color=INK)
    ax.set_title(f"n = {n:,}", loc="right", fontsize=8, color="#6b7280")
    return ax


def checkpoints(table: Table, *, metric: str = "fisher_ratio", variant: str = "", ax: Axes | None = None) -> Axes:
    """Draw one metric over layers and runs, such as the epochs of a training.

    Parameters
    ----------
    table : Table
        Results of several runs of the same layers, in the order of the rows.
    metric, variant : str
        Metric and variant.
    ax : matplotlib Axes, optional
        Axes to draw in; by default a new figure.

    Returns
    -------
    matplotlib Axes
        Axes with the image: runs are rows, layers columns.

    Raises
    ------
    UsageError
        If the table has no such metric, or the runs do not share their layers.
    """
    rows = table.select(
        metric=one_of("metric of this table", metric, list(dict.fromkeys(table.frame["metric"]))), perturbation=""
    )
    one_of(f"variant of {metric}", variant, list(dict.fromkeys(rows.frame["variant"])))
    frame = rows.select(variant=variant).frame
    if len({tuple(part.sort_values("order")["layer"]) for _, part in frame.groupby("run")}) > 1:
        raise UsageError("The runs have different layers, which can't share an axis; draw curves with x='depth'.")
    runs, layers = list(dict.fromkeys(frame["run"])), list(dict.fromkeys(frame.sort_values("order")["layer"]))
    matrix = frame.pivot_table("value", "run", "layer", dropna=False).reindex(index=runs, columns=layers)
    ax = ax or _axes(*matrix.shape)
    finite = matrix.to_numpy()[np.isfinite(matrix.to_numpy())]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    _draw(ax, matrix, metric.replace("_", " ") + (f" ({variant})" if variant else ""), colours="viridis", span=(low, high))
    ax.set_xlabel("layer, in order of execution", fontsize=9, color=INK)
    ax.set_ylabel("run", fontsize=9, color=INK)
    return ax


def _axes(rows: int, columns: int) -> Axes:
    width, height = (min(16.0, max(4.0, 1.9 + 0.26 * count)) for count in (columns, rows))
    return plt.subplots(figsize=(width + 1.0, height), layout="constrained")[1]


def _draw(ax: Axes, matrix: pd.DataFrame, name: str, *, colours: str, span: tuple[float, float]) -> None:
    """The image, its names and its scale; undefined values are grey."""
    palette = plt.get_cmap(colours).with_extremes(bad="#d1d5db")
    values = np.ma.masked_invalid(matrix.to_numpy(dtype=float))
    image = ax.imshow(values, cmap=palette, vmin=span[0], vmax=span[1], aspect="auto", interpolation="nearest")
    for axis, labels, turn in ((ax.xaxis, matrix.columns, 90), (ax.yaxis, matrix.index, 0)):
        step = max(1, -(-len(labels) // _MOST_NAMES))
        options: dict[str, Any] = {"rotation": turn, "fontsize": 7.5, "color": INK}
        axis.set_ticks(range(0, len(labels), step), [as_label(label) for label in labels[::step]], **options)
    for side in ax.spines.values():
        side.set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, colors=INK)
    ax.set_title(as_label(name), loc="left", fontsize=10.5, fontweight="bold", color=INK)

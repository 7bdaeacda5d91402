"""Heat map of absolute cosines between samples, sorted by class."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from probes.printable import as_label
from repanalysis.analyses.cosines import Cosines
from repanalysis.plots.curves import INK

__all__ = ["cosines"]


def cosines(values: Cosines, *, title: str = "", names: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """Draw |cos| of all pairs of samples: blocks on the diagonal are classes.

    Parameters
    ----------
    values : Cosines
        Result of `class_cosines`.
    title : str, optional
        Title, such as the layer.
    names : sequence of str, optional
        Names of the classes, in the order of their labels.
    ax : matplotlib Axes, optional
        Axes to draw in; by default a new figure.

    Returns
    -------
    matplotlib Axes
        Axes with the image. Samples that are 0 are grey.

    Examples
    --------
    >>> from repanalysis.analyses.cosines import class_cosines
    >>> axes = cosines(class_cosines(np.eye(4), [0, 0, 1, 1]), names=["cat", "dog"])
    >>> [text.get_text() for text in axes.get_yticklabels()]
    ['cat', 'dog']
    >>> plt.close(axes.figure)
    """
    classes, first, counts = np.unique(values.labels, return_index=True, return_counts=True)
    if ax is None:
        ax = plt.subplots(figsize=(4.4, 3.8), layout="constrained")[1]
    palette = plt.get_cmap("viridis").with_extremes(bad="#d1d5db")
    image = ax.imshow(np.ma.masked_invalid(values.values), cmap=palette, vmin=0.0, vmax=1.0, interpolation="nearest")
    labels = [as_label(name) for name in (names if names is not None else map(str, classes))]
    middles = first + (counts - 1) / 2
    ax.set_yticks(middles, labels, fontsize=7.5, color=INK)
    ax.set_xticks(middles, labels, fontsize=7.5, color=INK, rotation=90 if max(map(len, labels)) > 2 else 0)
    ax.tick_params(length=0)
    for side in ax.spines.values():
        side.set_visible(False)
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, colors=INK)
    bar.set_label("|cosine|", fontsize=8, color=INK)
    ax.set_title(as_label(title), loc="left", fontsize=10.5, fontweight="bold", color=INK)
    ax.set_xlabel(f"samples by class, n = {len(values.labels):,}", fontsize=8, color=INK)
    return ax

"""A theorem and its measurement: predicted values as a line, measured ones as points, against the theorem's parameter."""

from __future__ import annotations

from typing import Any, Literal

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

from probes.errors import UsageError

__all__ = ["theorem"]


def theorem(
    results: pd.DataFrame,
    *,
    predicted: str = "predicted",
    measured: str = "measured",
    before: str | None = "before",
    bound: Literal["none", "upper", "lower"] = "none",
    parameter: str = "parameter",
    quantity: str = "value",
    scale: Literal["linear", "log"] = "linear",
    ax: Axes | None = None,
) -> Axes:
    """Draw the prediction of a theorem and measurements.

    Parameters
    ----------
    results : pandas.DataFrame
        Table of an experiment of `repanalysis.theory`: a column `parameter`, and the columns below.
    predicted, measured : str
        Column of the line, and column of the points.
    before : str, optional
        Column of a dashed line, the value without the operation; no line if the column is missing.
    bound : {"none", "upper", "lower"}, default "none"
        Whether the prediction is a value or a bound; the allowed region is shaded.
    parameter, quantity : str
        Titles of the axes.
    scale : {"linear", "log"}, default "linear"
        Scale of both axes.
    ax : matplotlib.axes.Axes, optional
        Axes to draw in.

    Returns
    -------
    matplotlib.axes.Axes
        Axes with line and points.

    Raises
    ------
    UsageError
        If a column is missing.
    """
    if missing := [name for name in ("parameter", predicted, measured) if name not in results]:
        raise UsageError(f"The results have no column {missing[0]!r}; they have {', '.join(map(str, results.columns))}.")
    axes: Any = plt.subplots(figsize=(5, 3.5), layout="constrained")[1] if ax is None else ax
    x = results["parameter"]
    (line,) = axes.plot(x, results[predicted], color="C0", label="predicted" if bound == "none" else f"{bound} bound")
    axes.plot(x, results[measured], "o", color="C1", markersize=5, label="measured")
    if before is not None and before in results:
        axes.plot(x, results[before], "--", color="0.45", linewidth=1.2, label="before")
    axes.set(xlabel=parameter, ylabel=quantity, xscale=scale, yscale=scale)
    if bound != "none":
        low, high = axes.get_ylim()
        axes.fill_between(
            x, results[predicted], low if bound == "upper" else high, color=line.get_color(), alpha=0.12, linewidth=0
        )
        axes.set_ylim(low, high)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    drawn: Axes = axes
    return drawn

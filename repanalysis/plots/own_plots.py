"""Plots of users and plugins: functions from a `Table` to a matplotlib Figure or Axes."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probes.errors import UsageError, did_you_mean
from repanalysis.plugins import attribute_of, entry_points
from repanalysis.table import Table

__all__ = ["own"]


def own(kind: str, table: Table) -> Figure:
    """The figure of a table by a user's function.

    Parameters
    ----------
    kind : str
        `py:module:function`, or the name of an entry point of the group `repanalysis.plots`.
    table : Table
        Argument of the function.

    Returns
    -------
    matplotlib Figure
        The returned figure, or the figure of the returned Axes.

    Raises
    ------
    UsageError
        If there is no such function, or it returns something else.
    """
    installed = entry_points("plots")
    if kind.startswith("py:"):
        function: Any = attribute_of(kind.removeprefix("py:"))
    elif kind in installed:
        function = installed[kind].load()
    else:
        raise UsageError(
            f"There is no plot {kind!r}.{did_you_mean(kind, installed)} Write py:module:function for one of your own."
        )
    drawn = function(table)
    figure = drawn.figure if isinstance(drawn, Axes) else drawn
    if not isinstance(figure, Figure):
        raise UsageError(f"{kind!r} returned a {type(drawn).__name__}; a matplotlib Figure or Axes is needed.")
    return figure

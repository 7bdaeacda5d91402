"""Figures of user functions; modules, entry points and the command line are in tests/test_plugins.py."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from probes.errors import UsageError
from repanalysis.plots import own
from repanalysis.table import Table

TABLE = Table.from_rows([{"run": "a", "layer": "b", "value": 1.0}])


def figure(table: Table) -> object:
    """A figure with a line."""
    result, ax = plt.subplots()
    ax.plot(table.frame["value"])
    return result


def axes(table: Table) -> object:
    """The axes of such a figure."""
    return figure(table).axes[0]  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["figure", "axes"])
def test_figures_and_axes_are_accepted(name: str) -> None:
    result = own(f"py:{__name__}:{name}", TABLE)
    assert result.axes[0].lines[0].get_ydata().tolist() == [1.0]
    plt.close(result)


def test_other_results_are_refused() -> None:
    with pytest.raises(UsageError, match="returned a Table; a matplotlib Figure or Axes is needed"):
        own("py:repanalysis.table:Table.from_rows".replace(".from_rows", ""), TABLE.frame)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Write py:module:function"):
        own("nothing", TABLE)

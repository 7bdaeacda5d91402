"""Figures of laws: points and fitted lines agree with the table."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from probes.errors import UsageError
from repanalysis.analyses.filters.laws import against_labels, against_width
from repanalysis.plots import laws
from repanalysis.table import Table
from tests.analyses.filters.test_laws import planted, values, widths


def test_a_panel_per_quantity_against_labels() -> None:
    table = against_labels(planted(200, 0), planted(160, 1), sizes=[2, 4, 8], subsets=2, progress=False)
    figure = laws(table)
    error, *other_panels = [ax for ax in figure.axes if ax.axison]
    assert len(other_panels) == 5
    lines = {str(line.get_label()): line for line in error.get_lines()}
    heights = np.asarray(lines["fixed head"].get_ydata())
    np.testing.assert_allclose(heights, list(values(table, "error_rate", "fixed head").values()))
    assert sum(label.startswith("line, $R^2$") for label in lines) == 2
    assert error.get_xlabel() == "labels, K"
    plt.close(figure)


def test_power_laws_are_straight_on_logarithmic_axes() -> None:
    table = against_width(widths())
    figure = laws(table)
    error, noise = figure.axes
    assert error.get_xscale() == error.get_yscale() == "log"
    fitted = next(line for line in noise.get_lines() if line.get_linestyle() == "--")
    x, y = np.log(np.asarray(fitted.get_xdata(), float)), np.log(np.asarray(fitted.get_ydata(), float))
    np.testing.assert_allclose(np.diff(y) / np.diff(x), -0.7, rtol=1e-6)
    plt.close(figure)


def test_a_table_without_laws_has_a_one_sentence_error() -> None:
    with pytest.raises(UsageError, match="holds no laws"):
        laws(Table.from_rows([]))

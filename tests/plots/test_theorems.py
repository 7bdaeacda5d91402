"""theorem: a line for predictions, points for measurements, a shaded bound."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from probes.errors import UsageError
from repanalysis.plots import theorem

RESULTS = pd.DataFrame(
    {"parameter": [1.0, 2.0, 4.0], "predicted": [1.0, 4.0, 16.0], "measured": [1.1, 3.9, 15.0], "before": 9.0}
)


def test_lines_and_points_show_the_columns() -> None:
    axes = theorem(RESULTS, parameter="d", quantity="Fisher trace")
    lines = {str(line.get_label()): line for line in axes.lines}
    assert list(lines) == ["predicted", "measured", "before"]
    assert list(lines["measured"].get_ydata()) == [1.1, 3.9, 15.0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("d", "Fisher trace")
    plt.close(axes.figure)


def test_a_bound_is_shaded_and_scales_may_be_logarithmic() -> None:
    axes = theorem(RESULTS.drop(columns="before"), bound="upper", scale="log")
    assert [str(line.get_label()) for line in axes.lines] == ["upper bound", "measured"]
    assert len(axes.collections) == 1
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    plt.close(axes.figure)


def test_a_missing_column_has_a_one_sentence_error() -> None:
    with pytest.raises(UsageError, match="no column 'value'; they have parameter"):
        theorem(RESULTS, measured="value")

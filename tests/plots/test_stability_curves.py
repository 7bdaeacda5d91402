"""Sensitivity curves: lines show the values of the table."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from probes.errors import UsageError
from repanalysis.plots import sensitivities, stability
from repanalysis.table import Table


@pytest.fixture
def table() -> Table:
    rows = [
        {"run": run, "layer": f"l{k}", "order": k, "depth": k / 3, "metric": metric, "perturbation": label, "strength": s,
         "value": factor * s * 2.0**-k, "se": 0.01, "n": 50}
        for run, factor in (("a", 1.0), ("b", 3.0))
        for metric, label in (("sensitivity", "diffeo"), ("sensitivity", "shift"), ("relative_stability", "diffeo"))
        for s in ((1.0,) if label == "diffeo" else (1.0, 2.0, 4.0))
        for k in range(4)
    ]  # fmt: skip
    return Table.from_rows(rows, {"a": {}, "b": {}})


def test_a_line_per_run_and_strength_on_a_logarithmic_axis(table: Table) -> None:
    ax = sensitivities(table, perturbation="shift")
    curves = [line for line in ax.get_lines() if len(line.get_xdata()) == 4]  # type: ignore[arg-type]
    assert len(curves) == 6
    assert ax.get_yscale() == "log"
    np.testing.assert_allclose(np.asarray(curves[-1].get_ydata()), [12, 6, 3, 1.5])
    plt.close(ax.figure)  # type: ignore[arg-type]


def test_sensitivity_against_strength_at_one_layer(table: Table) -> None:
    ax = sensitivities(table, perturbation="shift", x="strength", layer="l2")
    line = ax.get_lines()[0]
    np.testing.assert_allclose(np.asarray(line.get_xdata()), [1, 2, 4])
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [0.25, 0.5, 1])
    assert ax.get_xscale() == "log"
    plt.close(ax.figure)  # type: ignore[arg-type]


def test_zeros_leave_gaps_and_the_overview_saves_without_a_warning(table: Table, tmp_path: Path) -> None:
    frame = table.frame.copy()
    frame.loc[frame["layer"] == "l3", "value"] = 0.0
    figure = stability(Table(frame, table.provenance))
    assert len([ax for ax in figure.axes if ax.axison]) == 3
    figure.savefig(tmp_path / "s.png")
    plt.close(figure)


def test_missing_layers_and_metrics_have_one_sentence_errors(table: Table) -> None:
    with pytest.raises(UsageError, match="Did you mean 'shift'"):
        sensitivities(table, perturbation="shfit")
    with pytest.raises(UsageError, match="Unknown layer of this table"):
        sensitivities(table, perturbation="shift", x="strength", layer="nine")
    with pytest.raises(UsageError, match="holds no sensitivities"):
        stability(Table.from_rows([], {}))

"""Dilution curves: lines show the values of the table."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from probes.errors import UsageError
from repanalysis.plots import dilution
from repanalysis.table import Table


def test_a_line_per_variant_and_one_for_the_unpruned_head() -> None:
    rows = [
        {"run": "a", "metric": "head_accuracy", "variant": variant, "strength": s, "value": level - s / 10, "se": 0.01, "n": 90}
        for variant, level in (("clusters retrained", 0.9), ("random retrained", 0.7))
        for s in (0.9, 0.5)
    ]
    unpruned = {"run": "a", "metric": "head_accuracy", "variant": "full", "strength": 0.0, "value": 0.91, "n": 90}
    ax = dilution(Table.from_rows([unpruned, *rows]))
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in ax.get_lines()}
    np.testing.assert_allclose(lines["clusters retrained"], [0.85, 0.81])
    np.testing.assert_allclose(lines["random retrained"], [0.65, 0.61])
    np.testing.assert_allclose(lines["full head"], 0.91)
    plt.close(ax.figure)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no accuracies of pruned networks"):
        dilution(Table.from_rows([]))


def test_an_unpruned_network_has_two_horizontal_lines() -> None:
    base = {"run": "a", "metric": "network_accuracy", "n": 90}
    strengths = {"full": 0.0, "full retrained": 0.0, "clusters retrained": 0.5, "random retrained": 0.5}
    rows = [
        base | {"variant": name, "strength": strength, "value": 0.8 + strength / 10, "se": 0.01}
        for name, strength in strengths.items()
    ]
    ax = dilution(Table.from_rows([*rows, base | {"metric": "kept_multiplications", "value": 0.4, "strength": 0.5}]))
    assert [str(line.get_label()) for line in ax.get_lines()] == [
        "full network", "full retrained", "clusters retrained", "random retrained",
    ]  # fmt: skip
    assert ax.get_xlabel().startswith("dilution (share of the pruned layers' weights")
    plt.close(ax.figure)  # type: ignore[arg-type]

"""Dilution curves: what is drawn is what the table holds."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from probes.errors import UsageError
from repanalysis.plots import dilution
from repanalysis.table import Table


def test_a_line_per_variant_and_one_for_the_whole_head() -> None:
    rows = [
        {"run": "a", "metric": "head_accuracy", "variant": variant, "strength": s, "value": level - s / 10, "se": 0.01, "n": 90}
        for variant, level in (("clusters retrained", 0.9), ("random retrained", 0.7))
        for s in (0.9, 0.5)
    ]
    whole = {"run": "a", "metric": "head_accuracy", "variant": "full", "strength": 0.0, "value": 0.91, "n": 90}
    ax = dilution(Table.from_rows([whole, *rows]))
    lines = {str(line.get_label()): np.asarray(line.get_ydata()) for line in ax.get_lines()}
    np.testing.assert_allclose(lines["clusters retrained"], [0.85, 0.81])
    np.testing.assert_allclose(lines["random retrained"], [0.65, 0.61])
    np.testing.assert_allclose(lines["whole head"], 0.91)
    plt.close(ax.figure)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no accuracies of pruned heads"):
        dilution(Table.from_rows([]))

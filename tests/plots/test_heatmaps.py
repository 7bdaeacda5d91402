"""Heat maps show the given values in order and report values that can not be shown."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import probes
from probes import UsageError
from repanalysis import Table
from repanalysis.analyses.similarity import compare
from repanalysis.plots import checkpoints, similarity


def epochs(runs: int, layers: int) -> Table:
    rows = [
        {"run": f"epoch{run}", "layer": f"l{i}", "order": i, "metric": "nc1", "value": float(10 * run + i), "n": 9}
        for run in range(runs)
        for i in range(layers)
    ]
    null_rows = [{**row, "perturbation": "label permutation", "value": -1.0} for row in rows]
    return Table.from_rows(rows + null_rows)


def test_checkpoints_are_in_order() -> None:
    ax = checkpoints(epochs(12, 3), metric="nc1")
    image = ax.get_images()[0].get_array()
    np.testing.assert_array_equal(image, 10.0 * np.arange(12)[:, None] + np.arange(3))
    assert [text.get_text() for text in ax.get_yticklabels()][:3] == ["epoch0", "epoch1", "epoch2"]
    plt.close(ax.figure)


def test_runs_of_other_layers_and_unknown_metrics_are_refused() -> None:
    mixed = Table.concat([epochs(1, 3), Table.from_rows([{"run": "b", "layer": "q", "metric": "nc1", "value": 1.0}])])
    with pytest.raises(UsageError, match="different layers"):
        checkpoints(mixed, metric="nc1")
    with pytest.raises(UsageError, match="Did you mean 'nc1'"):
        checkpoints(mixed, metric="nc11")


def test_similarity_has_a_layer_per_row_and_thins_out_names(rng: np.random.Generator) -> None:
    layers = {f"layer{i}": rng.normal(size=(30, 3)) for i in range(60)} | {"flat": np.ones((30, 2))}
    ax = similarity(compare(probes.from_arrays(layers), progress=False))
    image = ax.get_images()[0].get_array()
    assert image.shape == (61, 61)
    assert np.ma.getmaskarray(image)[-1].all()
    assert len(ax.get_xticks()) <= 40
    plt.close(ax.figure)

"""Heads pruned by clusters: a planted layer keeps its accuracy, and random masks do worse."""

from __future__ import annotations

import numpy as np
import pytest

from repanalysis.analyses.filters.measures import LabelledActivations
from repanalysis.analyses.pruning.recorded_heads import prune_head
from repanalysis.heads.fitting import fit_head


def planted(n: int, seed: int, k: int = 20, f: int = 40) -> LabelledActivations:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    x = 0.15 * np.abs(rng.normal(size=(n, f, 1)))
    for index in range(f):
        x[(y == index % k) | (y == (3 * index + 1) % k), index] += 1.0
    return LabelledActivations(x, y, np.arange(n))


def test_a_planted_layer_keeps_its_accuracy_and_random_masks_do_worse() -> None:
    table = prune_head(planted(800, 0), planted(600, 1), thetas=(0.3, 0.6), progress=False)
    rows = dict(iter(table.select(metric="head_accuracy").frame.groupby("variant")))
    full = rows["full"]["value"].item()
    assert full > 0.85
    assert (rows["clusters retrained"]["strength"] > 0.8).all()
    assert (rows["clusters retrained"]["value"] > full - 0.02).all()
    better = rows["clusters retrained"]["value"].to_numpy() - rows["random retrained"]["value"].to_numpy()
    assert (better > 0.1).all()
    share = table.select(metric="kept_multiplications").frame["value"].to_numpy()
    np.testing.assert_allclose(share, 1 - rows["clusters retrained"]["strength"].to_numpy())


@pytest.mark.parametrize("solver", ["lbfgs", "sgd"])
def test_masked_weights_of_a_head_are_exactly_0(solver: str) -> None:
    x, y, _ = planted(100, 0, k=4, f=6)
    mask = np.random.default_rng(0).random((4, 6)) < 0.5
    weights = fit_head(x[:, :, 0], y, classes=4, solver=solver, mask=mask)
    assert not weights[~mask].any()
    assert weights[mask].all()

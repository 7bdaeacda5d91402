"""Sheets of filters: matrices in the order of their clusters."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from probes.errors import UsageError
from repanalysis.heads.clusters import clusters_of, field_of
from repanalysis.plots import filter_sheet


def layer(k: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return np.maximum(rng.normal(size=(k, 7, 2)), 0), rng.normal(size=(k, 7, 2))


@pytest.mark.parametrize("k", [6, 40])
def test_each_matrix_has_its_clusters_first(k: int, tmp_path: Path) -> None:
    means, weights = layer(k)
    found = clusters_of(means, weights)
    figure = filter_sheet(
        found,
        means,
        weights,
        filters=[int(np.argmax(found.clusters)), 5],
        images={2: [np.zeros((8, 8))] * 5},
        names=[f"n{i}" for i in range(k)],
    )
    shown = np.asarray(figure.axes[0].images[0].get_array())
    one = int(np.argmax(found.clusters))
    field = field_of(means, weights, one)
    clusters = found.cluster[one]
    largest = int(np.bincount(clusters[clusters >= 0]).max())
    assert (shown[:largest, :largest] > 0.3).all()
    np.testing.assert_allclose(np.sort(shown.ravel()), np.sort((field / field.max()).ravel()))
    figure.savefig(tmp_path / "sheet.png")
    plt.close(figure)


def test_what_is_not_there_is_one_sentence() -> None:
    means, weights = layer(5)
    found = clusters_of(means, weights)
    with pytest.raises(UsageError, match="no filter 9; they go from 0 to 6"):
        filter_sheet(found, means, weights, filters=[9])
    dead = clusters_of(np.zeros((5, 7, 2)), weights)
    with pytest.raises(UsageError, match="nothing to show"):
        filter_sheet(dead, means, weights)

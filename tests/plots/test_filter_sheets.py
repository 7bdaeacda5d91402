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
def test_each_matrix_is_ordered_by_its_clusters(k: int, tmp_path: Path) -> None:
    means, weights = layer(k)
    result = clusters_of(means, weights)
    figure = filter_sheet(
        result,
        means,
        weights,
        filters=[int(np.argmax(result.clusters)), 5],
        images={2: [np.zeros((8, 8))] * 5},
        names=[f"n{i}" for i in range(k)],
    )
    image = np.asarray(figure.axes[0].images[0].get_array())
    index = int(np.argmax(result.clusters))
    field = field_of(means, weights, index)
    order = result.cluster[index]
    largest = int(np.bincount(order[order >= 0]).max())
    assert (image[:largest, :largest] > 0.3).all()
    np.testing.assert_allclose(np.sort(image.ravel()), np.sort((field / field.max()).ravel()))
    figure.savefig(tmp_path / "sheet.png")
    plt.close(figure)


def test_unknown_filters_have_one_sentence_errors() -> None:
    means, weights = layer(5)
    result = clusters_of(means, weights)
    with pytest.raises(UsageError, match="no filter 9; they go from 0 to 6"):
        filter_sheet(result, means, weights, filters=[9])
    dead = clusters_of(np.zeros((5, 7, 2)), weights)
    with pytest.raises(UsageError, match="nothing to show"):
        filter_sheet(dead, means, weights)

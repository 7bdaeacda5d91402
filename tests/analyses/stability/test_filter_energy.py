"""Energy of filters on the grid's Laplacian: closed forms, Parseval, and the Laplacian itself as oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from probes.errors import UsageError
from repanalysis.analyses.stability.filter_energy import eigenspaces, filter_energy
from repanalysis.table import Table


def laplacian(height: int, width: int) -> np.ndarray:
    """Degrees on the diagonal, -1 between neighbours."""
    n = height * width
    matrix = np.zeros((n, n))
    for row in range(height):
        for column in range(width):
            for down, right in ((0, 1), (1, 0)):
                if row + down < height and column + right < width:
                    i, j = row * width + column, (row + down) * width + column + right
                    matrix[[i, j], [j, i]] = -1
    return np.diag(-matrix.sum(0)) + matrix


@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 5), (2, 2), (3, 7)])
def test_eigenvalues_agree_with_the_laplacian(height: int, width: int) -> None:
    spaces = eigenspaces(height, width)
    expected = np.linalg.eigvalsh(laplacian(height, width))
    np.testing.assert_allclose(np.repeat(spaces.values, spaces.multiplicities), expected, atol=1e-12)


def value(table: Table, metric: str, variant: str = "") -> float:
    return float(table.select(metric=metric, variant=variant).frame["value"].iloc[0])


def test_energies_are_projections_on_the_eigenvectors_of_the_laplacian() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3)
    values, vectors = np.linalg.eigh(laplacian(3, 3))
    filters = layer.weight.detach().double().numpy().reshape(-1, 9)
    table = filter_energy(layer)
    for eigenvalue in (0, 1, 2, 3, 4, 6):
        space = vectors[:, np.isclose(values, eigenvalue)]
        expected = np.square(filters @ space).sum(1).mean()
        assert value(table, "filter_energy", f"lambda={eigenvalue}") == pytest.approx(expected, rel=1e-10)
    total = table.select(metric="filter_energy").frame["value"].sum()
    assert total == pytest.approx(np.square(filters).sum(1).mean(), rel=1e-12)


def test_a_constant_filter_is_homogeneous_and_independent_weights_are_not() -> None:
    layer = nn.Conv2d(64, 64, 3)
    nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    # 4,096 filters: the mean of 1/9 has standard error (2/4096)^(1/2)/9 = 0.0025
    assert value(filter_energy(layer), "filter_homogeneity") == pytest.approx(1 / 9, abs=0.01)
    flat = filter_energy(layer).select(metric="filter_energy_per_direction").frame["value"]
    np.testing.assert_allclose(flat, 1.0, atol=0.1)
    nn.init.constant_(layer.weight, -0.3)
    assert value(filter_energy(layer), "filter_homogeneity") == pytest.approx(1.0, abs=1e-12)


def test_layers_of_1x1_filters_are_left_out_but_count_for_depth() -> None:
    table = filter_energy(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, (1, 3))))
    frame = table.select(metric="filter_homogeneity").frame
    assert frame["layer"].tolist() == ["0", "2"]
    assert frame["depth"].tolist() == [1 / 3, 1.0]


def test_zero_filters_are_undefined() -> None:
    layer = nn.Conv2d(1, 2, 3)
    nn.init.zeros_(layer.weight)
    row = filter_energy(layer).select(metric="filter_homogeneity").frame.iloc[0]
    assert np.isnan(row["value"])
    assert row["note"] == "all filters are 0"


def test_a_model_without_spatial_layers_has_a_one_sentence_error() -> None:
    with pytest.raises(UsageError, match="no filters in space"):
        filter_energy(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2)))


def test_standard_errors_are_over_filters_and_per_direction_of_the_eigenspace() -> None:
    torch.manual_seed(1)
    layer = nn.Conv2d(4, 6, 3)
    values, vectors = np.linalg.eigh(laplacian(3, 3))
    filters = layer.weight.detach().double().numpy().reshape(-1, 9)
    table = filter_energy(layer)
    for eigenvalue, dimension in ((0, 1), (1, 2), (3, 2)):
        energy = np.square(filters @ vectors[:, np.isclose(values, eigenvalue)]).sum(1)
        expected = np.array([energy.mean(), energy.std(ddof=1) / np.sqrt(24)])
        for metric, divisor in (("filter_energy", 1), ("filter_energy_per_direction", dimension)):
            row = table.select(metric=metric, variant=f"lambda={eigenvalue}").frame.iloc[0]
            np.testing.assert_allclose(row[["value", "se"]].astype(float), expected / divisor, rtol=1e-10)

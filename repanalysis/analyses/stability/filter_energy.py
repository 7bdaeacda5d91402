r"""Smoothness of a network's filters: their energy on the eigenspaces of the grid's Laplacian, layer by layer.

For filters w_c (F x F) of a layer and orthonormal eigenvectors Psi of the Laplacian of the grid of F x F pixels (four
neighbours, free border), which are the products of cosines of the DCT-II with eigenvalues 4 - 2 cos(pi a / F) - 2 cos(pi b /
F),

    q_lambda = mean_c sum_{Psi with eigenvalue lambda} <w_c, Psi>^2,

so that sum_lambda q_lambda = mean_c ||w_c||^2. A filter that averages is constant: all its energy is at lambda = 0.
Independent weights have the same q for every eigenvector (docs/stability.md, Formulas; Tomasini et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.fft import dctn
from torch import nn

from probes.errors import UsageError
from repanalysis.analyses.declaration import analysis
from repanalysis.table import Table

__all__ = ["Eigenspaces", "eigenspaces", "filter_energy"]


@dataclass(frozen=True)
class Eigenspaces:
    """Eigenspaces of a grid's Laplacian.

    Attributes
    ----------
    values : (m,) array
        Distinct eigenvalues, ascending; the first is 0.
    space : (h, w) int array
        Index of the eigenspace of the cosines with frequencies (a, b).
    """

    values: Float[np.ndarray, " m"]
    space: np.ndarray

    @property
    def multiplicities(self) -> np.ndarray:
        """Dimension of each eigenspace."""
        return np.bincount(self.space.ravel())


def eigenspaces(height: int, width: int) -> Eigenspaces:
    """Eigenspaces of the Laplacian of a grid of height x width pixels with a free border.

    Examples
    --------
    >>> spaces = eigenspaces(3, 3)
    >>> spaces.values.round(12).tolist(), spaces.multiplicities.tolist()
    ([0.0, 1.0, 2.0, 3.0, 4.0, 6.0], [1, 2, 1, 2, 2, 1])
    """
    down, across = (2 - 2 * np.cos(np.pi * np.arange(side) / side) for side in (height, width))
    eigenvalues = np.add.outer(down, across)
    values, space = np.unique(eigenvalues.round(9), return_inverse=True)
    exact = np.array([eigenvalues.ravel()[space.ravel() == index][0] for index in range(len(values))])
    return Eigenspaces(exact, space.reshape(height, width))


def energies(filters: Float[np.ndarray, "n h w"]) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """The energy q of each eigenspace, and its standard error over filters."""
    spaces = eigenspaces(*filters.shape[1:])
    squares = np.square(dctn(filters, axes=(1, 2), norm="ortho")).reshape(len(filters), -1)
    q = np.stack([squares[:, spaces.space.ravel() == index].sum(1) for index in range(len(spaces.values))], axis=1)
    return q.mean(0), q.std(0, ddof=1) / np.sqrt(len(q)) if len(q) > 1 else np.full(q.shape[1], np.nan)


@analysis
def filter_energy(model: nn.Module, *, run: str = "run", name: str = "") -> Table:
    """Energy of every layer's filters on the eigenspaces of the grid's Laplacian.

    Parameters
    ----------
    model : torch.nn.Module
        Any network with convolutions.
    run, name : str
        Names of the run and the network in the table.

    Returns
    -------
    Table
        Per two-dimensional convolution with more than one pixel: `filter_energy`, variants "lambda=0", "lambda=1", ..., with
        the standard error over the filters; `filter_energy_per_direction`, divided by the dimension of the eigenspace,
        which is the same for all lambda if weights are independent; and `filter_homogeneity`, the share of lambda = 0, in [0,
        1]: 1 for constant filters, 1 / F^2 on average for independent weights. `n` is the number of filters. `depth` is the
        share of the convolutions up to this one.

    Raises
    ------
    UsageError
        If the network has no such layer.

    Notes
    -----
    1 x 1 filters have only lambda = 0 and are skipped. Layers are in the order of definition.

    Examples
    --------
    >>> table = filter_energy(nn.Sequential(nn.Conv2d(3, 64, 3)))
    >>> len(table.select(metric="filter_energy"))
    6
    """
    layers = [(layer, module) for layer, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    spatial = [(layer, module) for layer, module in layers if np.prod(module.kernel_size) > 1]
    if not spatial:
        raise UsageError(
            f"{type(model).__name__} has no two-dimensional convolution with more than one pixel: no filters in space."
        )
    rows: list[dict[str, Any]] = []
    for order, (layer, module) in enumerate(spatial):
        filters = module.weight.detach().double().cpu().numpy().reshape(-1, *module.kernel_size)
        spaces = eigenspaces(*module.kernel_size)
        q, se = energies(filters)
        depth = (1 + [name_of_layer for name_of_layer, _ in layers].index(layer)) / len(layers)
        base = {"run": run, "model": name, "layer": layer or "model", "order": order, "depth": depth, "n": len(filters)}
        for value, energy, error, size in zip(spaces.values, q, se, spaces.multiplicities, strict=True):
            variant = f"lambda={round(value, 4) + 0.0:g}"
            rows.append(base | {"metric": "filter_energy", "variant": variant, "value": energy, "se": error})
            per = {"metric": "filter_energy_per_direction", "value": energy / size, "se": error / size}
            rows.append(base | {"variant": variant} | per)
        total = float(q.sum())
        note = "" if total else "all filters are 0"
        rows.append(base | {"metric": "filter_homogeneity", "value": q[0] / total if total else np.nan, "note": note})
    return Table.from_rows(rows, {run: {"model": name, "layers": [layer for layer, _ in spatial]}})

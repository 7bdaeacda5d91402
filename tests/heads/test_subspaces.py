"""Nearest subspaces: exact on orthogonal ones, and the plain projection."""

from __future__ import annotations

import numpy as np
import pytest

from probes.errors import DataError, UsageError
from repanalysis.heads.subspaces import fit_subspaces


def test_orthogonal_subspaces_are_told_apart_exactly(rng: np.random.Generator) -> None:
    rotation = np.linalg.qr(rng.normal(size=(9, 9)))[0]
    y = np.arange(3).repeat(20)
    x = np.zeros((60, 9))
    for k in range(3):
        x[y == k, 3 * k : 3 * k + 3] = rng.normal(size=(20, 3))
    subspaces = fit_subspaces(x @ rotation, y, dimensions=3)
    new = np.concatenate([x, -5 * x]) @ rotation
    assert (subspaces.predict(new) == np.tile(y, 2)).all()
    residuals = subspaces.residuals(x @ rotation)
    np.testing.assert_allclose(residuals[np.arange(60), y], 0, atol=1e-13)


@pytest.mark.parametrize("centred", [False, True])
def test_residuals_are_those_of_least_squares(rng: np.random.Generator, centred: bool) -> None:
    x, y = rng.normal(size=(30, 6)) + 2, np.arange(30) % 2
    subspaces = fit_subspaces(x, y, dimensions=2, centred=centred)
    new = rng.normal(size=(5, 6))
    for k in (0, 1):
        members = x[y == k]
        mean = members.mean(axis=0) if centred else 0.0
        values, vectors = np.linalg.eigh((members - mean).T @ (members - mean))
        basis = vectors[:, np.argsort(values)[-2:]]
        residual = [np.linalg.lstsq(basis, row - mean, rcond=None)[1][0] ** 0.5 for row in new]
        np.testing.assert_allclose(subspaces.residuals(new)[:, k], residual, rtol=1e-9)


def test_dimensions_are_limited_by_rank_and_space(rng: np.random.Generator) -> None:
    x = np.concatenate([rng.normal(size=(1, 4)).repeat(5, axis=0), rng.normal(size=(20, 4)), np.zeros((3, 4))])
    y = np.array(["one"] * 5 + ["many"] * 20 + ["zero"] * 3)
    subspaces = fit_subspaces(x, y, dimensions=30)
    sizes = {str(label): basis.shape[1] for label, basis in zip(subspaces.classes, subspaces.bases, strict=True)}
    assert sizes == {"many": 3, "one": 1, "zero": 0}
    assert np.isfinite(subspaces.residuals(x)).all()


def test_rotations_do_not_matter(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(30, 6)) + 1, np.arange(30) % 3
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    a, b = fit_subspaces(x, y, 2).residuals(x), fit_subspaces(x @ rotation, y, 2).residuals(x @ rotation)
    np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize(
    ("x", "y", "dimensions", "message"),
    [
        (np.eye(3), [0, 1, 1], 0, "at least one"),
        (np.eye(3), [0, 1], 1, "are needed"),
        (np.ones((3, 1)), [0, 1, 1], 1, "one feature"),
        (np.full((2, 2), np.nan), [0, 1], 1, "NaN"),
        (np.ones((0, 3)), [], 1, "are needed"),
    ],
)
def test_bad_input_is_refused(x: np.ndarray, y: list[int], dimensions: int, message: str) -> None:
    with pytest.raises((DataError, UsageError), match=message):
        fit_subspaces(x, y, dimensions)

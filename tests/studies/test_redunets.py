"""The experiments: what they measure, and that shift-invariant networks are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from probes.errors import UsageError
from repanalysis.networks.redunet.network import ReduNet
from repanalysis.studies.redunets import EXPERIMENTS, held_out_cosines, run_experiment, shifted_assignments, sinusoids

CLASSIFIERS = [
    ("network", "assignment"), ("network", "nearest subspace"), ("network", "5 neighbours"), ("network", "linear SVM"),
    ("raw", "logistic regression"), ("raw", "SVM"),
]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in EXPERIMENTS if name != "rotation"])
def test_an_experiment_reports_rates_accuracies_and_shifts(name: str, tmp_path: Path) -> None:
    result = run_experiment(name, tmp_path / "net", layers=3, progress=False)
    frame = result.accuracies
    assert list(map(tuple, frame[["features", "classifier"]].to_numpy())) == CLASSIFIERS
    assert frame[["train", "test"]].to_numpy().min() >= 0
    assert frame[["train", "test"]].to_numpy().max() <= 1
    assert set(result.rates.frame["run"]) == {f"{name} train", f"{name} test"}
    assert len(result.rates) == 2 * 4 * 3
    loaded = ReduNet.load(tmp_path / "net")
    np.testing.assert_array_equal(loaded.rates, result.network.rates)
    invariant = EXPERIMENTS[name].config.shift_invariant
    assert len(result.shifts) == 2 * invariant
    if invariant:
        shifts = result.shifts.set_index("network")
        assert shifts["changed"]["shift-invariant"] == 0
        assert shifts["largest"]["shift-invariant"] < 1e-9
        assert name == "sinusoids" or shifts["changed"]["vectors"] > 0.5
    cosines = held_out_cosines(result, most=60)
    assert cosines.values.shape == (min(60, len(result.samples.test_y)),) * 2


def test_gaussian_classes_are_orthogonal_in_the_heat_map() -> None:
    result = run_experiment("gaussians-2d", layers=300, progress=False)
    means = held_out_cosines(result).by_class()
    assert means[0, 0] > 0.99
    assert means[0, 1] < 0.05
    assert result.accuracies["test"].min() > 0.99


def test_sinusoids_have_no_duplicate_end_point() -> None:
    """A shift of the phase by one step is a circular shift of the signal."""
    x, y = sinusoids(3, 0, length=12, noise=0.0)
    angles = 2 * np.pi * np.arange(12) / 12
    for wave, label in zip(x[:, 0].numpy(), y, strict=True):
        if label == 0:
            basis = np.stack([np.sin(angles), np.cos(angles)], axis=1)
            np.testing.assert_allclose(basis @ np.linalg.lstsq(basis, wave, rcond=None)[0], wave, atol=1e-12)
        else:
            assert set(np.unique(wave)) <= {-1.0, 0.0, 1.0}
    assert np.bincount(y).tolist() == [3, 3]


def test_unknown_experiments_and_vectors_without_shifts_are_refused() -> None:
    with pytest.raises(UsageError, match="Did you mean 'rotation'"):
        run_experiment("rotations")
    result = run_experiment("iris", layers=1, progress=False)
    with pytest.raises(UsageError, match="have no shifts"):
        shifted_assignments(result.network, torch.zeros(3, 4))

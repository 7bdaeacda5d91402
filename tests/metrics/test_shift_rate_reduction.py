"""Values of shift_rate_reduction: by dense circulants, as rate_reduction without positions, and by every path to a layer."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import probes
from probes.errors import LeftOutWarning, UsageError
from repanalysis import analyze
from repanalysis.metrics import get
from repanalysis.statistics import ShiftMoments
from tests.metrics.rates import CANONICAL, plain, subspaces
from tests.networks.redunet.plain import shifts


@pytest.mark.parametrize("shape", [(3, 1), (2, 5), (2, 6), (2, 3, 4), (1, 4, 3)])
@pytest.mark.parametrize("eps_sq", [0.1, 2.0])
def test_it_is_the_rate_reduction_of_all_shifts(shape: tuple[int, ...], eps_sq: float) -> None:
    rng = np.random.default_rng(0)
    y = np.array([0] * 5 + [1] * 3 + [2] * 4)
    maps = rng.normal(size=(12, *shape)) + rng.normal(size=(3, *shape))[y]
    values = get("shift_rate_reduction", eps_sq=eps_sq, shape=shape)(ShiftMoments(shape).of(maps.reshape(12, -1), y))
    points = int(np.prod(shape[1:]))
    rate, classwise = plain(shifts(maps), y.repeat(points), eps_sq, "sphere")
    names = [f"{variant}eps_sq={eps_sq}" for variant in ("whole,", "classes,", "")]
    expected = np.array([rate, classwise, rate - classwise]) / points
    np.testing.assert_allclose([values[name] for name in names], expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("case", CANONICAL)
def test_features_without_positions_have_the_values_of_the_table(case: str) -> None:
    (dims, copies, d, eps_sq), expected = CANONICAL[case]
    x, y = subspaces(dims, copies, d)
    values = get("shift_rate_reduction", eps_sq=eps_sq)(ShiftMoments().of(x, y))
    np.testing.assert_allclose(list(values.values()), [expected[2], expected[0], expected[1]], atol=1e-6)


def test_equal_classes_have_zero_without_cancellation() -> None:
    x = np.random.default_rng(0).normal(size=(6, 8))
    y = np.arange(2).repeat(6)
    for second in (x, -x, np.roll(x, 3, axis=1)):
        value = get("shift_rate_reduction", eps_sq=1e-3)(ShiftMoments((1, 8)).of(np.concatenate([x, second]), y))
        assert 0 <= value["eps_sq=0.001"] < 1e-14


def test_small_reductions_are_exact() -> None:
    """For large eps^2, T Delta R is b^2 / 4 [sum g_k tr S_k^2 - tr S^2] of all shifts."""
    rng = np.random.default_rng(0)
    y = np.arange(2).repeat(4)
    maps = rng.normal(size=(8, 2, 5))
    maps /= np.linalg.norm(maps.reshape(8, -1), axis=1)[:, None, None]
    every, labels = shifts(maps), y.repeat(5)
    seconds = [every[labels == k].T @ every[labels == k] / 20 for k in (0, 1)]
    whole = every.T @ every / 40
    squares = sum(np.square(s).sum() / 2 for s in seconds) - np.square(whole).sum()
    value = get("shift_rate_reduction", eps_sq=1e7)(ShiftMoments((2, 5)).of(maps.reshape(8, -1), y))["eps_sq=10000000.0"]
    assert value == pytest.approx((10 / 1e7) ** 2 / 4 * squares / 5, rel=1e-5)


class Maps(torch.nn.Module):
    """A layer of maps, one of tokens with channels last, and one of vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = torch.nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular")
        self.vector = torch.nn.Linear(60, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.vector(self.maps(x).flatten(1))


@pytest.mark.parametrize("pool", ["none", "mean", "flatten"])
def test_analyze_knows_the_shape_of_maps_that_were_recorded_whole(pool: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x, y = Maps().eval(), torch.randn(12, 1, 4, 5), np.arange(12) % 3
    batches = [(x[i : i + 5], torch.from_numpy(y[i : i + 5])) for i in (0, 5, 10)]
    probes.record(model, batches, tmp_path / "a.h5", layers=["maps", "vector"], pool=pool, progress=False)
    with warnings.catch_warnings(action="ignore", category=LeftOutWarning):
        frame = analyze(tmp_path / "a.h5", metrics="shift_rate_reduction", progress=False).frame
    rows = frame[frame["variant"] == ""].set_index("layer")
    with torch.no_grad():
        maps = model.maps(x).double().numpy()
        vectors = model(x).double().numpy()
    assert rows["value"]["vector"] == pytest.approx(np.subtract(*plain(vectors, y, 0.5, "sphere")), rel=1e-5)
    rate, classwise = plain(shifts(maps), y.repeat(20), 0.5, "sphere")
    if pool != "none":
        assert math.isnan(rows["value"]["maps"])
        assert "--pool none" in rows["note"]["maps"]
    else:
        assert rows["value"]["maps"] == pytest.approx((rate - classwise) / 20, rel=1e-5)


def test_a_distortion_of_zero_is_refused_before_the_pass() -> None:
    with pytest.raises(UsageError, match="eps_sq"):
        analyze(probes.from_arrays({"a": np.eye(4)}, labels=np.array([0, 0, 1, 1])), metrics="shift_rate_reduction:eps_sq=0")

"""Current outputs of a network compared with those in a file, by sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import probes
from probes.comparing import compare

X = np.random.default_rng(0).normal(size=(40, 5)).astype("f4")


def test_recomputed_rows_are_compared_by_sample(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(5, 4), nn.Tanh()), torch.from_numpy(X)
    store = probes.record(net, [(x, None, torch.arange(40) * 3)], tmp_path / "x.h5")
    rows = torch.tensor([30, 3, 17])
    differences = compare(store, probes.capture(net, [(x[rows], None, rows * 3)]))
    assert [difference.ok for difference in differences] == [True, True]
    assert max(difference.largest for difference in differences) < 1e-6
    with torch.no_grad():
        net[0].weight += 0.01
    assert not any(difference.ok for difference in compare(store, probes.capture(net, [(x[rows], None, rows * 3)])))


def test_unmatched_samples_and_layers_are_refused(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(5, 4), nn.Tanh()), torch.from_numpy(X)
    store = probes.record(net, [x], tmp_path / "x.h5")
    with pytest.raises(probes.DataError, match="has no sample 40"):
        compare(store, probes.capture(net, [(x[:2], None, [40, 41])]))
    with pytest.raises(probes.DataError, match="Layer '1' of .* is not given out now"):
        compare(store, probes.capture(net, [x], layers="0"))
    with pytest.raises(probes.DataError, match=r"Layer '0' has shape \(40, 4\)|has shape .4,. in"):
        compare(store, probes.capture(nn.Sequential(nn.Linear(5, 3), nn.Tanh()), [x]))


def test_nan_equals_only_nan() -> None:
    a, b = probes.from_arrays({"x": [[np.nan], [1.0]]}), probes.from_arrays({"x": [[2.0], [1.0]]})
    assert compare(a, a.iter())[0].ok
    assert not compare(a, b.iter())[0].ok
    assert not compare(b, a.iter())[0].ok


def test_samples_with_names_are_compared_by_name() -> None:
    recorded = probes.from_arrays({"x": X}, ids=[f"{i}.png" for i in range(40)])
    recomputed = probes.from_arrays({"x": X[[30, 3]]}, ids=["30.png", "3.png"])
    assert [difference.largest for difference in compare(recorded, recomputed.iter())] == [0.0]
    with pytest.raises(probes.DataError, match="has no sample '40.png'"):
        compare(recorded, probes.from_arrays({"x": X[:1]}, ids=["40.png"]).iter())

"""The hash says whether two networks compute the same thing with the same numbers."""

from __future__ import annotations

import torch
from torch import nn

from probes.identity import versions, weights_sha256


def test_any_changed_number_changes_the_hash() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = weights_sha256(net)
    assert weights_sha256(net.train()) == weights_sha256(net.eval()) == before
    with torch.no_grad():
        net[1].running_mean[1] += 1
    assert weights_sha256(net) != before
    with torch.no_grad():
        net[1].running_mean[1] -= 1
    assert weights_sha256(net) == before
    assert weights_sha256(net.double()) != before


def test_versions_name_what_computes() -> None:
    assert torch.__version__.startswith(versions()["torch"])
    assert "python" in versions()

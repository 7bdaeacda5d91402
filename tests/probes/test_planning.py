"""Planned sizes equal written sizes, byte for byte; budgets are met, and the lost information is stated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

import probes
from probes.capturing.pooling import describe_loss
from probes.planning import fit, plan, readable

NET = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    "pool", ["mean", "none", "grid:2", "mean_std", "flatten", "project:5", ["0=none", "type:ReLU=max", "mean"]]
)
@pytest.mark.parametrize("dtype", ["auto", "float16"])
def test_planned_sizes_equal_written_sizes(tmp_path: Path, pool: str, dtype: str) -> None:
    x = torch.randn(12, 1, 10, 10)
    planned = plan(NET, x[:1], 12, pool=pool, dtype=dtype)
    store = probes.record(NET, [x[:8], x[8:]], tmp_path / "x.h5", pool=pool, dtype=dtype)
    assert [layer.info.name for layer in planned.layers] == store.layers
    assert planned.bytes == sum(store[name].nbytes for name in store.layers)
    for layer in planned.layers:
        assert store[layer.info.name].shape[1:] == layer.shape
        assert store.info[layer.info.name] == layer.info


def test_planned_layers_of_a_transformer_equal_recorded_layers(tmp_path: Path) -> None:
    vit = timm.create_model("vit_tiny_patch16_224", img_size=32)
    x = torch.randn(2, 3, 32, 32)
    for pool in ("mean", "tokens", "grid:2"):
        planned = plan(vit, x[:1], 2, layers="blocks.*.norm1", pool=pool)
        store = probes.record(vit, [x], tmp_path / f"{pool[:4]}.h5", layers="blocks.*.norm1", pool=pool)
        assert planned.bytes == sum(store[name].nbytes for name in store.layers)
        assert store.info["blocks.3.norm1"].prefix_tokens == 1


@pytest.mark.parametrize("budget", [100_000, 30_000, 20_000, 7_000])
def test_a_budget_is_met_by_the_finest_pool_that_fits(budget: int) -> None:
    planned = plan(NET, torch.zeros(1, 1, 30, 30), 10, pool="none")
    fitted = fit(planned, budget)
    assert fitted.bytes <= budget < planned.bytes
    assert fitted.lost
    assert fitted.layers[-1].shape == (2,), "a vector stays as it is"
    replanned = plan(NET, torch.zeros(1, 1, 30, 30), 10, pool=fitted.pools)
    assert replanned.bytes == fitted.bytes
    finer = {"grid:4": "grid:7", "grid:2": "grid:4", "mean": "grid:2"}.get(fitted.layers[0].info.pool)
    assert finer is None or plan(NET, torch.zeros(1, 1, 30, 30), 10, pool=finer).bytes > budget


def test_a_plan_within_budget_is_unchanged_and_an_impossible_budget_is_refused() -> None:
    planned = plan(NET, torch.zeros(1, 1, 30, 30), 10, pool="none")
    assert fit(planned, 10**9) == planned
    with pytest.raises(
        probes.UsageError, match=r"10 samples of 5 layers take .* even with the pool project:64, more than 10 bytes"
    ):
        fit(planned, 10)


def test_layers_of_one_module_share_a_pattern() -> None:
    net = nn.ModuleDict({"a": nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU()), "b": nn.Linear(3, 3), "ab": nn.ReLU()})

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.early, self.late, self.head = net["a"], net["b"], net["ab"]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.late(self.early(x)))

    planned = plan(Net(), torch.zeros(1, 1, 3, 3), 5, pool={"early*": "none", "*": "mean"})
    assert planned.pools == ["late=mean", "head=mean", "none"] or planned.pools == ["early*=none", "mean"]
    replanned = plan(Net(), torch.zeros(1, 1, 3, 3), 5, pool=planned.pools)
    assert [layer.info.pool for layer in replanned.layers] == [layer.info.pool for layer in planned.layers]


def test_planning_does_not_change_the_network() -> None:
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout()).train()
    before = net[0].running_mean.clone()
    plan(net, torch.randn(2, 1, 3, 3), 5)
    assert net.training
    assert torch.equal(net[0].running_mean, before)


@pytest.mark.parametrize("spec", ["none", "mean", "max", "mean_std", "cls", "tokens", "flatten", "grid:3", "project:9,seed=2"])
def test_every_pool_states_what_it_discards(spec: str) -> None:
    assert describe_loss(spec)


def test_sizes_are_formatted_with_units() -> None:
    assert [readable(size) for size in (3, 1500, 2e7, 3e9, 4.5e12)] == ["3 bytes", "1.5 kB", "20.0 MB", "3.0 GB", "4.5 TB"]
    assert np.isclose(float(readable(2e7).split()[0]), 20)

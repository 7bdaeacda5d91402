"""Shuffled channels: the same filters in a permuted arrangement, the original unchanged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from probes.errors import UsageError
from repanalysis.analyses.stability.filter_energy import filter_energy
from repanalysis.networks.shuffling import shuffled_channels


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3)).eval()


def filters(weight: Tensor) -> list[tuple[float, ...]]:
    return sorted(tuple(kernel.flatten().tolist()) for kernel in weight.flatten(0, 1))


@pytest.mark.parametrize("outputs", [False, True])
def test_every_layer_keeps_its_filters_and_biases(net: nn.Sequential, outputs: bool) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    twin = shuffled_channels(net, seed=1, outputs=outputs)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    for name, value in twin.state_dict().items():
        if name in ("0.weight", "3.weight"):
            assert filters(value) == filters(before[name])
            assert not torch.equal(value, before[name])
        else:
            assert torch.equal(value, before[name])
    x = torch.rand(2, 3, 9, 9)
    assert not torch.allclose(net(x), twin(x))


def test_the_energy_of_the_filters_is_unchanged(net: nn.Sequential) -> None:
    before, after = (filter_energy(network).frame["value"].to_numpy() for network in (net, shuffled_channels(net)))
    # Exactly the same filters; only the order in which they are averaged differs.
    torch.testing.assert_close(torch.from_numpy(before), torch.from_numpy(after), rtol=1e-12, atol=0)


def test_the_seed_determines_the_permutation(net: nn.Sequential) -> None:
    a, b, c = (shuffled_channels(net, seed=seed).state_dict()["3.weight"] for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_a_network_without_convolutions_has_a_one_sentence_error() -> None:
    with pytest.raises(UsageError, match="Linear has no convolution"):
        shuffled_channels(nn.Linear(3, 2))

"""Masks on a network: momentum, restoration, and the remaining multiplications."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from probes.errors import UsageError
from repanalysis.analyses.pruning.applying import apply_masks, masked, multiplications


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(20, 2))


def test_masked_weights_stay_0_through_steps_with_momentum(net: nn.Sequential) -> None:
    masks = {"2.weight": torch.rand(5, 4) < 0.5, "4.weight": torch.rand(2, 20) < 0.5}
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.rand(2, 3, 6, 6)).sum().backward()
    optimizer.step()  # momentum of the weights to be masked
    for _ in range(3):
        optimizer.zero_grad()
        net(torch.rand(2, 3, 6, 6)).square().sum().backward()
        optimizer.step()
        apply_masks(net, masks)
        assert not net[2].weight[~masks["2.weight"]].any()
        assert not net[4].weight[~masks["4.weight"]].any()


def test_the_model_is_restored_after_the_block(net: nn.Sequential) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.rand(2, 3, 6, 6)
    outputs = net(x)
    with masked(net, {"2.weight": torch.zeros(5, 4, dtype=torch.bool)}) as pruned:
        assert not torch.allclose(pruned(x), outputs)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_multiplications_are_counted_without_masked_weights(net: nn.Sequential) -> None:
    example = torch.zeros(1, 3, 6, 6)
    total = multiplications(net, example)
    assert total == {"0": 4 * 3 * 9 * 16, "2": 5 * 4 * 9 * 4, "4": 40}
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[:2, 0] = True
    assert multiplications(net, example, {"2.weight": mask})["2"] == 2 * 9 * 4
    assert not any(module._forward_hooks for module in net.modules())


def test_masks_of_the_wrong_shape_have_one_sentence_errors(net: nn.Sequential) -> None:
    with pytest.raises(UsageError, match="has no parameter '3.weight'"):
        apply_masks(net, {"3.weight": torch.ones(2, 2)})
    with pytest.raises(UsageError, match="and its weights are"):
        apply_masks(net, {"2.weight": torch.ones(3, 3)})


def test_multiplications_are_counted_for_every_token_and_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    assert multiplications(nn.Linear(4, 3), torch.zeros(1, 5, 4)) == {"model": 5 * 12}
    assert multiplications(Twice(), torch.zeros(1, 5, 4)) == {"layer": 2 * 5 * 16}
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0] = True
    assert multiplications(Twice(), torch.zeros(1, 4), {"layer.weight": mask}) == {"layer": 8}

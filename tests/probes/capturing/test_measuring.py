"""Measuring axes: which grow with the batch and which with the input size, without side effects."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probes
from tests.probes.by_hand import SEQUENCE_FIRST, SequenceFirst, agree


@pytest.mark.parametrize(("samples", "tokens"), [(5, 5), (4, 7), (8, 3), (6, 6), (1, 4), (2, 2), (3, 3), (8, 8), (4, 1)])
def test_sequence_first_blocks(samples: int, tokens: int) -> None:
    """As many tokens as samples, as many samples as channels, one sample: growth decides, not size."""
    batch = agree(SequenceFirst(), torch.randn(samples, tokens, 6), SEQUENCE_FIRST)
    assert batch.info["fc"].dims == ("sample", "channel")
    assert batch.info["fc"].source_shape == (tokens, 8)


def test_height_and_width_are_distinguished() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).transpose(2, 3) + 1)

    info = next(probes.capture(Turned(), [torch.randn(2, 3, 8, 8)])).info
    assert info["a"].source_dims == ("sample", "channel", "height", "width")
    assert info["b"].source_dims == ("sample", "channel", "width", "height")


def test_measuring_has_no_side_effects() -> None:
    """Random state, buffers, attributes and mode equal those of a run without measuring."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sum", torch.zeros(()))
            self.fc, self.calls, self.cache = nn.Linear(3, 3), 0, None

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.sum += x.sum()
            self.cache = torch.arange(x.shape[1])
            return self.fc(x) + torch.rand(1)

    net, x = Counting().train(), torch.randn(4, 5, 3)
    state = torch.random.get_rng_state()
    batch = next(probes.capture(net, [x], layers="*"))
    torch.random.set_rng_state(state)
    with torch.no_grad():
        expected = Counting.forward(net, x).mean(1)
    np.testing.assert_allclose(batch.layers["model"], expected.numpy(), rtol=1e-6)
    assert (net.calls, net.training) == (2, True)
    torch.testing.assert_close(net.sum, 2 * x.sum())
    assert net.cache.shape == (5,)


def test_a_network_of_fixed_batch_size_is_recorded_by_its_module_types() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(6, 8), nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.fc(x.view(4, 5, 6)) + 0)

    batch = next(probes.capture(Fixed(), [torch.randn(4, 5, 6)]))
    assert [batch.info[layer].axes_from for layer in ("fc", "act")] == ["weight", "guessed"]
    assert batch.layers["act"].shape == (4, 8)

"""The network of scale detection: its formula written out, its parametrisation, and invalid input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from probes.errors import UsageError
from repanalysis.inputs.models import load_model
from repanalysis.networks.scale_net import ScaleNet


@pytest.mark.parametrize(("width", "stride"), [(2, 2), (3, 1), (4, 2)])
def test_one_dimension_agrees_with_the_formula(width: int, stride: int) -> None:
    torch.manual_seed(0)
    net = ScaleNet(blocks=2, width=width, stride=stride, channels=5).double()
    x = torch.randn(3, 1, 1, 16, dtype=torch.float64)
    y = x[:, :, 0].numpy()
    for block in net.blocks:
        w, b = block.weight.detach().numpy(), block.bias.detach().numpy()
        sites = np.arange(0, y.shape[2], stride)
        padding = (width - 1) // 2
        patches = np.stack([y[:, :, (sites + tap - padding) % y.shape[2]] for tap in range(width)], axis=-1)
        y = np.sqrt(width) * np.maximum(np.einsum("ncxt,oct->nox", patches, w) / np.sqrt(w[0].size) + b[:, None], 0)
    expected = y.mean(2) @ net.read_out.weight.detach().numpy().T / 5 + net.read_out.bias.detach().numpy()
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-12)


def test_circular_shifts_do_not_change_the_output_at_stride_1() -> None:
    for dimensions, side in ((1, (1, 24)), (2, (12, 12))):
        net = ScaleNet(blocks=3, channels=4, dimensions=dimensions).double()
        x = torch.randn(2, 1, *side, dtype=torch.float64)
        torch.testing.assert_close(net(x.roll(5, -1)), net(x))


def test_parameters_are_standard_normal_with_fixed_output_scale() -> None:
    torch.manual_seed(1)
    net = ScaleNet(blocks=4, width=2, stride=2, channels=400)
    for name, parameter in net.named_parameters():
        if parameter.numel() > 300:
            assert float(parameter.detach().std()) == pytest.approx(1, rel=0.1), name
    assert net.blocks(torch.randn(8, 1, 64)).detach().square().mean() < 100


def test_a_specification_builds_it() -> None:
    net = load_model("scale-net:L=3,F=2,s=2,H=6").module
    assert [tuple(block.weight.shape) for block in net.blocks] == [(6, 1, 2), (6, 6, 2), (6, 6, 2)]  # type: ignore[union-attr]


def test_invalid_input_has_a_one_sentence_error() -> None:
    with pytest.raises(UsageError, match="at least as wide"):
        ScaleNet(width=1, stride=2)
    with pytest.raises(UsageError, match="need 32 pixels; images have 16"):
        ScaleNet(blocks=5, width=2, stride=2)(torch.zeros(1, 1, 1, 16))
    with pytest.raises(UsageError, match="Did you mean 'channels'"):
        load_model("scale-net:chanels=3")

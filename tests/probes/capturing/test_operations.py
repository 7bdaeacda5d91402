"""Operations outside modules: their names, which are recorded, and their values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import probes
from probes.capturing.operations import operation_name


class Block(nn.Module):
    """A residual block with operations in every usual spelling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        y = F.relu(y - 0.1)
        y += x
        return torch.relu_(y.clone()).mul(2.0)


class Net(nn.Module):
    """Two blocks, a concatenation, and a branch that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.head = nn.ModuleList([Block(), Block()]), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        a = self.layer1[0](x)
        b = self.layer1[1](a)
        joined = torch.cat([a, b], dim=1)
        pooled = joined.mean((2, 3)).view(len(x), -1)
        out: Tensor = self.head(pooled)
        return out.softmax(-1) if out.sum() > 1e9 else out.sigmoid()


def test_operations_have_names_values_and_depths() -> None:
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(2, 3, 5, 5)
    with probes.attach(net, ops=True, pool="none") as recording, torch.no_grad():
        out = net(x)
    assert list(recording) == [
        "layer1.0.conv", "layer1.0.act", "layer1.0.sub", "layer1.0.relu", "layer1.0.add", "layer1.0.relu_1", "layer1.0.mul",
        "layer1.1.conv", "layer1.1.act", "layer1.1.sub", "layer1.1.relu", "layer1.1.add", "layer1.1.relu_1", "layer1.1.mul",
        "cat", "mean", "head", "sigmoid",
    ]  # fmt: skip
    torch.testing.assert_close(recording["sigmoid"], out, rtol=0, atol=0)
    torch.testing.assert_close(recording["cat"][:, :3], recording["layer1.0.mul"], rtol=0, atol=0)
    torch.testing.assert_close(recording["layer1.0.add"], recording["layer1.0.relu"] + x, rtol=0, atol=0)
    info = recording.info
    assert info["layer1.0.relu_1"].call_index == 1
    assert info["cat"].module_type == "cat"
    assert info["cat"].dims == ("sample", "channel", "height", "width")
    depths = [layer_info.depth for layer_info in info.values()]
    assert depths == sorted(depths)
    assert info["head"].depth == info["sigmoid"].depth == 1.0


def test_depth_and_values_of_modules_do_not_depend_on_operations() -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 3, 5, 5)
    without_ops = next(probes.capture(net, [x]))
    with_ops = next(probes.capture(net, [x], ops=True))
    for name, array in without_ops.layers.items():
        np.testing.assert_array_equal(array, with_ops.layers[name])
        assert without_ops.info[name].depth == with_ops.info[name].depth


def test_patterns_select_operations() -> None:
    batch = next(probes.capture(Net(), [torch.randn(2, 3, 5, 5)], layers=["layer1.*.add", "type:cat"], ops=True))
    assert list(batch.layers) == ["layer1.0.add", "layer1.1.add", "cat"]
    with pytest.raises(probes.UsageError, match=r"matches 'layer1\.\*\.ad'. Did you mean 'layer1\.\*\.add'"):
        next(probes.capture(Net(), [torch.randn(2, 3, 5, 5)], layers="layer1.*.ad", ops=True))


def test_control_flow_is_followed() -> None:
    net = Net()
    with torch.no_grad():
        net.head.bias.fill_(1e10)
    batch = next(probes.capture(net, [torch.randn(2, 3, 5, 5)], ops=True))
    assert list(batch.layers)[-1] == "softmax"


def test_leaves_of_torch_are_one_operation() -> None:
    net = nn.Sequential(nn.ReLU(), nn.MultiheadAttention(4, 2, batch_first=True))

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            y = self.net[0](x)
            return self.net[1](y, y, y)[0]

    batch = next(probes.capture(Wrapped(), [torch.randn(2, 3, 4)], ops=True))
    assert list(batch.layers) == ["net.0", "net.1"] or list(batch.layers) == ["net.0", "net.1.0", "net.1.1"]


def test_residual_additions_of_a_transformer_layer_are_recorded() -> None:
    batch = next(probes.capture(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), [torch.randn(2, 5, 8)], ops=True))
    assert [name for name in batch.layers if name.startswith("add")] == ["add", "add_1"]


def test_views_copies_and_constants_are_not_operations() -> None:
    class Shapes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x.reshape(len(x), -1)[:, :2].transpose(0, 1).contiguous().T.clone().float().detach()
            y = y + torch.zeros(2)
            return y.unsqueeze(1).expand(-1, 3, -1).flatten(1) * 1.0

    batch = next(probes.capture(Shapes(), [torch.randn(3, 2, 2)], ops=True, layers=["add", "mul", "re:.*"]))
    assert [name for name in batch.layers if name != "model"] == ["add", "flatten", "mul"]  # flatten copies the expanded tensor


def test_operations_without_a_row_per_sample_are_left_out() -> None:
    class Windows(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.view(-1, 2) + 1).view(len(x), -1) * 2

    with pytest.warns(probes.LeftOutWarning, match="add: its output has shape .6, 2. for 3 samples"):
        batch = next(probes.capture(Windows(), [torch.randn(3, 4)], ops=True))
    assert list(batch.layers) == ["mul", "model"]


def test_no_dispatch_mode_remains_active() -> None:
    from torch.overrides import _get_current_function_mode_stack

    with pytest.raises(KeyboardInterrupt), probes.attach(Net(), ops=True):
        raise KeyboardInterrupt
    assert not _get_current_function_mode_stack()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.cat, "cat"), (Tensor.__add__, "add"), (Tensor.__radd__, "add"), (Tensor.__imul__, "mul"), (torch.rsub, "sub"),
        (F.gelu, "gelu"), (Tensor.relu_, "relu"), (F.scaled_dot_product_attention, "scaled_dot_product_attention"),
        (torch.round, "round"), (Tensor.__matmul__, "matmul"), (torch.imag, "imag"),
    ],
)  # fmt: skip
def test_all_spellings_have_one_name(function: object, name: str) -> None:
    assert operation_name(function) == name  # type: ignore[arg-type]

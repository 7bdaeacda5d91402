"""attach: a mapping of the latest forward pass. The laws of hooks are in tests/conformance/test_hooks.py."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import probes


def test_every_forward_pass_replaces_the_recording() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with probes.attach(net) as recording:
        net(torch.zeros(4, 3))
        net(torch.ones(5, 3))
    assert {name: tuple(rows.shape) for name, rows in recording.items()} == {"0": (5, 2), "1": (5, 2)}
    assert recording.info["1"].depth == 1.0


def test_parts_of_a_model_may_be_called_separately() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    with probes.attach(net) as recording:
        net[0](torch.zeros(4, 3))
        net[0](torch.zeros(4, 3))
        assert list(recording) == ["0", "0_1"]
        recording.clear()
        assert len(recording) == 0


def test_an_unrecorded_name_is_explained() -> None:
    net = nn.Sequential(nn.Flatten(0, 1), nn.Linear(3, 2))
    with probes.attach(net) as recording:
        net(torch.zeros(4, 5, 3))
    with pytest.raises(
        KeyError, match=r"'1' was not recorded in the latest forward pass: it was left out, its output has shape \(20, 2\)"
    ):
        recording["1"]
    with pytest.raises(KeyError, match="'nix' was not recorded in the latest forward pass"):
        recording["nix"]


def test_a_pattern_that_matches_nothing_fails_at_the_first_pass_and_leaves_no_hook() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(probes.UsageError, match="No layer of 'Sequential' matches 'conv'"), probes.attach(net, layers="conv"):
        net(torch.zeros(4, 3))
    assert not net[0]._forward_hooks


def test_containers_can_be_selected() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), nn.Linear(2, 2))
    with probes.attach(net, layers=["0", "type:Linear"]) as recording:
        net(torch.zeros(4, 3))
    assert list(recording) == ["0.0", "0", "1"]
    assert [round(info.depth, 3) for info in recording.info.values()] == [0.333, 0.667, 1.0]


def test_inference_tensors_are_left_out_with_advice_to_use_no_grad() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    with probes.attach(net) as recording, torch.inference_mode():
        net(torch.zeros(4, 3))
    assert "use torch.no_grad()" in recording.skipped["0"]


def test_a_call_named_like_another_module_does_not_replace_it() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.relu_1 = nn.ReLU(), nn.Tanh()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.relu_1(self.relu(self.relu(x)))

    net = Net()
    with probes.attach(net) as recording:
        net(torch.ones(2, 3))
    assert {name: info.module_type for name, info in recording.info.items()} == {
        "relu": "ReLU",
        "relu_1_": "ReLU",
        "relu_1": "Tanh",
    }


def test_an_excluded_call_has_no_parts_and_an_excluded_part_leaves_its_call() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.fc = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.lstm(x)[0][:, -1])

    def recorded(layers: str | list[str]) -> list[str]:
        return [name for batch in probes.capture(Net(), [torch.rand(8, 5, 4)], layers=layers) for name in batch.layers]

    assert recorded("!lstm") == ["fc"]
    assert recorded("!lstm.0") == ["lstm.1.0", "lstm.1.1", "fc"]
    assert recorded(["lstm", "!lstm.1.?"]) == ["lstm.0"]
    with pytest.raises(probes.DataError, match="no module was called that the layer patterns select"):
        recorded("!*")


class Detour(nn.Module):
    """Calls an additional layer if its input is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.extra, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        return self.last(self.extra(y) if x.sum() > 0 else y)


def test_depth_is_that_of_each_pass_on_any_path() -> None:
    model, short, long = Detour(), -torch.ones(4, 3), torch.ones(4, 3)
    with probes.attach(model) as recording:
        for x in (short, long, short, long):
            model(x)
            depths = {name: info.depth for name, info in recording.info.items()}
            orders = {name: info.order for name, info in recording.info.items()}
            if x is short:
                assert (depths, orders) == ({"first": 1 / 2, "last": 1.0}, {"first": 0, "last": 1})
                assert "never calls it" in recording.skipped["extra"]
            else:
                assert (depths, orders) == (
                    {"first": 1 / 3, "extra": 2 / 3, "last": 1.0},
                    {"first": 0, "extra": 1, "last": 2},
                )
                assert not recording.skipped
            assert list(recording.calls) == [*depths, "model"]


def test_depth_counts_unrecorded_layers() -> None:
    model = Detour()
    with probes.attach(model, layers="last") as recording:
        for x in (-torch.ones(4, 3), torch.ones(4, 3)):
            model(x)
            assert recording.info["last"].depth == 1.0
    with probes.attach(model, layers="first") as recording:
        for x, total in ((-torch.ones(4, 3), 2), (torch.ones(4, 3), 3)):
            model(x)
            assert recording.info["first"].depth == 1 / total

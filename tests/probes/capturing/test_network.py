"""The hash of a network changes with its weights and its code."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from probes.capturing.network import description_of, weights_sha256


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


def scaled(factor: float, net: nn.Module) -> object:
    def run(x: torch.Tensor) -> torch.Tensor:
        return factor * net(x)

    return run


class Scale:
    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def helper(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def test_functions_are_distinguished_by_their_code() -> None:
    torch.manual_seed(0)
    net, second_net = nn.Linear(3, 2), nn.Linear(3, 2)
    functions = [
        net.forward, second_net.forward, nn.ReLU().forward, partial(net.forward), scaled(2.0, net), scaled(3.0, net),
        scaled(2.0, second_net), lambda x: net(x) - 1, lambda x: net(x) + 1, lambda x: helper(net(x)), lambda x, y=1: net(x),
        lambda x, y=2: net(x), lambda x: [net(part) for part in x], lambda x: [net(part) + 1 for part in x],
    ]  # fmt: skip
    texts = [description_of(function) for function in functions]  # type: ignore[arg-type]
    assert len(set(texts)) == len(functions)
    assert texts == [description_of(function) for function in functions]  # type: ignore[arg-type]
    assert texts[0].startswith("torch.nn.modules.linear.Linear.forward sha256 ")
    assert not any("not told apart" in text for text in texts)
    with torch.no_grad():
        net.weight[0, 0] += 1
    assert description_of(functions[4]) != texts[4]  # type: ignore[arg-type]


def test_called_functions_are_included(monkeypatch: pytest.MonkeyPatch) -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return helper(x)

    before = description_of(function)
    monkeypatch.setitem(globals(), "helper", lambda x: x + 2)
    assert description_of(function) != before


def test_objects_that_can_not_be_read_are_named() -> None:
    double = Scale(2.0)
    assert "not told apart by" in description_of(double)
    assert "double (Scale)" in description_of(lambda x: double(x) + 1)


def test_mutually_recursive_functions_are_described() -> None:
    def is_even(n: int) -> bool:
        return n == 0 or is_odd(n - 1)

    def is_odd(n: int) -> bool:
        return n != 0 and is_even(n - 1)

    assert description_of(is_even) != description_of(is_odd)

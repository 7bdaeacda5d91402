"""Small networks: shapes, named layers, and how they differ."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from probes.errors import UsageError
from repanalysis.models import load_model
from repanalysis.networks.small import NAMES, small


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("colours", "size"), [(3, 32), (1, 8)])
def test_every_network_takes_every_size(name: str, colours: int, size: int) -> None:
    net = small(name, width=4, colours=colours, size=size, classes=7)
    assert net.training
    assert net(torch.zeros(3, colours, size, size)).shape == (3, 7)
    loaded = load_model(f"small:{name},width=4,colours={colours},size={size},classes=7")
    assert loaded.input_size == (colours, size, size)
    assert {key: value.shape for key, value in loaded.module.state_dict().items()} == {
        key: value.shape for key, value in net.state_dict().items()
    }


def test_they_differ_in_how_they_pool() -> None:
    kinds = {name: {type(module) for module in small(name).modules()} for name in NAMES}
    assert nn.Conv2d not in kinds["mlp"]
    assert nn.MaxPool2d in kinds["vgg"]
    assert nn.BatchNorm2d not in kinds["vgg"]
    assert nn.MaxPool2d not in kinds["strided"] | kinds["resnet"]
    assert nn.AdaptiveAvgPool2d in kinds["resnet"]


def test_layers_have_names_that_say_what_they_are() -> None:
    names = [name for name, _ in small("vgg_bn").named_children()]
    assert names[:4] == ["conv1", "norm1", "relu1", "conv2"]
    assert names[-1] == "head"
    assert [name for name, _ in small("lenet").named_children()][-3:] == ["fc1", "relu3", "head"]


def test_what_is_unknown_is_one_sentence() -> None:
    with pytest.raises(UsageError, match="Did you mean 'lenet'"):
        load_model("small:lennet")
    with pytest.raises(UsageError, match="at least 8"):
        small("vgg", size=4)

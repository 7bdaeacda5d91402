"""Small networks: shapes, named layers, and how they differ."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from probes.errors import UsageError
from repanalysis.inputs.models import load_model
from repanalysis.networks.small import NAMES, small


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("colours", "size"), [(3, 32), (1, 8)])
def test_every_network_takes_every_size(name: str, colours: int, size: int) -> None:
    size = max(size, {"vgg16": 32, "vgg11": 16}.get(name, 8))
    net = small(name, width=4, colours=colours, size=size, classes=7)
    assert net.training
    assert net(torch.zeros(3, colours, size, size)).shape == (3, 7)
    loaded = load_model(f"small:{name},width=4,colours={colours},size={size},classes=7")
    assert loaded.input_size == (colours, size, size)
    assert {key: value.shape for key, value in loaded.module.state_dict().items()} == {
        key: value.shape for key, value in net.state_dict().items()
    }


def test_networks_differ_in_their_pooling() -> None:
    kinds = {name: {type(module) for module in small(name).modules()} for name in NAMES}
    assert nn.Conv2d not in kinds["mlp"]
    assert nn.MaxPool2d in kinds["vgg"]
    assert nn.BatchNorm2d not in kinds["vgg"]
    assert nn.MaxPool2d not in kinds["strided"] | kinds["resnet"]
    assert nn.AdaptiveAvgPool2d in kinds["resnet"]


def test_layers_are_named_by_their_kind() -> None:
    names = [name for name, _ in small("vgg_bn").named_children()]
    assert names[:4] == ["conv1", "norm1", "relu1", "conv2"]
    assert names[-1] == "head"
    assert [name for name, _ in small("lenet").named_children()][-3:] == ["fc1", "relu3", "head"]


def test_unknown_networks_have_one_sentence_errors() -> None:
    with pytest.raises(UsageError, match="Did you mean 'lenet'"):
        load_model("small:lennet")
    with pytest.raises(UsageError, match="at least 8"):
        small("vgg", size=4)
    with pytest.raises(UsageError, match="at least 32"):
        small("vgg16", size=16)


def test_the_vgg_of_the_papers_has_its_shapes() -> None:
    """Filters x side of the measured outputs: after the maximum pooling where it ends the stage."""
    shapes: list[tuple[int, int]] = []

    def keep(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, nn.MaxPool2d):
            shapes[-1] = (output.shape[1], output.shape[2])
        else:
            shapes.append((output.shape[1], output.shape[2]))

    net = small("vgg16", width=64, classes=100).eval()
    for module in net.children():
        if isinstance(module, nn.ReLU | nn.MaxPool2d):
            module.register_forward_hook(keep)
    net(torch.zeros(1, 3, 32, 32))
    sides = [32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2, 1]
    assert shapes == list(zip([64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512], sides, strict=True))
    assert [type(module).__name__ for module in net.children()][-4:] == ["Flatten", "Linear", "Linear", "Linear"]
    cut = small("vgg11", width=64, classes=100)
    assert sum(isinstance(module, nn.Conv2d) for module in cut.children()) == 10
    head = cut.get_submodule("head")
    assert tuple(head.weight.shape) == (100, 2048)  # type: ignore[union-attr]
    assert head.bias is None


def test_heads_of_the_transformer_are_recorded_before_their_projection() -> None:
    net = small("vit", width=8).eval()
    block = net.get_submodule("vit.blocks.0.attn")
    recorded = {}
    block.norm.register_forward_hook(lambda module, inputs, output: recorded.update(heads=output))  # type: ignore[union-attr, operator]
    block.proj.register_forward_pre_hook(lambda module, inputs: recorded.update(projected=inputs[0]))  # type: ignore[union-attr, operator]
    net(torch.rand(2, 3, 32, 32))
    assert recorded["heads"].shape == (2, 64, 24)
    assert torch.equal(recorded["heads"], recorded["projected"])

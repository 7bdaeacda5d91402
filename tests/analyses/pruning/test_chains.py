"""Chains: where each layer's filters are seen, in networks of all kinds, and what can't be pruned."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from probes.errors import UsageError
from repanalysis.analyses.pruning.chains import OUTPUT, links
from repanalysis.networks.small import small
from tests.networks.cifar_resnet import resnet20

IMAGES = torch.rand(3, 3, 32, 32)


def test_maxima_norms_and_flattening_lie_between() -> None:
    torch.manual_seed(0)
    found, _ = links(small("vgg_bn", width=4).eval(), IMAGES, "*")
    assert [(one.name, one.seen) for one in found.values()] == [
        ("conv2", "conv3"), ("conv3", "conv4"), ("conv4", "conv5"), ("conv5", "conv6"), ("conv6", "head"), ("head", OUTPUT),
    ]  # fmt: skip
    assert (found["head"].before, found["head"].places, found["head"].after) == (16, 16, 10)
    assert (found["conv5"].before, found["conv5"].places, found["conv5"].after) == (8, 1, 16)


def test_filters_of_a_residual_block_are_seen_behind_its_shortcut() -> None:
    torch.manual_seed(0)
    found, _ = links(resnet20().eval(), IMAGES, "*")
    assert found["layer1.0.conv1"].seen == "layer1.0.conv2"
    assert found["layer1.0.conv2"].seen == "layer1.1.conv1"
    assert found["layer2.2.conv2"].seen == "layer3.0.conv1"
    assert found["layer3.2.conv2"].seen == "linear"
    assert found["linear"].places == 1
    assert "conv1" not in found


def test_shortcuts_with_convolutions_and_other_widths_in_between() -> None:
    torch.manual_seed(0)
    found, _ = links(small("resnet", width=4).eval(), IMAGES, "*")
    assert found["block1.conv2"].seen == "block2.conv1"
    assert found["block2.shortcut"].seen == "block3.conv1"
    assert found["block3.conv2"].seen == "head"


def test_inverted_bottlenecks_with_gates_and_groups() -> None:
    torch.manual_seed(0)
    net = timm.create_model("efficientnet_b0", num_classes=10).eval()
    found, left = links(net, torch.rand(2, 3, 64, 64), "*")
    assert found["blocks.1.0.conv_pw"].seen == "blocks.1.0.conv_dw"
    assert found["blocks.1.0.conv_pwl"].seen == "blocks.1.1.conv_pw"
    assert found["conv_head"].seen == "classifier"
    assert left["blocks.1.0.conv_dw"] == "its channels come in groups"


def test_by_default_the_last_convolution_and_what_follows() -> None:
    torch.manual_seed(0)
    found, left = links(small("lenet", width=4).eval(), IMAGES)
    assert list(found) == ["conv2", "fc1", "head"]
    assert not left
    assert list(links(small("lenet", width=4).eval(), IMAGES, "head")[0]) == ["head"]


def test_what_mixes_channels_is_left_out_with_a_reason() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.GroupNorm(1, 6), nn.Conv2d(6, 5, 3), nn.Flatten(),
                        nn.Linear(5 * 26 * 26, 4), nn.Linear(4, 2))  # fmt: skip
    found, left = links(net.eval(), IMAGES, "*")
    assert list(found) == ["3", "5", "6"]
    assert left == {"1": "its filters are not seen at any later layer's input"}
    tokens = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, depth=1).eval()
    found, left = links(tokens, IMAGES, "*")
    assert list(found) == ["head"]
    assert left["blocks.0.mlp.fc1"] == "it works on tokens"


def test_the_network_is_as_it_was() -> None:
    net = small("vgg", width=4).eval()
    before = net(IMAGES)
    links(net, IMAGES, "*")
    assert torch.equal(net(IMAGES), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_what_is_unknown_or_impossible_is_one_sentence() -> None:
    net = small("vgg", width=4).eval()
    with pytest.raises(UsageError, match=r"No convolution or linear layer matches 'cnv5'. Did you mean 'conv5'"):
        links(net, IMAGES, "cnv5")
    with pytest.raises(UsageError, match="only the first is meant, which takes the image"):
        links(net, IMAGES, "conv1")


def test_filters_of_grouped_convolutions_are_those_of_the_layer_behind() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 28 * 28, 2))
    found, _ = links(net.eval(), IMAGES)
    assert [(one.name, one.before, one.places) for one in found.values()] == [("4", 4, 784)]

"""Chains: the input of the next layer in which each layer's filters appear, and layers that can not be pruned."""

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


def test_filters_are_followed_through_maxima_norms_and_flattening() -> None:
    torch.manual_seed(0)
    chains, _ = links(small("vgg_bn", width=4).eval(), IMAGES, "*")
    assert [(link.name, link.observed_at) for link in chains.values()] == [
        ("conv2", "conv3"), ("conv3", "conv4"), ("conv4", "conv5"), ("conv5", "conv6"), ("conv6", "head"), ("head", OUTPUT),
    ]  # fmt: skip
    assert (chains["head"].n_inputs, chains["head"].places, chains["head"].n_outputs) == (16, 16, 10)
    assert (chains["conv5"].n_inputs, chains["conv5"].places, chains["conv5"].n_outputs) == (8, 1, 16)


def test_filters_of_a_residual_block_are_followed_past_its_shortcut() -> None:
    torch.manual_seed(0)
    chains, _ = links(resnet20().eval(), IMAGES, "*")
    assert chains["layer1.0.conv1"].observed_at == "layer1.0.conv2"
    assert chains["layer1.0.conv2"].observed_at == "layer1.1.conv1"
    assert chains["layer2.2.conv2"].observed_at == "layer3.0.conv1"
    assert chains["layer3.2.conv2"].observed_at == "linear"
    assert chains["linear"].places == 1
    assert "conv1" not in chains


def test_filters_are_followed_through_shortcuts_with_convolutions() -> None:
    torch.manual_seed(0)
    chains, _ = links(small("resnet", width=4).eval(), IMAGES, "*")
    assert chains["block1.conv2"].observed_at == "block2.conv1"
    assert chains["block2.shortcut"].observed_at == "block3.conv1"
    assert chains["block3.conv2"].observed_at == "head"


def test_filters_are_followed_through_inverted_bottlenecks() -> None:
    torch.manual_seed(0)
    net = timm.create_model("efficientnet_b0", num_classes=10).eval()
    chains, omitted = links(net, torch.rand(2, 3, 64, 64), "*")
    assert chains["blocks.1.0.conv_pw"].observed_at == "blocks.1.0.conv_dw"
    assert chains["blocks.1.0.conv_pwl"].observed_at == "blocks.1.1.conv_pw"
    assert chains["conv_head"].observed_at == "classifier"
    assert omitted["blocks.1.0.conv_dw"] == "its channels come in groups"


def test_by_default_the_last_convolution_and_later_layers_are_pruned() -> None:
    torch.manual_seed(0)
    chains, omitted = links(small("lenet", width=4).eval(), IMAGES)
    assert list(chains) == ["conv2", "fc1", "head"]
    assert not omitted
    assert list(links(small("lenet", width=4).eval(), IMAGES, "head")[0]) == ["head"]


def test_layers_before_channel_mixing_are_left_out_with_a_reason() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.GroupNorm(1, 6), nn.Conv2d(6, 5, 3), nn.Flatten(),
                        nn.Linear(5 * 26 * 26, 4), nn.Linear(4, 2))  # fmt: skip
    chains, omitted = links(net.eval(), IMAGES, "*")
    assert list(chains) == ["3", "5", "6"]
    assert omitted == {"1": "its filters are not observed at any later layer's input"}
    tokens = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=32, depth=1).eval()
    chains, omitted = links(tokens, IMAGES, "*")
    assert list(chains) == ["head"]
    assert omitted["blocks.0.mlp.fc1"] == "it works on tokens"


def test_the_network_is_unchanged() -> None:
    net = small("vgg", width=4).eval()
    before = net(IMAGES)
    links(net, IMAGES, "*")
    assert torch.equal(net(IMAGES), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_unknown_or_unprunable_layers_have_one_sentence_errors() -> None:
    net = small("vgg", width=4).eval()
    with pytest.raises(UsageError, match=r"No convolution or linear layer matches 'cnv5'. Did you mean 'conv5'"):
        links(net, IMAGES, "cnv5")
    with pytest.raises(UsageError, match="only the first layer matches, which takes the image"):
        links(net, IMAGES, "conv1")


def test_grouped_convolutions_are_linked_to_the_next_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 28 * 28, 2))
    chains, _ = links(net.eval(), IMAGES)
    assert [(link.name, link.n_inputs, link.places) for link in chains.values()] == [("4", 4, 784)]

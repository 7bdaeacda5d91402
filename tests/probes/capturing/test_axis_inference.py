"""Prefix tokens distinguished from positions, separate towers, outputs without a row per sample, and `attach`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probes
from probes.capturing.axis_inference import AxisInference, tower_tokens
from tests.probes.by_hand import SequenceFirst, agree, layout, outputs, statement


@pytest.mark.parametrize(
    ("map_shape", "tokens", "prefix"),
    [
        ((9, 3, 14, 14), 197, 1),  # after a map of 14 x 14 positions
        ((9, 3, 14, 14), 196, 0),
        ((9, 8, 3, 4), 13, 1),  # after a map of 3 x 4
        ((9, 8, 3, 4), 12, 0),
        (None, 197, 1),  # no map before: 196 is a square
        (None, 196, 0),
        (None, 21, 1),  # neither is a square: the network has a prefix token, which is assumed to be included
        (None, 1, 1),  # only the class token
    ],
)
def test_prefix_tokens_are_distinguished_from_positions(map_shape: tuple[int, ...] | None, tokens: int, prefix: int) -> None:
    net = nn.Module()
    net.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
    axes = AxisInference(net)
    if map_shape:
        layout(nn.Identity(), map_shape, axes)
    assert layout(nn.LayerNorm(8), (9, tokens, 8), axes).prefix == prefix
    assert layout(nn.LayerNorm(8), (9, tokens, 8)).prefix == 0


def test_prefix_tokens_of_timm_transformers() -> None:
    from timm import create_model

    for name, expected in (("vit_tiny_patch16_224", {"": 1}), ("vit_small_patch16_dinov3", {"": 5}), ("resnet18", {})):
        assert tower_tokens(create_model(name)) == expected


def test_outputs_that_compare_samples_or_have_none_are_left_out_with_the_reason() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.pairs, self.none = nn.Linear(6, 8), nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            return self.pairs(y @ y.T).sum() + self.none(self.fc.weight * 2).sum()

    with pytest.warns(probes.LeftOutWarning):
        batch = next(probes.capture(Net(), [torch.randn(8, 6)]))
    assert list(batch.layers) == ["fc"]
    assert "axes 0 and 1 both grow with the batch" in batch.skipped["pairs"]
    assert "no axis of it grows with the batch" in batch.skipped["none"], "8 rows for 8 samples, by chance"


def test_attach_infers_axes_from_passes_of_other_batch_sizes() -> None:
    net = SequenceFirst().eval()
    with probes.attach(net) as recording, torch.no_grad():
        net(torch.randn(5, 7, 6))
        assert recording.info["fc"].axes_from == "guessed"
        for samples in (7, 5):
            x = torch.randn(samples, 7, 6)
            net(x)
            assert recording.info["act"].source_dims == ("token", "sample", "channel")
            expected = recording["act"].numpy()
            recorded = statement(outputs_beside(net, x), "TBC")
            np.testing.assert_allclose(expected, recorded, rtol=1e-5, atol=1e-6)


def outputs_beside(net: SequenceFirst, x: Tensor) -> np.ndarray:
    """The output of `act`, computed without a call of the network."""
    y = nn.functional.layer_norm(x.transpose(0, 1), (6,), net.norm.weight, net.norm.bias)
    return nn.functional.gelu(y @ net.fc.weight.T + net.fc.bias).numpy()


class Tokens(nn.Module):
    """Patches as tokens after a class token: T = positions + 1."""

    def __init__(self, *, strict: tuple[int, int] | None = None, name: str = "cls_token") -> None:
        super().__init__()
        self.strict = strict
        self.proj, self.embed = nn.Conv2d(3, 8, 2, 2), nn.Identity()
        self.register_parameter(name, nn.Parameter(torch.randn(1, 1, 8)))
        self.name, self.blocks = name, nn.Sequential(nn.LayerNorm(8), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        if self.strict is not None and x.shape[2:] != self.strict:
            raise ValueError(self.strict)
        y = self.embed(self.proj(x).flatten(2).transpose(1, 2) + 1)
        return self.blocks(torch.cat([getattr(self, self.name).expand(len(y), -1, -1), y], 1))


@pytest.mark.parametrize("shape", [(6, 10), (4, 4), (16, 16), (6, 42)])  # 16 tokens, 5, 65, 64
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("prefix", [None, 1])
def test_a_square_number_of_tokens_may_include_a_class_token(shape: tuple[int, int], strict: bool, prefix: int | None) -> None:
    net = Tokens(strict=shape if strict else None)
    x = torch.randn(3, 3, *shape)
    batch = agree(
        net, x, {"proj": "BCHW", "embed": "BTC", "blocks.0": "BTC", "blocks.1": "BTC"}, axes_from="", prefix_tokens=prefix
    )
    assert [batch.info[layer].prefix_tokens for layer in ("embed", "blocks.0", "blocks.1")] == [0, 1, 1]
    first = next(probes.capture(net, [x], pool="cls", layers="blocks.*", prefix_tokens=prefix))
    np.testing.assert_allclose(first.layers["blocks.1"], outputs(net, x)["blocks.1"][:, 0], rtol=1e-6)


def test_a_class_token_with_any_name_is_detected() -> None:
    net, x = Tokens(name="own"), torch.randn(3, 3, 8, 8)
    assert next(probes.capture(net, [x])).info["blocks.1"].prefix_tokens == 1


@pytest.mark.parametrize("tokens", [9, 16, 64, 256, 10])
def test_stated_prefix_tokens_take_precedence(tokens: int) -> None:
    net, x = nn.Sequential(nn.LayerNorm(4)), torch.randn(3, tokens, 4)
    batch = next(probes.capture(net, [x], prefix_tokens=1))
    np.testing.assert_allclose(batch.layers["0"], outputs(net, x)["0"][:, 1:].mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        next(probes.capture(net, [x], prefix_tokens=1, pool="cls")).layers["0"], outputs(net, x)["0"][:, 0], rtol=1e-6
    )


def test_prefix_tokens_are_inferred_per_tower() -> None:
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"vocab_size": 30, "max_position_embeddings": 20, "eos_token_id": 29, "bos_token_id": 0}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=small | {"image_size": 8, "patch_size": 2}, projection_dim=4))
    inputs = {"pixel_values": torch.randn(3, 3, 8, 8), "input_ids": torch.randint(0, 30, (3, 17))}
    layers = ["vision_model.encoder.layers.0.layer_norm1", "text_model.encoder.layers.0.layer_norm1"]
    assert tower_tokens(model) == {"vision_model": 1}
    batch = agree(model, inputs, dict.fromkeys(layers, "BTC"), layers=layers, axes_from="")
    assert [batch.info[layer].prefix_tokens for layer in layers] == [1, 0], "17 tokens in both"

"""Names of axes from module types, weights, data flow and measurements: rows agree with pooling in plain numpy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import probes
from probes.capturing.axis_inference import AxisInference
from tests.probes.by_hand import agree, layout


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Conv2d(1, 4, 1), (1, 4, 5, 6), ("channel", "height", "width")),
        (nn.Conv1d(1, 4, 1), (1, 4, 5), ("channel", "width")),
        (nn.Linear(1, 5), (1, 4, 5), ("token", "channel")),
        (nn.LayerNorm(6), (1, 4, 5, 6), ("height", "width", "channel")),
        (nn.Identity(), (1, 4, 5), ("token", "channel")),
        (nn.GELU(), (1, 4, 5, 6), ("channel", "height", "width")),
        (nn.Conv3d(1, 2, 1), (1, 2, 3, 4, 5), ("channel", "time", "height", "width")),
        (nn.ReLU(), (1, 4), ("channel",)),
        (nn.ReLU(), (1, 2, 3, 4, 5, 6), ("channel", "axis2", "axis3", "axis4", "axis5")),
    ],
)
def test_axes_by_kind(module: nn.Module, shape: tuple[int, ...], expected: tuple[str, ...]) -> None:
    assert layout(module, shape).dims == ("sample", *expected)


def test_an_element_wise_module_inherits_the_axes_of_its_shape() -> None:
    axes = AxisInference()
    norm, gelu, second = nn.LayerNorm(6), nn.GELU(), nn.GELU()
    layout(norm, (1, 4, 5, 6), axes)
    assert layout(gelu, (9, 4, 5, 6), axes).dims == ("sample", "height", "width", "channel")
    assert layout(second, (9, 6, 5, 4), axes).dims == ("sample", "channel", "height", "width")


def test_heads_of_attention_are_not_a_feature_map() -> None:
    axes = AxisInference(prefix=1)
    layout(nn.LayerNorm(12), (2, 17, 12), axes)
    attended = layout(nn.Identity(), (2, 3, 17, 4), axes)
    assert (attended.dims, attended.prefix) == (("sample", "head", "token", "channel"), 1)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [False, True])
def test_axes_of_recurrent_layers_and_their_last_states(kind: type[nn.RNNBase], batch_first: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(3, 5, num_layers=2, bidirectional=True, batch_first=batch_first)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x if batch_first else x.transpose(0, 1))[0]

    states = ["rnn.1.0", "rnn.1.1"] if kind is nn.LSTM else ["rnn.1"]
    axes = {"rnn.0": "BTC" if batch_first else "TBC"} | dict.fromkeys(states, "LBC")
    batch = agree(Net(), torch.randn(4, 4, 3), axes, axes_from="")
    assert batch.layers[states[0]].shape == (4, 4, 5)
    assert batch.info[states[0]].dims == ("sample", "layer", "channel")


class ChannelsLast(nn.Module):
    """A stem with channels first, then a map with channels last and activations that have no weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem, self.act1 = nn.Conv2d(3, width, 1), nn.ReLU()
        self.norm, self.fc, self.act2, self.drop = nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout()
        self.act3, self.pool = nn.SiLU(), nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.stem(x)).permute(0, 2, 3, 1)
        y = self.drop(self.act2(self.fc(self.norm(y)) + 1) * 2)
        return self.pool(self.act3(y.permute(0, 3, 1, 2) - 1))


@pytest.mark.parametrize("samples", [2, 4, 8])
@pytest.mark.parametrize("shape", [(8, 8), (4, 8), (8, 4)])
def test_axes_of_channels_last_activations(samples: int, shape: tuple[int, int]) -> None:
    """As many rows and columns as channels and samples: only another image size decides."""
    axes = {"stem": "BCHW", "act1": "BCHW"} | dict.fromkeys(("norm", "fc", "act2", "drop"), "BHWC") | {"act3": "BCHW"}
    batch = next(probes.capture(ChannelsLast(8), [torch.randn(samples, 3, *shape)], pool="none"))
    assert batch.info["drop"].dims == ("sample", "height", "width", "channel")
    agree(ChannelsLast(8), torch.randn(samples, 3, *shape), axes | {"pool": "BCHW"}, axes_from="")


class Attention(nn.Module):
    """Queries (B, T, A, C) as Qwen3 normalises them, or (B, A, T, C); the scores' softmax is a module."""

    def __init__(self, *, heads_first: bool) -> None:
        super().__init__()
        self.heads_first = heads_first
        self.q, self.q_norm, self.softmax = nn.Linear(12, 12), nn.LayerNorm(4), nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(2, (3, 4))
        q = self.q_norm(q.transpose(1, 2)) if self.heads_first else self.q_norm(q).transpose(1, 2)
        return self.softmax(q @ q.transpose(2, 3)) @ q


@pytest.mark.parametrize("tokens", [3, 4, 5, 16])
@pytest.mark.parametrize("samples", [3, 5])
def test_axes_of_heads_tokens_and_maps_of_attention(samples: int, tokens: int) -> None:
    for heads_first, norm in ((True, "BATC"), (False, "BTAC")):
        axes = {"q": "BTC", "q_norm": norm, "softmax": "BATK"}
        agree(Attention(heads_first=heads_first), torch.randn(samples, tokens, 12), axes)


def test_axes_of_qwen3() -> None:
    from transformers import Qwen3Config, Qwen3Model

    config = Qwen3Config(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4,
    )  # fmt: skip
    inputs = {"input_ids": torch.randint(0, 50, (4, 4)), "use_cache": False}
    layers = ["layers.0.self_attn.q_norm", "layers.0.self_attn.k_norm", "layers.0.mlp.act_fn", "layers.0.input_layernorm"]
    axes = {"layers.0.input_layernorm": "BTC", layers[0]: "BTAC", layers[1]: "BTAC", "layers.0.mlp.act_fn": "BTC"}
    batch = agree(Qwen3Model(config), inputs, axes, layers=layers)
    assert batch.layers["layers.0.self_attn.q_norm"].shape == (4, 4, 4)


def test_wav2vec2_features_have_channels_first_then_last() -> None:
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, conv_dim=[8, 8], conv_stride=[5, 2],
        conv_kernel=[10, 3], num_feat_extract_layers=2, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2,
    )  # fmt: skip
    layers = ["feature_extractor.conv_layers.?.conv", "feature_projection.layer_norm", "encoder.pos_conv_embed.padding"]
    axes = {"feature_extractor.conv_layers.0.conv": "BCW", "feature_extractor.conv_layers.1.conv": "BCW"}
    axes |= {"feature_projection.layer_norm": "BTC", "encoder.pos_conv_embed.padding": "BCW"}
    agree(Wav2Vec2Model(config), torch.randn(8, 90), axes, layers=layers)

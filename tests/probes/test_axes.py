"""Which axis is which: kept rows are plain numpy pooling of a hand-written hook's output, under axes written down here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import probes
from probes.axes import AxisRules, Layout, letters_of
from probes.axis_inference import AxisInference, tower_tokens
from probes.batch import Batch


def layout(module: nn.Module, shape: tuple[int, ...], axes: AxisInference | None = None) -> Layout:
    return (axes or AxisInference()).layout(f"{id(module)}", module, shape, shape[0])


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
    norm, gelu, other = nn.LayerNorm(6), nn.GELU(), nn.GELU()
    layout(norm, (1, 4, 5, 6), axes)
    assert layout(gelu, (9, 4, 5, 6), axes).dims == ("sample", "height", "width", "channel")
    assert layout(other, (9, 6, 5, 4), axes).dims == ("sample", "channel", "height", "width")


@pytest.mark.parametrize(
    ("seen", "tokens", "prefix"),
    [
        ((9, 3, 14, 14), 197, 1),  # a map of 14 x 14 places came before
        ((9, 3, 14, 14), 196, 0),
        ((9, 8, 3, 4), 13, 1),  # a map of 3 x 4
        ((9, 8, 3, 4), 12, 0),
        (None, 197, 1),  # nothing came before: 196 is a square
        (None, 196, 0),
        (None, 21, 1),  # neither is: the network has a prefix token, and this is taken to hold it
        (None, 1, 1),  # the class token alone
    ],
)
def test_prefix_tokens_are_told_from_places(seen: tuple[int, ...] | None, tokens: int, prefix: int) -> None:
    net = nn.Module()
    net.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
    axes = AxisInference(net)
    if seen:
        layout(nn.Identity(), seen, axes)
    assert layout(nn.LayerNorm(8), (9, tokens, 8), axes).prefix == prefix
    assert layout(nn.LayerNorm(8), (9, tokens, 8)).prefix == 0


def test_heads_of_attention_are_no_map() -> None:
    axes = AxisInference(prefix=1)
    layout(nn.LayerNorm(12), (2, 17, 12), axes)
    attended = layout(nn.Identity(), (2, 3, 17, 4), axes)
    assert (attended.dims, attended.prefix) == (("sample", "head", "token", "channel"), 1)


def test_prefix_tokens_of_known_transformers() -> None:
    from timm import create_model

    for name, expected in (("vit_tiny_patch16_224", {"": 1}), ("vit_small_patch16_dinov3", {"": 5}), ("resnet18", {})):
        assert tower_tokens(create_model(name)) == expected


def statement(array: np.ndarray, axes: str, *, prefix: int = 0) -> np.ndarray:
    """Plain numpy: the mean over positions, samples first; samples, channels, heads and layers are kept."""
    if prefix:
        array = np.take(array, range(prefix, array.shape[axes.index("T")]), axis=axes.index("T"))
    places = tuple(axis for axis, letter in enumerate(axes) if letter in "THWDPK")
    rest = "".join(letter for letter in axes if letter not in "THWDPK")
    pooled = np.moveaxis(array.mean(places), rest.index("B"), 0)
    return pooled if pooled.ndim > 1 else pooled[:, None]


def outputs(model: nn.Module, inputs: Any) -> dict[str, np.ndarray]:
    """What plain hooks see of every module's first call; parts of tuples by their number."""
    seen: dict[str, np.ndarray] = {}

    def see(path: str, output: object) -> None:
        if isinstance(output, Tensor):
            seen.setdefault(path, output.detach().clone().numpy())
        parts = output.items() if isinstance(output, Mapping) else enumerate(output if isinstance(output, tuple) else ())
        for key, value in parts:
            see(f"{path}.{key}", value)

    def hook(path: str) -> Callable[..., None]:
        return lambda _module, _args, output: see(path, output)

    handles = [module.register_forward_hook(hook(path)) for path, module in model.eval().named_modules()]
    with torch.no_grad():
        model(**inputs) if isinstance(inputs, dict) else model(inputs)
    for handle in handles:
        handle.remove()
    return seen


def agree(model: nn.Module, inputs: Any, axes: dict[str, str], *, found: str = "measured", **options: Any) -> Batch:
    """Hold the rows that `capture` keeps against plain numpy under the stated axes; every layer that is kept must be stated."""
    seen = outputs(model, inputs)
    batch = next(probes.capture(model, [inputs], **options))
    assert list(batch.layers) == list(axes)
    for layer, letters in axes.items():
        info = batch.info[layer]
        assert letters_of(info.source_dims) == letters, layer
        assert info.axes_from == found or not found, layer
        expected = statement(seen[layer], letters, prefix=info.prefix_tokens)
        np.testing.assert_allclose(batch.layers[layer], expected, rtol=1e-5, atol=1e-6, err_msg=layer)
    return batch


class SequenceFirst(nn.Module):
    """(B, T, C) -> blocks on (T, B, C) -> (B, T, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc, self.act, self.drop = nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Dropout()
        self.attn, self.head = nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.act(self.fc(self.norm(x.transpose(0, 1)))))
        return self.head(self.attn(y, y, y)[0].transpose(0, 1))


SEQUENCE_FIRST = {**dict.fromkeys(("norm", "fc", "act", "drop", "attn.0"), "TBC"), "attn.1": "BTK", "head": "BTC"}


@pytest.mark.parametrize(("samples", "tokens"), [(5, 5), (4, 7), (8, 3), (6, 6), (1, 4), (2, 2), (3, 3), (8, 8), (4, 1)])
def test_sequence_first_blocks(samples: int, tokens: int) -> None:
    """As many tokens as samples, as many samples as channels, one sample: sizes do not decide, growth does."""
    batch = agree(SequenceFirst(), torch.randn(samples, tokens, 6), SEQUENCE_FIRST)
    assert batch.info["fc"].dims == ("sample", "channel")
    assert batch.info["fc"].source_shape == (tokens, 8)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("batch_first", [False, True])
def test_recurrent_layers_and_their_last_states(kind: type[nn.RNNBase], batch_first: bool) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(3, 5, num_layers=2, bidirectional=True, batch_first=batch_first)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x if batch_first else x.transpose(0, 1))[0]

    states = ["rnn.1.0", "rnn.1.1"] if kind is nn.LSTM else ["rnn.1"]
    axes = {"rnn.0": "BTC" if batch_first else "TBC"} | dict.fromkeys(states, "LBC")
    batch = agree(Net(), torch.randn(4, 4, 3), axes, found="")
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
def test_channels_last_activations(samples: int, shape: tuple[int, int]) -> None:
    """As many rows and columns as channels and samples: only another size of the image tells."""
    axes = {"stem": "BCHW", "act1": "BCHW"} | dict.fromkeys(("norm", "fc", "act2", "drop"), "BHWC") | {"act3": "BCHW"}
    batch = next(probes.capture(ChannelsLast(8), [torch.randn(samples, 3, *shape)], pool="none"))
    assert batch.info["drop"].dims == ("sample", "height", "width", "channel")
    agree(ChannelsLast(8), torch.randn(samples, 3, *shape), axes | {"pool": "BCHW"}, found="")


def test_height_and_width_are_told_apart() -> None:
    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Identity(), nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).transpose(2, 3) + 1)

    info = next(probes.capture(Turned(), [torch.randn(2, 3, 8, 8)])).info
    assert info["a"].source_dims == ("sample", "channel", "height", "width")
    assert info["b"].source_dims == ("sample", "channel", "width", "height")


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
def test_heads_tokens_and_maps_of_attention(samples: int, tokens: int) -> None:
    for heads_first, norm in ((True, "BATC"), (False, "BTAC")):
        axes = {"q": "BTC", "q_norm": norm, "softmax": "BATK"}
        agree(Attention(heads_first=heads_first), torch.randn(samples, tokens, 12), axes)


def test_qwen3() -> None:
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


class Folded(nn.Module):
    """Windows of 2 x 2 places folded into the batch, sample by sample or window by window."""

    def __init__(self, *, major: bool) -> None:
        super().__init__()
        self.major, self.fc = major, nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 2, 4, 3, 5, 1).flatten(1, 2).flatten(2, 3)
        return self.fc(y.flatten(0, 1) if self.major else y.transpose(0, 1).flatten(0, 1))


@pytest.mark.parametrize("major", [True, False])
def test_windows_in_the_batch_are_left_out_with_the_reason_or_unfolded_as_stated(major: bool) -> None:
    net, x = Folded(major=major), torch.randn(3, 3, 8, 8)
    with pytest.raises(probes.DataError, match=r"axis 0 holds 16 rows for each sample .* axes such as '\(BP\)TC' unfold them"):
        next(probes.capture(net, [x], layers="fc"))
    batch = next(probes.capture(net, [x], layers="fc", axes="fc=(BP)TC" if major else "fc=(PB)TC"))
    whole = outputs(net, x)["fc"].reshape(*((3, 16) if major else (16, 3)), 4, 5)
    np.testing.assert_allclose(batch.layers["fc"], whole.mean((1 if major else 0, 2)), rtol=1e-5, atol=1e-6)
    assert batch.info["fc"].source_dims[0] == ("sample*window" if major else "window*sample")
    assert (batch.info["fc"].axes_from, batch.info["fc"].source_shape) == ("given", (16, 4, 5))


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("fc=BHWC", "Axes 'BHWC' name 4 axes, but the output of 'fc' has 3"),
        ("fc=TBC", "put the samples on axis 1 of 'fc', whose size is 5 for 4 samples"),
        ("fc=TC(BP)", "put the samples on axis 2 of 'fc', whose size is 7, which is no multiple of 4"),
        ("fc=BXC", "write one letter an axis"),
        ("fc=TTC", "B, the samples, must be there, and no axis twice"),
        ("fc=(TC)B", "brackets stand for one axis that holds the samples"),
        ("fx=BTC", "No recorded layer of 'Sequential' matches 'fx', the pattern of axes."),
    ],
)
def test_axes_that_can_not_be_are_refused(axes: str, message: str) -> None:
    net = nn.Sequential()
    net.add_module("fc", nn.Linear(6, 7))
    with pytest.raises(probes.UsageError, match=re.escape(message)):
        next(probes.capture(net, [torch.randn(4, 5, 6)], axes=axes))


def test_axes_that_are_stated_have_the_last_word_in_files_too(tmp_path: Path) -> None:
    net, x = SequenceFirst(), torch.randn(5, 5, 6)
    store = probes.record(net, [x], tmp_path / "x.h5", layers=["fc", "act"], axes={"fc": "BTC"})
    np.testing.assert_allclose(store["fc"], outputs(net, x)["fc"].mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(store["act"], outputs(net, x)["act"].mean(0), rtol=1e-5, atol=1e-6)
    assert store.attrs["axes"] == "fc=BTC"
    assert [store.info[layer].axes_from for layer in store.layers] == ["given", "measured"]
    assert [store.info[layer].source_dims[0] for layer in store.layers] == ["sample", "token"]
    with pytest.raises(probes.UsageError, match="axes: 'fc=BTC' in the file, '' now"):
        probes.record(net, [x], tmp_path / "x.h5", layers=["fc", "act"], resume=True)


def test_measuring_leaves_no_trace() -> None:
    """Random state, buffers, attributes and mode are those of a run without measuring."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("sum", torch.zeros(()))
            self.fc, self.calls, self.cache = nn.Linear(3, 3), 0, None

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            self.sum += x.sum()
            self.cache = torch.arange(x.shape[1])
            return self.fc(x) + torch.rand(1)

    net, x = Counting().train(), torch.randn(4, 5, 3)
    state = torch.random.get_rng_state()
    batch = next(probes.capture(net, [x], layers="*"))
    torch.random.set_rng_state(state)
    with torch.no_grad():
        expected = Counting.forward(net, x).mean(1)
    np.testing.assert_allclose(batch.layers["model"], expected.numpy(), rtol=1e-6)
    assert (net.calls, net.training) == (2, True)
    torch.testing.assert_close(net.sum, 2 * x.sum())
    assert net.cache.shape == (5,)


def test_a_network_of_one_batch_size_is_recorded_as_far_as_its_modules_tell() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(6, 8), nn.GELU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.fc(x.view(4, 5, 6)) + 0)

    batch = next(probes.capture(Fixed(), [torch.randn(4, 5, 6)]))
    assert [batch.info[layer].axes_from for layer in ("fc", "act")] == ["weight", "guessed"]
    assert batch.layers["act"].shape == (4, 8)


def test_what_compares_samples_and_what_has_none_is_left_out_with_the_reason() -> None:
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
    assert "axes 0 and 1 both grow with the batch" in batch.left_out["pairs"]
    assert "no axis of it grows with the batch" in batch.left_out["none"], "8 rows for 8 samples, by chance"


def test_attach_learns_from_passes_of_other_batch_sizes() -> None:
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
    """Patches as tokens behind a class token: T = places + 1."""

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
def test_a_square_number_of_tokens_may_hold_a_class_token(shape: tuple[int, int], strict: bool, prefix: int | None) -> None:
    net = Tokens(strict=shape if strict else None)
    x = torch.randn(3, 3, *shape)
    batch = agree(
        net, x, {"proj": "BCHW", "embed": "BTC", "blocks.0": "BTC", "blocks.1": "BTC"}, found="", prefix_tokens=prefix
    )
    assert [batch.info[layer].prefix_tokens for layer in ("embed", "blocks.0", "blocks.1")] == [0, 1, 1]
    first = next(probes.capture(net, [x], pool="cls", layers="blocks.*", prefix_tokens=prefix))
    np.testing.assert_allclose(first.layers["blocks.1"], outputs(net, x)["blocks.1"][:, 0], rtol=1e-6)


def test_a_class_token_of_an_unknown_name_is_counted() -> None:
    net, x = Tokens(name="own"), torch.randn(3, 3, 8, 8)
    assert next(probes.capture(net, [x])).info["blocks.1"].prefix_tokens == 1


@pytest.mark.parametrize("tokens", [9, 16, 64, 256, 10])
def test_stated_prefix_tokens_are_never_overruled(tokens: int) -> None:
    net, x = nn.Sequential(nn.LayerNorm(4)), torch.randn(3, tokens, 4)
    batch = next(probes.capture(net, [x], prefix_tokens=1))
    np.testing.assert_allclose(batch.layers["0"], outputs(net, x)["0"][:, 1:].mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        next(probes.capture(net, [x], prefix_tokens=1, pool="cls")).layers["0"], outputs(net, x)["0"][:, 0], rtol=1e-6
    )


def test_each_tower_has_its_own_prefix_tokens() -> None:
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {"vocab_size": 30, "max_position_embeddings": 20, "eos_token_id": 29, "bos_token_id": 0}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=small | {"image_size": 8, "patch_size": 2}, projection_dim=4))
    inputs = {"pixel_values": torch.randn(3, 3, 8, 8), "input_ids": torch.randint(0, 30, (3, 17))}
    layers = ["vision_model.encoder.layers.0.layer_norm1", "text_model.encoder.layers.0.layer_norm1"]
    assert tower_tokens(model) == {"vision_model": 1}
    batch = agree(model, inputs, dict.fromkeys(layers, "BTC"), layers=layers, found="")
    assert [batch.info[layer].prefix_tokens for layer in layers] == [1, 0], "17 tokens in both"


class Text(nn.Module):
    """Token ids and a mask; every position sees itself and the unmasked mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.act, self.out = nn.Embedding(20, 6), nn.Linear(6, 7), nn.GELU(), nn.Linear(7, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        y = self.act(self.fc(self.embed(input_ids)))
        weight = attention_mask[..., None].float()
        return self.out((y * weight).sum(1) / weight.sum(1))


@pytest.mark.parametrize("pool", ["mean", "max", "mean_std"])
@pytest.mark.parametrize("left", [True, False])
def test_a_sentence_gives_the_same_row_alone_and_padded(pool: str, left: bool) -> None:
    net = Text()
    sentences = [torch.randint(1, 20, (length,)) for length in (3, 7, 5, 1)]
    ids, mask = torch.zeros(4, 7, dtype=torch.long), torch.zeros(4, 7, dtype=torch.long)
    for row, sentence in enumerate(sentences):
        where = slice(7 - len(sentence), None) if left else slice(len(sentence))
        ids[row, where], mask[row, where] = sentence, 1
    batch = next(probes.capture(net, [{"input_ids": ids, "attention_mask": mask}], pool=pool))
    assert {batch.info[layer].padding for layer in ("embed", "fc", "act")} == {"excluded"}
    for row, sentence in enumerate(sentences):
        alone = next(
            probes.capture(net, [{"input_ids": sentence[None], "attention_mask": torch.ones(1, len(sentence))}], pool=pool)
        )
        for layer in batch.layers:
            np.testing.assert_allclose(batch.layers[layer][row], alone.layers[layer][0], rtol=1e-5, atol=1e-6, err_msg=layer)


def test_padding_that_is_not_left_out_is_said(tmp_path: Path) -> None:
    class Strided(Text):
        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.out(self.act(self.fc(self.embed(input_ids)))[:, ::2])

    inputs = {"input_ids": torch.ones(3, 8, dtype=torch.long), "attention_mask": torch.ones(3, 8, dtype=torch.long)}
    store = probes.record(Strided(), [inputs], tmp_path / "x.h5", pool=["embed=none", "mean"])
    assert store.info["embed"].padding == "included: none keeps positions apart"
    assert store.info["act"].padding == "excluded"
    assert store.info["out"].padding == "included: it is not known that its 4 positions are the 8 of the mask"


@pytest.mark.filterwarnings("ignore:.*nested tensors.*")
def test_nested_tensors_of_the_fast_path_give_the_rows_of_the_slow_one() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    fast, slow = nn.TransformerEncoder(layer, 2), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    slow.load_state_dict(fast.state_dict())
    lengths = torch.tensor([2, 5, 4])
    inputs = {"src": torch.randn(3, 5, 8), "src_key_padding_mask": torch.arange(5) >= lengths[:, None]}
    layers = ["layers.0.norm1", "layers.1.linear1", "layers.1.norm2", "layers.1", "model"]
    nested, plain = (next(probes.capture(net, [inputs], layers=layers)) for net in (fast, slow))
    for name in layers:
        np.testing.assert_allclose(nested.layers[name], plain.layers[name], rtol=1e-5, atol=1e-6, err_msg=name)
        assert nested.info[name].padding == "excluded"
    for row, length in enumerate(lengths):
        alone = next(probes.capture(slow, [{"src": inputs["src"][row : row + 1, :length]}], layers=layers))
        np.testing.assert_allclose(nested.layers["layers.1"][row], alone.layers["layers.1"][0], rtol=1e-4, atol=1e-5)


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


def test_letters_of_axes_round_trip() -> None:
    for letters in ("TBC", "BCHW", "(BP)TC", "(PB)TC", "BATK", "LBC", "T(BA)C"):
        stated = AxisRules(letters).of("x", [])
        assert stated is not None
        assert letters_of(stated.source_dims) == letters

"""Which axis is which: every row that is kept is plain numpy pooling of a hand-written hook's output, under axes written down here."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from probes.axes import AxisInference, Layout, tower_tokens


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
        (None, 1, 0),
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

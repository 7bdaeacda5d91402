"""Selection among the calls of a network, axes of outputs, wrappers."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from probes import UsageError
from probes.layers import Axes, Selection, prefix_tokens_of, types_of, unwrap


def test_default_wants_leaf_calls_only() -> None:
    selection = Selection()
    assert selection.wants("x", ["ReLU"], leaf=True)
    assert not selection.wants("x", ["Sequential"], leaf=False)


def test_types_match_base_classes() -> None:
    class MyConv(nn.Conv2d):
        pass

    assert Selection("type:Conv2d").wants("x", types_of(MyConv(1, 1, 1)), leaf=True)
    assert not Selection("type:Module").wants("x", types_of(MyConv(1, 1, 1)), leaf=True)


def test_a_module_that_never_runs_is_told_from_one_that_is_not_there() -> None:
    net = nn.Sequential(nn.Linear(1, 1))
    net.spare = nn.Linear(1, 1)
    with pytest.raises(UsageError, match="matches 'spare', but the forward pass of 'Sequential' never calls that module"):
        Selection("spare").check(net, {"0": "Linear"})
    with pytest.raises(UsageError, match="No layer of 'Sequential' matches 'nix'"):
        Selection("nix").check(net, {"0": "Linear"})


@pytest.mark.parametrize(
    ("module", "shape", "expected"),
    [
        (nn.Conv2d(1, 1, 1), (1, 4, 5, 6), ("channel", "height", "width")),
        (nn.Conv1d(1, 1, 1), (1, 4, 5), ("channel", "width")),
        (nn.Linear(1, 1), (1, 4, 5), ("token", "channel")),
        (nn.LayerNorm(6), (1, 4, 5, 6), ("height", "width", "channel")),
        (nn.Identity(), (1, 4, 5), ("token", "channel")),
        (nn.GELU(), (1, 4, 5, 6), ("channel", "height", "width")),
        (nn.Conv3d(1, 1, 1), (1, 2, 3, 4, 5), ("channel", "time", "height", "width")),
        (nn.ReLU(), (1, 4), ("channel",)),
        (nn.ReLU(), (1, 2, 3, 4, 5, 6), ("channel", "axis2", "axis3", "axis4", "axis5")),
    ],
)
def test_axes_by_kind(module: nn.Module, shape: tuple[int, ...], expected: tuple[str, ...]) -> None:
    assert Axes().layout(module, torch.zeros(shape)).dims == ("sample", *expected)


def test_an_element_wise_module_inherits_the_axes_of_its_shape() -> None:
    axes = Axes()
    axes.layout(nn.LayerNorm(6), torch.zeros(1, 4, 5, 6))
    assert axes.layout(nn.GELU(), torch.zeros(9, 4, 5, 6)).dims == ("sample", "height", "width", "channel")
    assert axes.layout(nn.GELU(), torch.zeros(9, 6, 5, 4)).dims == ("sample", "channel", "height", "width")


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
    axes = Axes(prefix=1)
    if seen:
        axes.layout(nn.Identity(), torch.zeros(seen))
    assert axes.layout(nn.LayerNorm(8), torch.zeros(9, tokens, 8)).prefix == prefix
    assert Axes().layout(nn.LayerNorm(8), torch.zeros(9, tokens, 8)).prefix == 0


def test_heads_of_attention_are_no_map() -> None:
    axes = Axes(prefix=1)
    axes.layout(nn.LayerNorm(12), torch.zeros(2, 17, 12))
    layout = axes.layout(nn.Identity(), torch.zeros(2, 3, 17, 4))
    assert (layout.dims, layout.prefix) == (("sample", "head", "token", "channel"), 1)


def test_prefix_tokens_of_known_transformers() -> None:
    from timm import create_model

    for name, expected in (("vit_tiny_patch16_224", 1), ("vit_small_patch16_dinov3", 5), ("resnet18", 0)):
        assert prefix_tokens_of(create_model(name)) == expected


def test_wrappers_are_looked_through_and_scripts_refused() -> None:
    net = nn.Sequential(nn.Linear(1, 1))
    assert unwrap(nn.DataParallel(torch.compile(net))) is net  # type: ignore[arg-type]  # compile returns a callable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch deprecate scripts
        scripted = torch.jit.script(net)
    with pytest.raises(UsageError, match="scripted"):
        unwrap(scripted)

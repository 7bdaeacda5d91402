"""Selection among the calls of a network, axes of outputs, wrappers."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from probes import UsageError
from probes.layers import Selection, axes, unwrap


def test_default_wants_leaf_calls_only() -> None:
    selection = Selection()
    assert selection.wants("x", nn.ReLU(), leaf=True)
    assert not selection.wants("x", nn.Sequential(), leaf=False)


def test_types_match_base_classes() -> None:
    class MyConv(nn.Conv2d):
        pass

    assert Selection("type:Conv2d").wants("x", MyConv(1, 1, 1), leaf=True)
    assert not Selection("type:Module").wants("x", MyConv(1, 1, 1), leaf=True)


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
    assert axes(module, torch.zeros(shape), {}) == ("sample", *expected)


def test_an_element_wise_module_inherits_the_axes_of_its_shape() -> None:
    known: dict[tuple[int, ...], tuple[str, ...]] = {}
    axes(nn.LayerNorm(6), torch.zeros(1, 4, 5, 6), known)
    assert axes(nn.GELU(), torch.zeros(9, 4, 5, 6), known) == ("sample", "height", "width", "channel")
    assert axes(nn.GELU(), torch.zeros(9, 6, 5, 4), known) == ("sample", "channel", "height", "width")


def test_wrappers_are_looked_through_and_scripts_refused() -> None:
    net = nn.Sequential(nn.Linear(1, 1))
    assert unwrap(nn.DataParallel(torch.compile(net))) is net  # type: ignore[arg-type]  # compile returns a callable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch deprecate scripts
        scripted = torch.jit.script(net)
    with pytest.raises(UsageError, match="scripted"):
        unwrap(scripted)

"""Selection among the calls of a network, and wrapped networks."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from probes import UsageError
from probes.capturing.network import unwrap
from probes.capturing.selection import Selection, types_of


def test_by_default_only_leaf_calls_are_selected() -> None:
    selection = Selection()
    assert selection.includes("x", ["ReLU"], leaf=True)
    assert not selection.includes("x", ["Sequential"], leaf=False)


def test_types_match_base_classes() -> None:
    class MyConv(nn.Conv2d):
        pass

    assert Selection("type:Conv2d").includes("x", types_of(MyConv(1, 1, 1)), leaf=True)
    assert not Selection("type:Module").includes("x", types_of(MyConv(1, 1, 1)), leaf=True)


def test_modules_that_never_run_are_distinguished_from_unknown_names() -> None:
    net = nn.Sequential(nn.Linear(1, 1))
    net.spare = nn.Linear(1, 1)
    with pytest.raises(UsageError, match="matches 'spare', but the forward pass of 'Sequential' never calls that module"):
        Selection("spare").check(net, {"0": "Linear"})
    with pytest.raises(UsageError, match="No layer of 'Sequential' matches 'nix'"):
        Selection("nix").check(net, {"0": "Linear"})


def test_wrapped_networks_are_unwrapped_and_scripts_refused() -> None:
    net = nn.Sequential(nn.Linear(1, 1))
    assert unwrap(nn.DataParallel(torch.compile(net))) is net  # type: ignore[arg-type]  # compile returns a callable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch deprecate scripts
        scripted = torch.jit.script(net)
    with pytest.raises(UsageError, match="scripted"):
        unwrap(scripted)


def test_exclusions_alone_select_the_other_leaf_calls() -> None:
    selection = Selection("!relu*")
    assert selection.includes("conv", ["Conv2d"], leaf=True)
    assert not selection.includes("block", ["Sequential"], leaf=False)  # not a leaf: not selected by default
    assert not selection.includes("relu1", ["ReLU"], leaf=True)
    selection_of_both = Selection(["block*", "!block.relu"])
    assert selection_of_both.includes("block", ["Sequential"], leaf=False)
    assert not selection_of_both.includes("block.relu", ["ReLU"], leaf=True)
    assert not selection_of_both.includes("conv", ["Conv2d"], leaf=True)


def test_excluding_a_module_that_never_runs_is_allowed_but_a_typo_is_refused() -> None:
    net = nn.Sequential(nn.Linear(1, 1))
    net.spare = nn.Linear(1, 1)
    Selection("!spare").check(net, {"0": "Linear"})
    with pytest.raises(UsageError, match="No layer of 'Sequential' matches '!nix'"):
        Selection("!nix").check(net, {"0": "Linear"})

"""Weights in every common wrapping fit, and nothing in their file runs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from probes import UsageError
from repanalysis.weights import load_weights


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("prefixes", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module."])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict"])
def test_prefixes_and_wrappings_are_taken_off(tmp_path: Path, prefixes: str, key: str | None) -> None:
    theirs, ours = net(), net()
    state = {prefixes + name: value for name, value in theirs.state_dict().items()}
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "w.pt")
    load_weights(ours, tmp_path / "w.pt")
    assert all(torch.equal(a, b) for a, b in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True))


def test_a_networks_own_prefix_stays(tmp_path: Path) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = net()

    theirs, ours = Outer(), Outer()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    load_weights(ours, tmp_path / "w.pt")
    assert torch.equal(theirs.model[0].weight, ours.model[0].weight)


def test_code_in_a_file_does_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "w.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"w": Evil()}, tmp_path / "z.pt")
    for name in ("w.pt", "z.pt"):
        with pytest.raises(UsageError, match="can't be read as weights"):
            load_weights(net(), tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_what_does_not_fit_is_listed(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(2, 5), "new": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(
        UsageError, match=r"5 missing: 0.bias, .*1 unknown: new; 1 of another shape: 0.weight \(2, 5\) for \(2, 3\)"
    ):
        load_weights(net(), tmp_path / "w.pt")
    with pytest.raises(FileNotFoundError):
        load_weights(net(), tmp_path / "none.pt")

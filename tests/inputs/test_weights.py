"""Weights are read from every common wrapper, and no code in their file is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from probes import UsageError
from repanalysis.inputs.weights import load_weights


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("prefixes", ["", "module.", "_orig_mod.", "model.", "module._orig_mod.", "model.module."])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict"])
def test_prefixes_and_wrappers_are_removed(tmp_path: Path, prefixes: str, key: str | None) -> None:
    trained, model = net(), net()
    state = {prefixes + name: value for name, value in trained.state_dict().items()}
    torch.save(state if key is None else {key: state, "epoch": 3}, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(a, b) for a, b in zip(trained.state_dict().values(), model.state_dict().values(), strict=True))


def test_a_prefix_of_the_network_itself_is_kept(tmp_path: Path) -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = net()

    trained, model = Outer(), Outer()
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")
    assert torch.equal(trained.model[0].weight, model.model[0].weight)


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


class Calls:
    """Calls a function when it is loaded."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.function, self.arguments


def test_a_refusal_describes_the_file_without_advice_to_load_it(tmp_path: Path) -> None:
    """Regression: the message of torch was quoted, which says how to run the code in the file."""
    contents: dict[str, object] = {
        "code": {"w": Calls(Path.touch, tmp_path / "ran")},
        "module": nn.Linear(1, 1),
        "plain": pickle.dumps(Calls(Path.touch, tmp_path / "ran")),
        "empty": b"",
        "text": b"hello",
        "cut": None,
    }
    for name, content in contents.items():
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content is not None:
            torch.save(content, tmp_path / name)
    (tmp_path / "cut").write_bytes((tmp_path / "module").read_bytes()[:500])
    torch.save(contents["code"], tmp_path / "old", _use_new_zipfile_serialization=False)
    refused = {}
    for path in tmp_path.iterdir():
        with pytest.raises(UsageError) as caught:
            load_weights(net(), path)
        refused[path.name] = str(caught.value)
        for advice in ("weights_only", "safe_globals", "trust", "load it"):
            assert advice not in refused[path.name]
        assert str(path) in refused[path.name]
    assert "it holds torch.nn.modules.linear.Linear, which is not run" in refused["module"]
    assert "it is not a torch file, or a damaged one" in refused["text"]
    assert not (tmp_path / "ran").exists()


def test_mismatched_weights_are_listed(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(2, 5), "new": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(
        UsageError, match=r"5 missing: 0.bias, .*1 unknown: new; 1 of another shape: 0.weight \(2, 5\) for \(2, 3\)"
    ):
        load_weights(net(), tmp_path / "w.pt")
    with pytest.raises(FileNotFoundError):
        load_weights(net(), tmp_path / "none.pt")

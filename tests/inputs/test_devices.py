"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from probes import UsageError
from repanalysis.inputs.devices import device_of


def test_the_default_is_the_best_available_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device_of() == device_of("cpu") == "cpu"


@pytest.mark.parametrize("name", ["nope", "cuda:99", "cuda:x", "meta", "mkldnn", "privateuseone", "CPU", "cpu,cuda"])
def test_an_unusable_device_has_a_one_sentence_error(name: str) -> None:
    with pytest.raises(UsageError, match=f"There is no device '{name}' on this machine; it has cpu"):
        device_of(name)

"""record: what stands in the file, what is left when something fails, and going on from there."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import probes
from tests.probes.test_capturing import loader, net


def test_record_gives_back_the_file_for_reading(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "deep" / "acts.h5"
    store = probes.record(model, loader(), path, pool="max", split="val", class_names=["a", "b", "c"], attrs={"seed": 3})
    assert len(store) == 20
    assert store.layers == ["0", "1", "2", "3"]
    assert store.attrs["model"] == "Sequential"
    assert store.attrs["seed"] == 3
    assert store.class_names == ["a", "b", "c"]
    captured = np.concatenate([batch.layers["1"] for batch in probes.capture(model, loader(), pool="max")])
    np.testing.assert_array_equal(store["1"], captured)


def test_an_existing_file_is_refused_before_the_model_runs(tmp_path: Path) -> None:
    path = tmp_path / "acts.h5"
    path.write_text("precious")
    with pytest.raises(probes.UsageError, match="exists already; nothing was written"):
        probes.record(net(), (pytest.fail("the model ran") for _ in range(1)), path)
    assert path.read_text() == "precious"


def test_overwriting_waits_until_the_first_step_has_run(tmp_path: Path) -> None:
    path = tmp_path / "acts.h5"
    path.write_text("precious")
    with pytest.raises(RuntimeError):
        probes.record(net(), [torch.zeros(2, 5, 8, 8)], path, overwrite=True)
    assert path.read_text() == "precious"
    assert len(probes.record(net(), loader(), path, overwrite=True)) == 20


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_was_recorded_before_a_failure_stays_readable(tmp_path: Path, error: type[BaseException]) -> None:
    model, path = net(), tmp_path / "acts.h5"

    def steps() -> object:
        yield torch.ones(4, 1, 8, 8)
        yield torch.ones(4, 1, 8, 8)
        raise error("stop")

    with pytest.raises(error) as caught:
        probes.record(model, steps(), path)  # type: ignore[arg-type]  # an iterator is an iterable
    (note,) = caught.value.__notes__
    assert note.startswith(f"8 samples are whole in {path}; go on with resume=True (--resume), or read them with probes.open(")
    with pytest.raises(probes.IncompleteError, match="its writing stopped after 8 samples"):
        probes.open(path)
    store = probes.open(path, partial=True)
    assert len(store) == 8
    assert len(store["3"]) == 8


def test_a_layer_whose_shape_varies_is_taken_out_with_the_reason(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1))
    steps = [torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 9, 9), torch.zeros(2, 1, 8, 8)]
    with pytest.warns(probes.LeftOutWarning, match=r"its shape is \(3, 7, 7\) from sample 2 on, and was \(3, 6, 6\) before"):
        store = probes.record(model, steps, tmp_path / "acts.h5", pool="none")
    assert store.layers == ["1"]
    assert store["1"].shape == (6, 3, 1, 1)
    assert "pool it (mean, max)" in store.left_out["0"]
    with pytest.raises(probes.DataError, match="No layer of Sequential can be recorded"):
        probes.record(nn.Sequential(nn.Conv2d(1, 3, 3)), steps, tmp_path / "none.h5", pool="none")


def test_an_empty_loader_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(probes.DataError, match="The loader gave no batch"):
        probes.record(net(), [], tmp_path / "acts.h5")
    assert not list(tmp_path.iterdir())


def test_no_progress_bar_in_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    probes.record(net(), loader(), tmp_path / "a.h5")
    assert log.getvalue() == ""
    probes.record(net(), loader(), tmp_path / "b.h5", progress=True)
    assert "20/20" in log.getvalue()

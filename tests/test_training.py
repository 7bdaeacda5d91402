"""Training: it learns, resumes to the same end, keeps frames tight, and its checkpoints go through extract and analyze."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from probes.errors import DataError, UsageError
from repanalysis.models import load_model
from repanalysis.training import Recipe, train

MODEL = "scattering:variant=SC,J=2,L=4,width=8,redundancy=2,size=8,colours=1"
RECIPE = Recipe(epochs=3, batch_size=32, rate=0.1, schedule="cosine", augment=True)


def trained(folder: Path, recipe: Recipe = RECIPE, **options: object) -> object:
    given = {"split": "train", "test_split": "test", "device": "cpu", "progress": False} | options
    return train(MODEL, "digits", folder, recipe, **given)  # type: ignore[arg-type]


def test_it_learns_and_frames_stay_tight(tmp_path: Path) -> None:
    log = trained(tmp_path, replace(RECIPE, augment=False))
    assert log["test_accuracy"].iloc[-1] > 0.85  # type: ignore[index]
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]  # type: ignore[index]
    assert (log["frame_deviation"] < 1e-5).all()  # type: ignore[index]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"epoch-{epoch:03d}.safetensors" for epoch in range(4)), "last.safetensors", "log.csv", "run.json",
    ]  # fmt: skip


def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(tmp_path / "whole")
    real, calls = torch.optim.SGD.step, []

    def failing(*given: object) -> object:
        calls.append(1)
        if len(calls) == 40:  # in the second of three epochs of 28 steps
            raise KeyboardInterrupt
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.SGD, "step", failing)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped")
    monkeypatch.undo()
    with pytest.raises(UsageError, match="holds a training run already; --resume goes on with it"):
        trained(tmp_path / "stopped")
    again = trained(tmp_path / "stopped", resume=True)
    columns = ["epoch", "loss", "train_accuracy", "test_accuracy"]
    np.testing.assert_allclose(again[columns], whole[columns], rtol=1e-12)  # type: ignore[index]
    for name, value in load_file(tmp_path / "whole" / "epoch-003.safetensors").items():
        torch.testing.assert_close(load_file(tmp_path / "stopped" / "epoch-003.safetensors")[name], value, rtol=0, atol=0)
    once_more = trained(tmp_path / "stopped", resume=True)
    np.testing.assert_allclose(once_more[columns], again[columns], rtol=1e-12)  # type: ignore[index]


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    trained(tmp_path, Recipe(epochs=1, batch_size=32))
    with pytest.raises(UsageError, match=r"holds another run \(epochs was 1, not 2\)"):
        trained(tmp_path, Recipe(epochs=2, batch_size=32), resume=True)


def test_training_that_was_stopped_before_its_first_epoch_begins_anew(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batches of 1"):
        Recipe(batch_size=1)
    with pytest.raises(DataError, match="do not fill a batch of 5000"):
        trained(tmp_path, Recipe(epochs=1, batch_size=5000))
    with pytest.raises(UsageError, match="another run"):
        trained(tmp_path, Recipe(epochs=1, batch_size=32), resume=True)


def test_what_has_no_labels_or_diverges_is_one_sentence(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((64, 1, 8, 8), np.float32))
    with pytest.raises(DataError, match="has no labels to train on"):
        train(MODEL, f"npz:{tmp_path / 'x.npz'}", tmp_path / "a", RECIPE, progress=False)
    with pytest.raises(DataError, match="the rate 1e\\+30 is too large"):
        trained(tmp_path / "b", Recipe(epochs=1, batch_size=32, rate=1e30))


def test_checkpoints_of_another_architecture_are_refused_with_the_reason(tmp_path: Path) -> None:
    trained(tmp_path, Recipe(epochs=1, batch_size=32))
    load_model(MODEL, weights=tmp_path / "epoch-001.safetensors")
    with pytest.raises(UsageError, match="do not fit Sequential"):
        load_model(MODEL.replace("width=8", "width=6"), weights=tmp_path / "epoch-001.safetensors")


def test_the_rate_falls_in_steps_or_as_a_cosine() -> None:
    cosine = Recipe(rate=0.2, schedule="cosine")
    assert [round(cosine.rate_at(share), 6) for share in (0, 0.5, 1)] == [0.2, 0.1, 0.0]
    with pytest.raises(UsageError, match="Unknown schedule 'step'. Did you mean 'steps'"):
        Recipe(schedule="step")


SCALES = "scale-detection:task=2,pixels=32,scale=8"
NET = "scale-net:blocks=5,width=2,stride=2,channels=64"
FITTED = Recipe(
    epochs=80, batch_size=8, rate=0.64, schedule="constant", loss="hinge", momentum=0.0, decay=0.0, until_fitted=True
)


def test_scale_detection_is_trained_to_zero_loss_and_then_deformations_fade(tmp_path: Path) -> None:
    """The mechanism of the paper: at random weights neither curve goes anywhere; after training D_k falls and G_k rises."""
    from repanalysis.stability_runs import stability_runs

    log = train(NET, SCALES, tmp_path / "run", FITTED, split="train", test_split="test", progress=False)
    assert len(log) < 80
    assert log["loss"].iloc[-1] == 0
    assert log["test_accuracy"].iloc[-1] > 0.9
    again = train(NET, SCALES, tmp_path / "run", FITTED, split="train", test_split="test", resume=True, progress=False)
    assert len(again) == len(log)
    files = [tmp_path / "run" / f"epoch-{epoch:03d}.safetensors" for epoch in (0, len(log))]
    perturb = ["moves:block=8", "noise:sigma=1.3,rectified=true"]
    table = stability_runs(NET, SCALES, perturb, weights=files, limit=None, progress=False)
    first, last = table.provenance
    curves = {
        (run, label): rows["value"].to_numpy()
        for (run, label), rows in table.select(metric="sensitivity", variant="").frame.groupby(["run", "perturbation"])
    }
    moved, noise = "moves:block=8", "noise:sigma,rectified=True"
    assert curves[last, moved][5] < 0.5 * curves[first, moved][5]
    assert curves[last, moved][5] < 0.6 * curves[last, moved][1]
    assert curves[last, noise][5] > 1.5 * curves[last, noise][1]


def test_noise_is_added_to_training_images_alone_and_seeded(tmp_path: Path) -> None:
    model, options = "py:repanalysis.networks.digits_cnn:digits_cnn", {"split": "train", "limit": 200, "progress": False}
    recipes = [Recipe(1, 50, 0.05, noise=noise) for noise in (0.0, 3.0, 3.0)]
    logs = [train(model, "digits", tmp_path / str(i), one, **options) for i, one in enumerate(recipes)]  # type: ignore[arg-type]
    losses = [float(log["loss"].iloc[0]) for log in logs]
    assert losses[1] == losses[2] != losses[0]


def test_the_hinge_loss_needs_a_single_score(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one score per image"):
        train("py:repanalysis.networks.digits_cnn:digits_cnn", "digits", tmp_path / "x", Recipe(1, 50, loss="hinge"), limit=100)
    with pytest.raises(UsageError, match="Did you mean 'hinge'"):
        Recipe(loss="hing")


def test_a_transformer_is_trained_by_adamw_and_goes_on_to_the_same_end(tmp_path: Path) -> None:
    model, recipe = "small:vit,width=8,colours=1,size=8", Recipe(4, 32, 3e-3, "constant", decay=0.05, optimizer="adamw")
    options = {"split": "train", "test_split": "test", "device": "cpu", "progress": False}
    whole = train(model, "digits", tmp_path / "whole", recipe, **options)  # type: ignore[arg-type]
    assert whole["test_accuracy"].iloc[-1] > 2 * whole["test_accuracy"].iloc[0]
    real, calls = torch.optim.AdamW.step, []

    def failing(*given: object) -> object:
        calls.append(1)
        if len(calls) == 70:  # in the third of four epochs of 28 steps
            raise KeyboardInterrupt
        return real(*given)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", failing)
        train(model, "digits", tmp_path / "stopped", recipe, **options)  # type: ignore[arg-type]
    train(model, "digits", tmp_path / "stopped", recipe, resume=True, **options)  # type: ignore[arg-type]
    once, again = (load_file(tmp_path / name / "epoch-004.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(once[name], again[name]) for name in once)
    with pytest.raises(UsageError, match="Unknown optimizer 'adam'. Did you mean 'adamw'"):
        Recipe(optimizer="adam")

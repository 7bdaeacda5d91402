"""Training: it learns, resumes to the same result, keeps frames tight, and its checkpoints can be extracted and analysed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from probes.atomic_files import locked
from probes.errors import DataError, UsageError
from repanalysis.inputs.models import load_model
from repanalysis.training import runs as training
from repanalysis.training.runs import TrainConfig, train

MODEL = "scattering:variant=SC,J=2,L=4,width=8,redundancy=2,size=8,colours=1"
RECIPE = TrainConfig(epochs=3, batch_size=32, lr=0.1, schedule="cosine", augment=True)


def trained(folder: Path, config: TrainConfig = RECIPE, **options: object) -> object:
    arguments = {"split": "train", "test_split": "test", "device": "cpu", "progress": False} | options
    return train(MODEL, "digits", folder, config, **arguments)  # type: ignore[arg-type]


def test_training_reduces_the_loss_and_keeps_frames_tight(tmp_path: Path) -> None:
    log = trained(tmp_path, replace(RECIPE, augment=False))
    assert log["test_accuracy"].iloc[-1] > 0.85  # type: ignore[index]
    assert log["loss"].iloc[-1] < log["loss"].iloc[0]  # type: ignore[index]
    assert (log["frame_deviation"] < 1e-5).all()  # type: ignore[index]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"epoch-{epoch:03d}.safetensors" for epoch in range(4)), "last.safetensors", "log.csv", "run.json",
    ]  # fmt: skip


def test_a_stopped_run_resumes_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = trained(tmp_path / "whole")
    real, calls = torch.optim.SGD.step, []

    def failing(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 40:  # in the second of three epochs of 28 steps
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.SGD, "step", failing)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped")
    monkeypatch.undo()
    with pytest.raises(UsageError, match="already holds a training run; continue it with --resume"):
        trained(tmp_path / "stopped")
    resumed = trained(tmp_path / "stopped", resume=True)
    columns = ["epoch", "loss", "train_accuracy", "test_accuracy"]
    np.testing.assert_allclose(resumed[columns], expected[columns], rtol=1e-12)  # type: ignore[index]
    for name, value in load_file(tmp_path / "whole" / "epoch-003.safetensors").items():
        torch.testing.assert_close(load_file(tmp_path / "stopped" / "epoch-003.safetensors")[name], value, rtol=0, atol=0)
    once_more = trained(tmp_path / "stopped", resume=True)
    np.testing.assert_allclose(once_more[columns], resumed[columns], rtol=1e-12)  # type: ignore[index]


def test_a_different_run_is_not_resumed(tmp_path: Path) -> None:
    trained(tmp_path, TrainConfig(epochs=1, batch_size=32))
    with pytest.raises(UsageError, match=r"holds another run \(epochs was 1, not 2\)"):
        trained(tmp_path, TrainConfig(epochs=2, batch_size=32), resume=True)


TINY = "small:mlp,width=2,colours=1,size=8"


def tiny(folder: Path, config: TrainConfig | None = None, **options: Any) -> pd.DataFrame:
    arguments = {
        "split": "train",
        "test_split": "test",
        "limit": 64,
        "device": "cpu",
        "progress": False,
        "model": TINY,
    } | options
    return train(
        arguments.pop("model"), arguments.pop("data", "digits"), folder, config or TrainConfig(2, 32, 0.1), **arguments
    )


def state(folder: Path) -> dict[str, Any]:
    """All output of a run except timings."""
    output: dict[str, Any] = {}
    for path in folder.iterdir():
        if path.suffix == ".safetensors":
            output[path.name] = {name: value.tolist() for name, value in load_file(path).items()}
        elif path.name == "log.csv":
            output[path.name] = pd.read_csv(path).drop(columns="seconds").to_csv()
        else:
            output[path.name] = path.read_bytes()
    return output


def test_a_failed_training_does_not_block_the_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="batches of 1"):
        TrainConfig(batch_size=1)
    with pytest.raises(DataError, match="do not fill a batch of 5000"):
        tiny(tmp_path / "run", TrainConfig(1, 5000))
    with pytest.raises(UsageError, match="Did you mean"):
        tiny(tmp_path / "run", model="small:mpl,width=2")
    with pytest.raises((UsageError, FileNotFoundError), match="nowhere"):
        tiny(tmp_path / "run", data=f"npz:{tmp_path / 'nowhere.npz'}")
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="is too large"):
        tiny(tmp_path / "run", TrainConfig(2, 32, 1e30))
    tiny(tmp_path / "run")
    tiny(tmp_path / "direct")
    assert state(tmp_path / "run") == state(tmp_path / "direct")


def test_options_that_affect_the_result_must_match(tmp_path: Path) -> None:
    log = tiny(tmp_path)
    before = state(tmp_path)
    changes: list[dict[str, Any]] = [
        {"split": "test"}, {"test_split": "train"}, {"test_split": None}, {"limit": 65}, {"weights": None},
        {"model": "small:mlp,width=3,colours=1,size=8"},
        {"test": "gaussians:K=10,d=64"}, {"config": TrainConfig(2, 32, 0.1, noise=1.0)},
        {"config": TrainConfig(2, 32, 0.1, seed=1)}, {"config": TrainConfig(2, 16, 0.1)}, {"config": TrainConfig(3, 32, 0.1)},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(UsageError, match="holds another run"):
            tiny(tmp_path, resume=True, **change)
    assert state(tmp_path) == before
    resumed = tiny(tmp_path, resume=True, save_every=1, device=None)  # these are free
    pd.testing.assert_frame_equal(resumed, log, check_exact=True)


def test_a_data_set_that_has_grown_is_a_different_run(tmp_path: Path) -> None:
    x, y = np.zeros((70, 1, 8, 8), np.float32), np.arange(70) % 10
    np.savez(tmp_path / "d.npz", x=x[:64], y=y[:64])
    options: dict[str, Any] = {"data": f"npz:{tmp_path / 'd.npz'}", "split": None, "test_split": None, "limit": None}
    tiny(tmp_path / "run", **options)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    with pytest.raises(UsageError, match="images was 64, not 70"):
        tiny(tmp_path / "run", resume=True, **options)


@pytest.mark.parametrize("damage", [b"", b"epoch,lr\n1,0.", None])
def test_readable_files_are_regenerated_from_the_checkpoint(tmp_path: Path, damage: bytes | None) -> None:
    """Regression: a truncated log gave a false loss, an empty log lost the run, an empty run.json blocked every command."""
    log = tiny(tmp_path)
    before = state(tmp_path)
    for name in ("log.csv", "run.json", "epoch-002.safetensors"):
        if damage is None:
            (tmp_path / name).unlink()
        else:
            (tmp_path / name).write_bytes(damage)
    with pytest.raises(UsageError, match="already holds a training run; continue it with --resume"):
        tiny(tmp_path)
    pd.testing.assert_frame_equal(tiny(tmp_path, resume=True), log, check_exact=True)
    assert state(tmp_path) == before


def test_a_checkpoint_that_can_not_be_resumed_has_a_one_sentence_error(tmp_path: Path) -> None:
    tiny(tmp_path)
    last = tmp_path / "last.safetensors"
    content = last.read_bytes()
    for damaged in (b"", content[:-1], content[: len(content) // 2]):
        last.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"last\.safetensors can't be read .* Train anew in another folder"):
            tiny(tmp_path, resume=True)
    save_file(load_file(tmp_path / "epoch-002.safetensors"), last, {"model": TINY, "epoch": "2"})
    with pytest.raises(UsageError, match="an earlier version wrote it"):
        tiny(tmp_path, resume=True)
    last.unlink()
    for resume in (False, True):
        with pytest.raises(UsageError, match=r"holds weights, but no last\.safetensors"):
            tiny(tmp_path, resume=resume)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file can't be written: .*file is not a folder"):
        tiny(tmp_path / "file")


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(UsageError, match="is being written by another process"):
        tiny(tmp_path)
    assert not list(tmp_path.iterdir())


def dropping() -> nn.Module:
    """A network with dropout."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(0.5), nn.Linear(16, 10))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_networks_with_dropout_resume_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    options: dict[str, Any] = {
        "model": "py:tests.training.test_runs:dropping",
        "config": TrainConfig(3, 16, 0.01, optimizer=optimizer),
    }
    tiny(tmp_path / "whole", **options)
    real, calls = training.train_epoch, []

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            torch.rand(7)  # other random draws
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(training, "train_epoch", stopping)
    with pytest.raises(KeyboardInterrupt) as error:
        tiny(tmp_path / "stopped", **options)
    assert error.value.__notes__ == [f"{tmp_path / 'stopped'} holds 1 of 3 epochs; --resume continues from there"]
    torch.rand(3)
    tiny(tmp_path / "stopped", resume=True, **options)
    assert state(tmp_path / "stopped") == state(tmp_path / "whole")


def test_missing_labels_and_divergence_have_one_sentence_errors(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros((64, 1, 8, 8), np.float32))
    with pytest.raises(DataError, match="has no labels; training needs them"):
        train(MODEL, f"npz:{tmp_path / 'x.npz'}", tmp_path / "a", RECIPE, progress=False)
    with pytest.raises(DataError, match="the learning rate 1e\\+30 is too large"):
        trained(tmp_path / "b", TrainConfig(epochs=1, batch_size=32, lr=1e30))


def test_checkpoints_of_a_different_architecture_are_refused_with_the_reason(tmp_path: Path) -> None:
    trained(tmp_path, TrainConfig(epochs=1, batch_size=32))
    load_model(MODEL, weights=tmp_path / "epoch-001.safetensors")
    with pytest.raises(UsageError, match="do not fit Sequential"):
        load_model(MODEL.replace("width=8", "width=6"), weights=tmp_path / "epoch-001.safetensors")


def test_the_learning_rate_decays_in_steps_or_as_a_cosine() -> None:
    cosine = TrainConfig(lr=0.2, schedule="cosine")
    assert [round(cosine.lr_at(share), 6) for share in (0, 0.5, 1)] == [0.2, 0.1, 0.0]
    with pytest.raises(UsageError, match="Unknown schedule 'step'. Did you mean 'steps'"):
        TrainConfig(schedule="step")


SCALES = "scale-detection:task=2,pixels=32,scale=8"
NET = "scale-net:blocks=5,width=2,stride=2,channels=64"
FITTED = TrainConfig(
    epochs=80, batch_size=8, lr=0.64, schedule="constant", loss="hinge", momentum=0.0, weight_decay=0.0, until_fitted=True
)


def test_training_scale_detection_lowers_sensitivity_to_deformations(tmp_path: Path) -> None:
    """The mechanism of the paper: at random weights both curves are flat; after training D_k falls and G_k rises with depth."""
    from repanalysis.analyses.stability.twins import stability_runs

    log = train(NET, SCALES, tmp_path / "run", FITTED, split="train", test_split="test", progress=False)
    assert len(log) < 80
    assert log["loss"].iloc[-1] == 0
    assert log["test_accuracy"].iloc[-1] > 0.9
    resumed = train(NET, SCALES, tmp_path / "run", FITTED, split="train", test_split="test", resume=True, progress=False)
    assert len(resumed) == len(log)
    files = [tmp_path / "run" / f"epoch-{epoch:03d}.safetensors" for epoch in (0, len(log))]
    perturb = ["moves:block=8", "noise:sigma=1.3,rectified=true"]
    table = stability_runs(NET, SCALES, perturb, weights=files, limit=None, progress=False)
    first, last = table.provenance
    curves = {
        (run, label): rows["value"].to_numpy()
        for (run, label), rows in table.select(metric="sensitivity", variant="").frame.groupby(["run", "perturbation"])
    }
    moves, noise = "moves:block=8", "noise:sigma,rectified=True"
    assert curves[last, moves][5] < 0.5 * curves[first, moves][5]
    assert curves[last, moves][5] < 0.6 * curves[last, moves][1]
    assert curves[last, noise][5] > 1.5 * curves[last, noise][1]


def test_noise_is_seeded_and_added_only_to_training_images(tmp_path: Path) -> None:
    model, options = "py:repanalysis.networks.digits_cnn:digits_cnn", {"split": "train", "limit": 200, "progress": False}
    configs = [TrainConfig(1, 50, 0.05, noise=noise) for noise in (0.0, 3.0, 3.0)]
    logs = [train(model, "digits", tmp_path / str(i), config, **options) for i, config in enumerate(configs)]  # type: ignore[arg-type]
    losses = [float(log["loss"].iloc[0]) for log in logs]
    assert losses[1] == losses[2] != losses[0]


def test_the_hinge_loss_requires_a_single_score(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one score per image"):
        train(
            "py:repanalysis.networks.digits_cnn:digits_cnn",
            "digits",
            tmp_path / "x",
            TrainConfig(1, 50, loss="hinge"),
            limit=100,
        )
    with pytest.raises(UsageError, match="Did you mean 'hinge'"):
        TrainConfig(loss="hing")


def test_a_transformer_trained_by_adamw_resumes_to_the_same_result(tmp_path: Path) -> None:
    model, config = (
        "small:vit,width=8,colours=1,size=8",
        TrainConfig(4, 32, 3e-3, "constant", weight_decay=0.05, optimizer="adamw"),
    )
    options = {"split": "train", "test_split": "test", "device": "cpu", "progress": False}
    expected = train(model, "digits", tmp_path / "whole", config, **options)  # type: ignore[arg-type]
    assert expected["test_accuracy"].iloc[-1] > 2 * expected["test_accuracy"].iloc[0]
    real, calls = torch.optim.AdamW.step, []

    def failing(*arguments: object) -> object:
        calls.append(1)
        if len(calls) == 70:  # in the third of four epochs of 28 steps
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", failing)
        train(model, "digits", tmp_path / "stopped", config, **options)  # type: ignore[arg-type]
    train(model, "digits", tmp_path / "stopped", config, resume=True, **options)  # type: ignore[arg-type]
    uninterrupted, resumed = (load_file(tmp_path / name / "epoch-004.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(uninterrupted[name], resumed[name]) for name in uninterrupted)
    with pytest.raises(UsageError, match="Unknown optimizer 'adam'. Did you mean 'adamw'"):
        TrainConfig(optimizer="adam")

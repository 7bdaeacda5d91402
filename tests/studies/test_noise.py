"""A study of networks trained with noise: its table, its resumption, its figure."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import repanalysis.studies.noise
from probes.errors import UsageError
from repanalysis.studies.noise import noise_study
from repanalysis.table import Table
from repanalysis.training.runs import TrainConfig

MODELS = ["small:mlp,width=2,colours=1,size=8", "small:lenet,width=4,colours=1,size=8"]
RECIPE = TrainConfig(2, 50, 0.05, "cosine")


def study(folder: Path, noises: tuple[float, ...] = (0.0, 2.0)) -> pd.DataFrame:
    return noise_study(
        MODELS, "digits", folder, noises=noises, config=RECIPE, diffeo="diffeo:delta=0.8", images=60, progress=False
    )


def test_each_run_has_a_row_that_agrees_with_its_curves(tmp_path: Path) -> None:
    runs = study(tmp_path)
    assert runs[["model", "noise"]].to_numpy().tolist() == [[model, noise] for model in MODELS for noise in (0.0, 2.0)]
    np.testing.assert_allclose(runs["R"], runs["D"] / runs["G"], rtol=1e-12)
    table = Table.from_csv(tmp_path / "stability.csv")
    assert len(table.provenance) == 4
    heads = table.select(layer="head", metric="sensitivity", variant="", perturbation="diffeo").frame["value"]
    np.testing.assert_array_equal(heads, runs["D"])
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "runs.csv"), runs, check_exact=False)
    assert runs["test_error"].between(0, 1).all()
    assert runs["train_accuracy"].iloc[0] != runs["train_accuracy"].iloc[1]  # noise was added


def test_a_stopped_study_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = study(tmp_path / "whole")
    real, calls = repanalysis.studies.noise.train, []

    def stopping(model: str, data: str, place: Path, *arguments: object, **options: object) -> pd.DataFrame:
        calls.append(place)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(model, data, place, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(repanalysis.studies.noise, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "stopped")
    assert len(pd.read_csv(tmp_path / "stopped" / "runs.csv")) == 2
    pd.testing.assert_frame_equal(study(tmp_path / "stopped"), expected)
    changes: dict[str, Any] = {"config": TrainConfig(3, 50, 0.05, "cosine"), "diffeo": "diffeo:delta=0.8", "images": 60}
    with pytest.raises(UsageError, match="another run"):
        noise_study(MODELS, "digits", tmp_path / "whole", noises=[0.0], progress=False, **changes)


def test_curves_measured_with_other_options_are_not_reused(tmp_path: Path) -> None:
    """Regression: they were reused for any --images or --diffeo."""
    options: dict[str, Any] = {"noises": [0.0], "config": TrainConfig(1, 50, 0.05, "cosine"), "progress": False}
    options |= {"images": 40, "diffeo": "diffeo:delta=0.8"}
    first = noise_study(MODELS[:1], "digits", tmp_path, **options)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert set(before) == {"runs.csv", "stability.csv"}
    for change, sentence in {
        ("images", 30): "images was 40, not 30",
        ("diffeo", "diffeo:delta=0.5"): "diffeo was 'diffeo:delta=0.8', not 'diffeo:delta=0.5'",
        ("test_split", "train"): "split was 'test', not 'train'",
    }.items():
        with pytest.raises(UsageError, match=re.escape(sentence)):
            noise_study(MODELS, "digits", tmp_path, **options | dict([change]))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before, "nothing was begun"
    measured = noise_study(MODELS[:1], "digits", tmp_path, **options | {"images": 30}, overwrite=True)
    assert (measured["train_accuracy"] == first["train_accuracy"]).all()
    assert (measured["D"] != first["D"]).all()
    (curves,) = tmp_path.glob("*/stability.csv")
    for content in (b"", curves.read_bytes()[:-40]):  # a truncated file is not reused
        curves.write_bytes(content)
        pd.testing.assert_frame_equal(noise_study(MODELS[:1], "digits", tmp_path, **options | {"images": 30}), measured)


def test_repeated_models_have_one_sentence_errors(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="each model once"):
        noise_study([MODELS[0]] * 2, "digits", tmp_path)

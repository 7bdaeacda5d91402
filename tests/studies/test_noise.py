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


def test_a_row_per_run_that_says_what_the_curves_say(tmp_path: Path) -> None:
    runs = study(tmp_path)
    assert runs[["model", "noise"]].to_numpy().tolist() == [[model, noise] for model in MODELS for noise in (0.0, 2.0)]
    np.testing.assert_allclose(runs["R"], runs["D"] / runs["G"], rtol=1e-12)
    table = Table.from_csv(tmp_path / "stability.csv")
    assert len(table.provenance) == 4
    heads = table.select(layer="head", metric="sensitivity", variant="", perturbation="diffeo").frame["value"]
    np.testing.assert_array_equal(heads, runs["D"])
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "runs.csv"), runs, check_exact=False)
    assert runs["test_error"].between(0, 1).all()
    assert runs["train_accuracy"].iloc[0] != runs["train_accuracy"].iloc[1]  # the noise was there


def test_a_study_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = study(tmp_path / "whole")
    real, calls = repanalysis.studies.noise.train, []

    def stopping(model: str, data: str, place: Path, *rest: object, **options: object) -> pd.DataFrame:
        calls.append(place)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(model, data, place, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(repanalysis.studies.noise, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "stopped")
    assert len(pd.read_csv(tmp_path / "stopped" / "runs.csv")) == 2
    pd.testing.assert_frame_equal(study(tmp_path / "stopped"), whole)
    other: dict[str, Any] = {"config": TrainConfig(3, 50, 0.05, "cosine"), "diffeo": "diffeo:delta=0.8", "images": 60}
    with pytest.raises(UsageError, match="another run"):
        noise_study(MODELS, "digits", tmp_path / "whole", noises=[0.0], progress=False, **other)


def test_curves_that_were_measured_otherwise_are_not_handed_out(tmp_path: Path) -> None:
    """They were returned for whatever --images or --diffeo."""
    options: dict[str, Any] = {"noises": [0.0], "config": TrainConfig(1, 50, 0.05, "cosine"), "progress": False}
    options |= {"images": 40, "diffeo": "diffeo:delta=0.8"}
    first = noise_study(MODELS[:1], "digits", tmp_path, **options)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert set(before) == {"runs.csv", "stability.csv"}
    for other, sentence in {
        ("images", 30): "images was 40, not 30",
        ("diffeo", "diffeo:delta=0.5"): "diffeo was 'diffeo:delta=0.8', not 'diffeo:delta=0.5'",
        ("test_split", "train"): "split was 'test', not 'train'",
    }.items():
        with pytest.raises(UsageError, match=re.escape(sentence)):
            noise_study(MODELS, "digits", tmp_path, **options | dict([other]))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before, "nothing was begun"
    again = noise_study(MODELS[:1], "digits", tmp_path, **options | {"images": 30}, overwrite=True)
    assert (again["train_accuracy"] == first["train_accuracy"]).all()
    assert (again["D"] != first["D"]).all()
    (curves,) = tmp_path.glob("*/stability.csv")
    for content in (b"", curves.read_bytes()[:-40]):  # a part of a file is none
        curves.write_bytes(content)
        pd.testing.assert_frame_equal(noise_study(MODELS[:1], "digits", tmp_path, **options | {"images": 30}), again)


def test_models_that_are_the_same_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="each model once"):
        noise_study([MODELS[0]] * 2, "digits", tmp_path)

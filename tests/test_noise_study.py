"""A study of networks trained with noise: its table, its resumption, its figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import repanalysis.noise_study
from probes.errors import UsageError
from repanalysis.noise_study import noise_study
from repanalysis.table import Table
from repanalysis.training import Recipe

MODELS = ["small:mlp,width=2,colours=1,size=8", "small:lenet,width=4,colours=1,size=8"]
RECIPE = Recipe(2, 50, 0.05, "cosine")


def study(folder: Path, noises: tuple[float, ...] = (0.0, 2.0)) -> pd.DataFrame:
    return noise_study(
        MODELS, "digits", folder, noises=noises, recipe=RECIPE, diffeo="diffeo:delta=0.8", images=60, progress=False
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
    real, calls = repanalysis.noise_study.train, []

    def stopping(model: str, data: str, place: Path, *rest: object, **options: object) -> pd.DataFrame:
        calls.append(place)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(model, data, place, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(repanalysis.noise_study, "train", stopping)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "stopped")
    assert len(pd.read_csv(tmp_path / "stopped" / "runs.csv")) == 2
    pd.testing.assert_frame_equal(study(tmp_path / "stopped"), whole)
    with pytest.raises(UsageError, match="another run"):
        noise_study(MODELS, "digits", tmp_path / "whole", noises=[0.0], recipe=Recipe(3, 50, 0.05, "cosine"), progress=False)


def test_models_that_are_the_same_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="each of them once"):
        noise_study([MODELS[0]] * 2, "digits", tmp_path)

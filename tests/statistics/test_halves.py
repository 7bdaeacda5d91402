"""Halves of samples: every metric and analysis that fits on one half fits on the same sample ids."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

import probes
from repanalysis import analyze
from repanalysis.analyses.filters import measures as filters
from repanalysis.analyses.filters.measures import LabelledActivations
from repanalysis.analyses.pruning import networks, recorded_heads
from repanalysis.analyses.pruning.chains import OUTPUT, Link
from repanalysis.heads import fitting
from repanalysis.statistics import Samples
from repanalysis.statistics.draws import fitted_on
from repanalysis.training.epochs import Images

IDS = np.random.default_rng(5).permutation(10_000)[:240]
LABELS = np.arange(240) % 4
FITTED = set(IDS[fitted_on(IDS)].tolist())


def marked() -> np.ndarray:
    """Features whose first column is the id of the sample."""
    x = np.random.default_rng(0).normal(size=(240, 5)) + 3.0 * np.eye(4, 5)[LABELS]
    x[:, 4] = IDS
    return x


@pytest.fixture
def fitted_ids(monkeypatch: pytest.MonkeyPatch) -> list[set[int]]:
    """Ids of the training samples of every head that is fitted."""
    fits: list[set[int]] = []
    real: Callable[..., Any] = fitting.fit_head

    def fit(x: np.ndarray, y: np.ndarray, **options: Any) -> np.ndarray:
        fits.append({int(value) for value in np.rint(x[:, -1])})
        fitted: np.ndarray = real(x, y, **options)
        return fitted

    monkeypatch.setattr(fitting, "fit_head", fit)
    return fits


def test_training_has_about_half_the_samples_and_a_second_cut_is_independent() -> None:
    ids = np.arange(100_000)
    first, second = fitted_on(ids), fitted_on(ids, cut=2)
    for part in (first, second, second[first], second[~first]):
        assert abs(part.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(part))
    np.testing.assert_array_equal(fitted_on(ids[::-1]), first[::-1])


def test_samples_give_metrics_the_same_halves() -> None:
    samples = Samples().of(marked(), LABELS, IDS)
    assert set(samples.ids[samples.training()].tolist()) == FITTED


def test_readout_metrics_fit_on_the_training_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every metric that halves takes its halves from `_readout.halves`, which keeps the first column."""
    from repanalysis.metrics import _readout

    marks: list[set[int]] = []
    real = _readout.halves

    def halves(samples: Any) -> Any:
        split = real(samples)
        assert not isinstance(split, str)
        shift = samples.x[samples.training()].mean(axis=0)[-1]
        marks.append({int(value) for value in np.rint(split.train[:, -1] + shift)})
        return split

    for name in ("ncc_accuracy", "linear_probe_accuracy", "lda_accuracy", "nc4_ncc_mismatch"):
        monkeypatch.setattr(import_module(f"repanalysis.metrics.{name}"), "halves", halves)
    batch = probes.Batch(ids=IDS, layers={"x": marked()}, labels=LABELS)
    analyze(
        [batch], "ncc_accuracy,linear_probe_accuracy,lda_accuracy,nc4_ncc_mismatch",
        head=(np.eye(4, 5), np.zeros(4)), progress=False,
    )  # fmt: skip
    assert marks == [FITTED] * 4


def test_filters_fit_their_heads_on_the_training_half(fitted_ids: list[set[int]]) -> None:
    source = probes.from_arrays({"x": marked()}, ids=IDS, labels=LABELS)
    table, _ = filters.filters(source, bootstrap=0, progress=False)
    assert fitted_ids == [FITTED]
    assert set(table.frame["n"]) == {240 - len(FITTED)}


def test_fields_of_a_network_are_fitted_on_the_training_half(fitted_ids: list[set[int]]) -> None:
    from repanalysis.inputs.data import Data

    x = torch.from_numpy(marked().astype(np.float32))
    data = Data("marked", lambda row: x[row], IDS, LABELS)
    images = Images(data, x)
    network = torch.nn.Sequential()
    network.add_module("first", torch.nn.Linear(5, 6))
    network.add_module("head", torch.nn.Linear(6, 4))
    chain = {
        "first": Link("first", 5, 1, 6, "head"),
        "head": Link("head", 6, 1, 4, OUTPUT),
    }
    networks.filter_fields(network.eval(), chain, images, classes=4, hidden=True)
    assert fitted_ids == [FITTED]


def test_masks_of_a_head_halve_the_training_part_again(fitted_ids: list[set[int]]) -> None:
    """The training part may itself be a half, so halving it by the first cut would leave no samples to measure with."""
    x = marked()[:, :, None]
    train, test = (LabelledActivations(x[part], LABELS[part], IDS[part]) for part in (fitted_on(IDS), ~fitted_on(IDS)))
    recorded_heads.prune_head(train, test, thetas=(0.3,), controls=0, progress=False)
    inner = IDS[fitted_on(IDS) & fitted_on(IDS, cut=2)]
    assert fitted_ids[:2] == [FITTED, set(inner.tolist())]

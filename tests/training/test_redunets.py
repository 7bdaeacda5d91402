"""ReduNets from data specifications: which samples, how they are prepared, and the table of rates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from probes.errors import DataError, UsageError
from repanalysis.extraction import build_run
from repanalysis.networks.redunet.config import ReduNetConfig
from repanalysis.training.redunets import build_redunet, rates_table, read_samples


def test_samples_are_drawn_by_class_and_prepared_as_for_extraction(tmp_path: Path) -> None:
    samples = read_samples("digits", "train", per_class=7)
    assert np.bincount(samples.y).tolist() == [7] * 10
    assert samples.x.shape == (70, 1, 8, 8)
    more = read_samples("digits", "train", per_class=9)
    assert {tuple(row.ravel().tolist()) for row in samples.x} <= {tuple(row.ravel().tolist()) for row in more.x}
    other = read_samples("digits", "train", per_class=7, seed=1)
    assert not torch.equal(other.x, samples.x)
    build_redunet("digits", tmp_path / "n.safetensors", ReduNetConfig(layers=1, eta_eff=1.0), split="train", progress=False)
    run = build_run(f"redunet:{tmp_path / 'n.safetensors'}", "digits", split="train")
    extracted = torch.stack([run.data[row][0] for row in range(len(run.data))])
    assert torch.equal(extracted, read_samples("digits", "train").x)


@pytest.mark.parametrize("size", [None, 5])
def test_networks_of_images_keep_their_preprocessing(size: int | None, tmp_path: Path) -> None:
    path = tmp_path / "n.safetensors"
    config = ReduNetConfig(layers=2, eta_eff=1.0, shift_invariant=True, channels=2)
    network = build_redunet("digits", path, config, split="train", test_split="test", per_class=5, size=size, progress=False)
    side = size or 8
    assert network.step.grid.size == (side, side)
    run = build_run(f"redunet:{path}", "digits", split="test")
    assert run.model.input_size == (1, side, side)
    assert run.data[0][0].shape == (1, side, side)


def test_vectors_have_no_preprocessing(tmp_path: Path) -> None:
    network = build_redunet("gaussians:K=3,d=6,n=60", config=ReduNetConfig(layers=2, eta_eff=1.0, assignment="balanced"))
    assert network.design.preprocessing is None
    assert network.design.shape == (6,)
    with pytest.raises(UsageError, match="--size is that of images"):
        read_samples("gaussians:K=3,d=6,n=60", size=4)


def test_samples_without_labels_are_left_out_or_refused(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(9, 4)), np.array([0, 1, -1, 0, 1, 0, -1, 1, 0])
    np.savez(tmp_path / "some.npz", x=x, y=y)
    np.savez(tmp_path / "none.npz", x=x)
    assert read_samples(f"npz:{tmp_path / 'some.npz'}").y.tolist() == [0, 1, 0, 1, 0, 1, 0]
    with pytest.raises(DataError, match="--labels FILE"):
        read_samples(f"npz:{tmp_path / 'none.npz'}")
    with pytest.raises(DataError, match="has 3 samples; 4 of each"):
        read_samples(f"npz:{tmp_path / 'some.npz'}", per_class=4)


def test_the_table_has_both_curves_and_says_how() -> None:
    config = ReduNetConfig(layers=3, eta_eff=1.0)
    network = build_redunet("digits", config=config, split="train", test_split="test", per_class=20)
    table = rates_table(network, "net")
    assert list(table.provenance) == ["net train", "net test"]
    frame = table.select(metric="rate_reduction", split="test").frame
    np.testing.assert_array_equal(frame["value"], network.rates[:, 1, 2])
    assert set(frame["n"]) == {899}
    assert frame["depth"].tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    facts = table.provenance["net train"]
    assert facts["parameters"]["eta_eff"] == 1.0
    assert facts["source"]["data"] == "digits"
    assert facts["effective"]["eps_sq"] == 0.1


def test_digits_are_assigned_far_above_chance() -> None:
    network = build_redunet("digits", config=ReduNetConfig(layers=15, eta_eff=1.0), split="train")
    test = read_samples("digits", "test")
    assert (network.predict(test.x) == test.y).mean() > 0.93
    assert np.all(np.diff(network.rates[:, 0, 2]) > 0)

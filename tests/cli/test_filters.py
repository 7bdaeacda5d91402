"""Filter analysis on the command line: measurement, pruning, figures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

import probes
from repanalysis.cli import app
from repanalysis.inputs.data import load_data
from repanalysis.inputs.models import load_model
from repanalysis.table import Table
from repanalysis.training.epochs import Images, accuracy
from tests.analyses.pruning.test_recorded_heads import planted
from tests.cli.running import refused, run


def test_filters_of_a_network_are_measured_and_plotted(tmp_path: Path) -> None:
    net = "py:repanalysis.networks.digits_cnn:digits_cnn"
    run = CliRunner()
    for split in ("train", "test"):
        arguments = ["extract", net, "--data", "digits", "--split", split, "--pool", "grid:2", "-l", "relu?", "--limit", "400"]
        result = run.invoke(app, [*arguments, "-o", str(tmp_path / f"{split}.h5")])
        assert result.exit_code == 0, result.output
    files = {name: tmp_path / name for name in ("filters.csv", "curves.svg", "sheet.png", "heads.safetensors")}
    arguments = ["filters", str(tmp_path / "train.h5"), str(tmp_path / "test.h5"), "-o", str(files["filters.csv"]),
                 "-f", str(files["curves.svg"]), "--sheet", str(files["sheet.png"]), "--heads", str(files["heads.safetensors"]),
                 "--data", "digits", "--split", "test", "--bootstrap", "3", "--json"]  # fmt: skip
    result = run.invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert all(path.stat().st_size > 5000 for path in files.values())
    rows = json.loads(result.stdout)["rows"]
    assert {row["layer"] for row in rows} == {"relu1", "relu2", "relu3", "relu4", "relu5"}
    heads = load_file(files["heads.safetensors"])
    assert heads["relu4"].shape == (10, 64, 4)
    plot = run.invoke(app, ["plot", str(files["filters.csv"]), "-m", "snr_pair", "-o", str(tmp_path / "snr.svg")])
    assert plot.exit_code == 0, plot.output


def test_heads_of_recorded_layers_are_pruned(tmp_path: Path) -> None:
    files = {}
    for split, seed, start in (("train", 0, 0), ("test", 1, 10_000)):
        x, y, _ = planted(300, seed, k=6, f=12)
        files[split] = tmp_path / f"{split}.npz"
        np.savez(files[split], layer=x[:, :, 0], labels=y, ids=np.arange(300) + start)
        assert len(probes.open(files[split])) == 300
    arguments = ["filters", "prune-head", str(files["train"]), str(files["test"]), "-o", str(tmp_path / "p.csv"),
                 "-f", str(tmp_path / "p.svg"), "--theta", "0.3", "--theta", "0.6", "--controls", "2"]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "clusters retrained" in result.output
    assert (tmp_path / "p.svg").stat().st_size > 5000
    misspelled = CliRunner().invoke(app, [*arguments, "--layer", "layr", "--overwrite"])
    assert misspelled.exit_code == 2
    assert "Did you mean 'layer'" in misspelled.output


def test_a_network_is_trained_pruned_saved_and_loaded_again(tmp_path: Path) -> None:
    net = "small:vgg_bn,width=8,colours=1,size=8"
    run("train", net, "--data", "digits", "--split", "train", "--epochs", "5", "--lr", "0.05", "--batch-size", "50",
        "--schedule", "cosine", "-o", tmp_path / "run")  # fmt: skip
    weights = tmp_path / "run" / "epoch-005.safetensors"
    words = ("filters", "prune", net, "--weights", weights, "--data", "digits", "-o", tmp_path / "p.csv")
    result = run(*words, "-f", tmp_path / "p.svg", "--save", tmp_path / "p.safetensors")
    assert result.exit_code == 0, result.output
    assert "of all multiplications remain at theta = 0.3" in result.stdout
    assert (tmp_path / "p.svg").stat().st_size > 5000
    saved = load_file(tmp_path / "p.safetensors")
    table = Table.load(tmp_path / "p.csv")
    rows = table.select(metric="network_accuracy", variant="clusters retrained").frame
    gone = sum(int((saved[f"{name}.weight"] == 0).sum()) for name in ("conv6", "head"))
    assert gone / sum(saved[f"{name}.weight"].numel() for name in ("conv6", "head")) == pytest.approx(
        rows["strength"].item(), abs=1e-3
    )
    loaded = load_model(net, weights=tmp_path / "p.safetensors")
    images = Images.of(load_data("digits", split="test", transform=loaded.transform, colours=1), hidden=True)
    assert accuracy(loaded.module, images, 100, "cpu") == pytest.approx(rows["value"].item())
    several = refused(*words, "--overwrite", "--theta", "0.2", "--theta", "0.4", "--save", tmp_path / "q.safetensors", code=2)
    assert several == "--save writes one network; give --theta once."


def test_measure_is_the_default_verb_and_takes_options_from_a_file(tmp_path: Path) -> None:
    for split, seed, start in (("train", 0, 0), ("test", 1, 10_000)):
        x, y, _ = planted(120, seed, k=6, f=12)
        np.savez(tmp_path / f"{split}.npz", layer=x[:, :, 0], labels=y, ids=np.arange(120) + start)
    files = [tmp_path / "train.npz", tmp_path / "test.npz"]
    (tmp_path / "o.toml").write_text("seed = 1\n[filters]\nbootstrap = 0\n[filters.measure]\ntheta = 0.5\n")
    run("filters", *files, "--config", tmp_path / "o.toml", "-o", tmp_path / "a.csv")
    run("filters", "measure", "--theta", "0.5", "--bootstrap", "0", "--seed", "1", *files, "-o", tmp_path / "b.csv")
    default, named = (Table.load(tmp_path / f"{name}.csv") for name in "ab")
    assert default.frame.equals(named.frame)
    assert default.provenance["train"]["parameters"]["clusters"]["theta"] == 0.5
    assert "prune-head" in run("filters", "--help").stdout
    assert run("filters").exit_code == 2


def test_laws_against_labels_and_widths(tmp_path: Path) -> None:
    for f in (4, 8, 16):
        for split, seed, start in (("train", 0, 0), ("test", 1, 10_000)):
            x, y, _ = planted(180, seed, k=6, f=f)
            np.savez(tmp_path / f"{split}{f}.npz", layer=x[:, :, 0], labels=y, ids=np.arange(180) + start)
        run("filters", tmp_path / f"train{f}.npz", tmp_path / f"test{f}.npz", "-o", tmp_path / f"w{f}.csv")
    files = [tmp_path / "train16.npz", tmp_path / "test16.npz"]
    result = run("filters", "labels", *files, "--subsets", "2", "-o", tmp_path / "k.csv", "-f", tmp_path / "k.svg")
    assert "error_slope (refitted heads)" in result.stdout
    result = run(
        "filters", "widths", *(tmp_path / f"w{f}.csv" for f in (4, 8, 16)), "-o", tmp_path / "d.csv", "-f", tmp_path / "d.svg"
    )
    assert "error_exponent = " in result.stdout
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("k.svg", "d.svg"))
    assert "three widths" in refused("filters", "widths", tmp_path / "w4.csv", "-o", tmp_path / "e.csv", code=1)

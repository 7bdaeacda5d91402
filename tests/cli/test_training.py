"""Networks from specifications on the command line."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from repanalysis.cli import app
from tests.cli.running import run
from tests.studies.test_noise import MODELS
from tests.training.test_runs import MODEL


def test_a_network_is_trained_extracted_and_analysed(tmp_path: Path) -> None:
    folder = tmp_path / "sc"
    options = ("--split", "train", "--test-split", "test", "--epochs", "1", "--batch-size", "32", "--lr", "0.1")
    result = run("train", MODEL, "--data", "digits", *options, "-o", folder)
    assert "1 epochs." in result.stdout
    for epoch in (0, 1):
        weights = folder / f"epoch-00{epoch}.safetensors"
        run("extract", MODEL, "--weights", weights, "--data", "digits", "--split", "test", "-o", tmp_path / f"{epoch}.h5")
    run("analyze", tmp_path / "0.h5", tmp_path / "1.h5", "-m", "fisher_ratio", "--groups", "0", "-o", tmp_path / "t.csv")
    run("plot", tmp_path / "t.csv", "-m", "fisher_ratio", "--heatmap", "-o", tmp_path / "t.svg")
    assert (tmp_path / "t.svg").exists()


def test_a_study_writes_a_table_and_a_figure(tmp_path: Path) -> None:
    arguments = ["study", *MODELS, "--data", "digits", "--epochs", "1", "--batch-size", "50", "--noise", "0", "--noise", "2",
                 "--diffeo", "diffeo:delta=0.8", "--images", "40", "-o", str(tmp_path)]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "4 runs" in result.output
    assert (tmp_path / "errors.svg").stat().st_size > 10_000

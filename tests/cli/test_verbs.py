"""Behaviour common to all commands: extraction and analysis, shared options, one sentence and an exit code for errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py

from repanalysis.cli import app
from repanalysis.table import Table
from tests.cli.running import DIGITS, refused, run, write_acts


def test_a_model_is_extracted_analysed_and_plotted(tmp_path: Path) -> None:
    acts, results, figure = tmp_path / "acts.h5", tmp_path / "results.csv", tmp_path / "depth.svg"
    first = run("extract", DIGITS, "--data", "digits", "--split", "test", "--limit", 300, "-o", acts, "--seed", 7)
    assert first.exit_code == 0, first.output
    assert "300 samples, 18 layers" in first.stdout
    second = run("analyze", acts, "-o", results)
    assert second.exit_code == 0, second.output
    assert "fisher ratio" in second.stdout
    assert "18 layers" not in second.stderr
    third = run("plot", results, "-o", figure)
    assert third.exit_code == 0, third.output
    assert figure.read_text().startswith("<?xml")
    table = Table.load(results)
    assert table.frame["layer"].nunique() == 18
    assert set(table.frame["split"]) == {"test"}
    recorded = table.provenance["acts"]["recorded"]
    assert recorded["model"] == DIGITS
    assert recorded["seed"] == 7
    assert recorded["dataset"] == "digits"


def test_json_prints_valid_json_and_quiet_prints_nothing(acts: Path) -> None:
    report = json.loads(run("analyze", acts, "--json").stdout)
    assert {row["layer"] for row in report["rows"]} == {"conv", "relu"}
    assert report["provenance"]["acts"]["source"] == str(acts)
    assert run("analyze", acts, "--quiet").output == ""


def test_options_from_a_file(acts: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('quiet = true\n[analyze]\nmetrics = "coding_rate"\nlayers = ["relu"]\n')
    result = run("analyze", acts, "--config", config, "-o", tmp_path / "r.csv")
    assert result.exit_code == 0, result.output
    assert result.output == ""
    assert Table.load(tmp_path / "r.csv").frame[["layer", "metric"]].to_numpy().tolist() == [["relu", "coding_rate"]] * 3
    config.write_text("metrik = 1")
    wrong = run("analyze", acts, "--config", config)
    assert wrong.exit_code == 2
    assert "Did you mean 'metrics'?" in " ".join(wrong.stderr.replace("│", " ").split())


def test_wrong_arguments_have_one_sentence_errors(acts: Path, tmp_path: Path) -> None:
    assert refused("analyze", acts, "-m", "fischer", code=2).startswith("Unknown metric 'fischer'.")
    assert refused("analyze", acts, "-l", "rellu", code=2).endswith("Did you mean 'relu'? `repanalysis info` lists all 2.")
    assert "Did you mean 'conv1'?" in refused(
        "extract", DIGITS, "--data", "digits", "-o", tmp_path / "x.h5", "-l", "convv1", code=2
    )
    assert "Unknown pool 'meen'" in refused(
        "extract", DIGITS, "--data", "digits", "-o", tmp_path / "x.h5", "--pool", "meen", code=2
    )
    assert "Unknown table format '.txt'" in refused("analyze", acts, "-o", tmp_path / "r.txt", code=2)
    assert "Unknown figure format '.jpeg'" in refused("plot", acts, "-o", tmp_path / "r.jpeg", code=2)
    assert "is not a list of numbers" in refused(
        "extract", DIGITS, "--data", "digits", "-o", tmp_path / "x.h5", "--mean", "a", code=2
    )
    assert not (tmp_path / "x.h5").exists()
    assert run("analyse", acts).exit_code == 2
    assert run("analyze").exit_code == 2


def test_missing_and_foreign_files_have_one_sentence_errors(acts: Path, tmp_path: Path) -> None:
    assert refused("analyze", tmp_path / "none.h5", code=2) == f"There is no file {tmp_path / 'none.h5'}."
    assert refused("info", tmp_path / "none.h5", code=2) == f"There is no file {tmp_path / 'none.h5'}."
    assert "There is no file" in refused("plot", tmp_path / "none.csv", "-o", tmp_path / "x.svg", code=2)
    (tmp_path / "text.h5").write_text("hello")
    assert "it is no HDF5 file" in refused("analyze", tmp_path / "text.h5", code=1)
    h5py.File(tmp_path / "foreign.h5", "w").close()
    assert "holds no array that can be a layer" in refused("info", tmp_path / "foreign.h5", code=1)
    (tmp_path / "cut.h5").write_bytes(acts.read_bytes()[:3000])
    assert "is truncated" in refused("analyze", tmp_path / "cut.h5", code=1)


def test_incomplete_files_report_how_many_samples_they_have(tmp_path: Path) -> None:
    path = write_acts(tmp_path / "acts.h5", complete=False)
    assert "stopped after 60 samples" in refused("analyze", path, code=3)
    assert run("analyze", path, "--partial").exit_code == 0
    info = run("info", path)
    assert info.exit_code == 0
    assert "INCOMPLETE: writing stopped after 60 samples" in info.stdout


def test_nothing_is_overwritten_without_overwrite(acts: Path, tmp_path: Path) -> None:
    before = acts.read_bytes()
    assert "exists already" in refused("extract", DIGITS, "--data", "digits", "-o", acts, code=2)
    assert acts.read_bytes() == before
    (tmp_path / "r.csv").write_text("precious")
    assert "exists already" in refused("analyze", acts, "-o", tmp_path / "r.csv", code=2)
    assert (tmp_path / "r.csv").read_text() == "precious"
    assert run("analyze", acts, "-o", tmp_path / "r.csv", "--overwrite").exit_code == 0
    (tmp_path / "f.svg").write_text("precious")
    assert "exists already" in refused("plot", tmp_path / "r.csv", "-o", tmp_path / "f.svg", code=2)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "results.csv").write_text("precious")
    assert "exists already" in refused("demo", "-o", tmp_path / "demo", code=2)


def test_logs_have_no_progress_bar_and_threads_are_limited(acts: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "repanalysis.cli", "analyze", str(acts), "--threads", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    broken = subprocess.run(
        [*command[:4], "none.h5"], capture_output=True, text=True, check=False, env=os.environ | {"REPANALYSIS_TRACEBACK": "1"}
    )
    assert broken.returncode == 2
    assert "Traceback" in broken.stderr


def test_version_prints_the_version() -> None:
    assert run("--version").stdout.startswith("repanalysis ")


def test_every_command_takes_the_common_options() -> None:
    for verb in ("demo", "layers", "extract", "analyze", "plot", "info"):
        command: Any = __import__("typer").main.get_command(app)
        options = {option for parameter in command.commands[verb].params for option in parameter.opts}
        assert {"--seed", "--threads", "--quiet", "--json", "--config"} <= options

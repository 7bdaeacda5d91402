"""Stability and filter energies on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from repanalysis.cli import app
from repanalysis.table import Table
from tests.cli.running import DIGITS


def test_stability_of_networks_is_measured_and_plotted(tmp_path: Path) -> None:
    out, figure = tmp_path / "s.csv", tmp_path / "s.svg"
    perturbed = ["-p", "diffeo:0.2..0.8/2", "-p", "noise:match=diffeo", "-p", "shift:1..2"]
    twins = ["--limit", "60", "--init", "2", "--shuffled", "1", "--threads", "1"]
    arguments = ["stability", DIGITS, "--data", "digits", *perturbed, *twins, "-o", str(out), "-f", str(figure)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    table = Table.load(out)
    assert list(table.provenance) == ["digits_cnn", "digits_cnn, init", "digits_cnn, shuffled", "digits_cnn, parts"]
    assert figure.stat().st_size > 10_000
    # 2 deformations with value, numerator and R; 2 noises and 2 shifts with value and numerator; the denominator
    layers = table.frame["layer"].nunique()
    assert len(table) == 3 * layers * (2 * 3 + 4 * 2 + 1) + 2 * 6 * layers
    for x in ("auto", "strength"):
        plot = CliRunner().invoke(app, ["plot", str(out), "-o", str(tmp_path / f"{x}.svg"), "--x", x])
        assert plot.exit_code == 0, plot.output
    facts = table.provenance["digits_cnn"]
    assert facts["dataset"] == "digits"
    assert [perturbation["label"] for perturbation in facts["perturbations"]][:2] == ["diffeo", "diffeo"]


def test_filter_energy_of_checkpoints(tmp_path: Path) -> None:
    out = tmp_path / "energy.csv"
    result = CliRunner().invoke(app, ["filter-energy", DIGITS, "-o", str(out), "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)["rows"]
    assert {row["metric"] for row in rows} == {"filter_energy", "filter_energy_per_direction", "filter_homogeneity"}
    assert Table.load(out).frame["layer"].nunique() == 4


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_sentence_on_the_command_line(tmp_path: Path) -> None:
    arguments = ["stability", "small:mlp,width=2,colours=1,size=8", "--data", "digits", "-p", "diffeo:delta=3", "--limit", "10"]
    result = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "s.csv")])
    assert result.exit_code == 0, result.output
    warnings = [line for line in result.stderr.splitlines() if line.startswith("Warning: ")]
    assert warnings == ["Warning: delta = 3 pixels folds images of 8 pixels at c = 3; use at most 0.849 pixels."]
    assert list(Table.load(tmp_path / "s.csv").provenance) == ["mlp"]

"""Stability from specifications: the command line, twins, checkpoints, and the real resnet20."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from probes.errors import UsageError
from repanalysis.cli import app
from repanalysis.models import load_model
from repanalysis.stability_runs import stability_runs
from repanalysis.table import Table

NET = "py:repanalysis.networks.digits_cnn:digits_cnn"


def test_from_the_command_line_to_a_figure(tmp_path: Path) -> None:
    out, figure = tmp_path / "s.csv", tmp_path / "s.svg"
    perturbed = ["-p", "diffeo:0.2..0.8/2", "-p", "noise:match=diffeo", "-p", "shift:1..2"]
    twins = ["--limit", "60", "--init", "2", "--shuffled", "1", "--threads", "1"]
    arguments = ["stability", NET, "--data", "digits", *perturbed, *twins, "-o", str(out), "-f", str(figure)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    table = Table.load(out)
    assert list(table.provenance) == ["digits_cnn", "digits_cnn, init", "digits_cnn, shuffled", "digits_cnn, parts"]
    assert figure.stat().st_size > 10_000
    # 2 deformations with value, numerator and R; 2 noises and 2 shifts with value and numerator; the denominator
    layers = table.frame["layer"].nunique()
    assert len(table) == 3 * layers * (2 * 3 + 4 * 2 + 1) + 2 * 6 * layers
    for x in ("auto", "strength"):
        again = CliRunner().invoke(app, ["plot", str(out), "-o", str(tmp_path / f"{x}.svg"), "--x", x])
        assert again.exit_code == 0, again.output
    facts = table.provenance["digits_cnn"]
    assert facts["dataset"] == "digits"
    assert [one["label"] for one in facts["perturbations"]][:2] == ["diffeo", "diffeo"]


def test_runs_are_named_after_models_and_checkpoints(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    for name in ("one", "two"):
        save_file(load_model(NET).module.state_dict(), tmp_path / f"{name}.safetensors")
    files = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    table = stability_runs(NET, "digits", "shift:1", weights=files, limit=20)
    assert list(table.provenance) == ["digits_cnn one", "digits_cnn two"]
    pair = stability_runs([NET, NET], "digits", "shift:1", limit=20)
    assert list(pair.provenance) == ["digits_cnn", "digits_cnn'"]
    with pytest.raises(UsageError, match="3 models and 2 weights"):
        stability_runs([NET] * 3, "digits", "shift:1", weights=files)


def test_the_seed_decides(tmp_path: Path) -> None:
    a, b, c = (
        stability_runs(
            NET, "digits", ["diffeo:0.8", "noise:match=diffeo"], weights="random", limit=30, seed=seed, batch_size=size
        )
        for seed, size in ((0, 30), (0, 7), (1, 30))
    )
    np.testing.assert_allclose(
        a.frame["value"], b.frame["value"], rtol=1e-4
    )  # a network sums in another order in other batches
    assert not np.allclose(a.frame["value"], c.frame["value"], rtol=1e-2)


def test_filter_energy_of_checkpoints(tmp_path: Path) -> None:
    out = tmp_path / "energy.csv"
    done = CliRunner().invoke(app, ["filter-energy", NET, "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert {row["metric"] for row in rows} == {"filter_energy", "filter_energy_per_direction", "filter_homogeneity"}
    assert Table.load(out).frame["layer"].nunique() == 4


def test_the_real_resnet20_keeps_deformations_better_than_noise(real_data: Path) -> None:
    weights = real_data / "weights" / "resnet20-12fca82f.th"
    table = stability_runs(
        "py:tests.networks.cifar_resnet:resnet20",
        f"imagefolder:{real_data}/cifar10/val.tar.gz",
        ["diffeo:delta=1,c=3", "noise:match=diffeo"],
        weights=weights, init=2, limit=150, layers=["layer?.?.relu2", "linear"],
    )  # fmt: skip

    def curve(run: str, metric: str, label: str = "diffeo") -> dict[str, float]:
        frame = table.select(run=run, metric=metric, variant="", perturbation=label).frame
        return dict(zip(frame["layer"], frame["value"], strict=True))

    trained, init = curve("resnet20", "relative_stability"), curve("resnet20, init", "relative_stability")
    assert trained["input"] == pytest.approx(1, abs=1e-10)
    assert trained["linear"] < 0.35 < 0.5 < init["linear"]
    assert min(value for layer, value in init.items() if layer != "linear") > 0.6
    sensitive = curve("resnet20", "sensitivity")
    assert sensitive["linear"] < 0.6 * sensitive["layer1.1.relu2"]
    noisy = curve("resnet20", "sensitivity", "noise:match=diffeo")
    assert noisy["linear"] > 5 * noisy["input"]


def test_a_factory_without_randomness_has_no_initialisation(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import repanalysis.networks.digits_cnn as module

    def fixed() -> torch.nn.Module:
        torch.manual_seed(5)
        return module.digits_cnn()

    monkeypatch.setattr(module, "fixed", fixed, raising=False)
    with pytest.raises(UsageError, match="the same weights every time"):
        stability_runs("py:repanalysis.networks.digits_cnn:fixed", "digits", "shift:1", init=1, limit=10)


@pytest.mark.filterwarnings("default")
def test_a_warning_is_a_sentence_on_the_command_line(tmp_path: Path) -> None:
    arguments = ["stability", "small:mlp,width=2,colours=1,size=8", "--data", "digits", "-p", "diffeo:delta=3", "--limit", "10"]
    done = CliRunner().invoke(app, [*arguments, "-o", str(tmp_path / "s.csv")])
    assert done.exit_code == 0, done.output
    told = [line for line in done.stderr.splitlines() if line.startswith("Warning: ")]
    assert told == ["Warning: delta = 3 pixels folds images of 8 pixels at c = 3; up to 0.849 pixels fit."]
    assert list(Table.load(tmp_path / "s.csv").provenance) == ["mlp"]

"""Tables and figures on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import probes
from repanalysis.table import Table
from tests.cli.running import refused, run, write_acts


def test_infinite_values_are_reported_once_per_reason(tmp_path: Path) -> None:
    x, y = np.repeat(np.eye(3), 4, axis=0), np.repeat(np.arange(3), 4)
    completed = run("analyze", write_acts(tmp_path / "c.h5", {"a": x, "b": 2 * x}, y), "-m", "fisher_ratio")
    assert "Undefined or infinite at 2 layers: the within-class covariance has rank 0 of 3" in completed.stdout


def test_several_runs_are_compared_side_by_side(acts: Path, tmp_path: Path) -> None:
    second = write_acts(tmp_path / "other.h5")
    completed = run("analyze", acts, second, "-o", tmp_path / "r.csv")
    assert completed.stdout.splitlines()[1].split()[:2] == ["acts", "other"]
    plot = run("plot", tmp_path / "r.csv", "-o", tmp_path / "x.png", "-m", "within_class_variance", "--variant", "relative")
    assert plot.exit_code == 0, plot.output


def test_unusable_data_have_one_sentence_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    unlabelled = write_acts(tmp_path / "u.h5", {"a": x}, None)
    assert "have no labels" in refused("analyze", unlabelled, code=1)
    assert run("analyze", unlabelled, "-m", "coding_rate").exit_code == 0
    assert "are of one class (0)" in refused("analyze", write_acts(tmp_path / "o.h5", {"a": x}, np.zeros(60, int)), code=1)
    x[17, 1] = np.nan
    bad = write_acts(tmp_path / "n.h5", {"a": x})
    assert "Layer 'a' holds nan at sample id 17" in refused("analyze", bad, "--strict", code=1)


def test_a_layer_that_is_not_finite_is_a_row_and_exit_code_3(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = {"a": rng.normal(size=(60, 3)), "b": rng.normal(size=(60, 4)), "c": rng.normal(size=(60, 4))}
    x["b"][17, 1] = np.inf
    acts = write_acts(tmp_path / "n.h5", x)
    table, figure = tmp_path / "t.csv", tmp_path / "f.svg"
    completed = run("analyze", acts, "-o", table, "-f", figure)
    assert completed.exit_code == 3, completed.output
    assert completed.stderr == (
        "Error: 1 of 3 layers could not be analyzed, 'b': holds inf at sample id 17, the only such sample of 60. What is "
        "missing is NaN; --layers '!b' leaves a layer out, and --strict stops at the first.\n"
    )
    frame = Table.load(table).frame
    assert frame[frame["layer"] == "b"]["value"].isna().all()
    assert frame[frame["layer"] == "a"]["value"].notna().any()
    assert Table.load(table).failures == {"b": "holds inf at sample id 17, the only such sample of 60"}
    assert figure.exists()
    report = json.loads(run("analyze", acts, "--json").stdout)
    assert report["provenance"]["n"]["failures"] == Table.load(table).failures
    assert all(row["value"] is None for row in report["rows"] if row["layer"] == "b")
    plain = run("analyze", acts, "-l", "!b", "-m", "fisher_ratio")
    assert plain.exit_code == 0, plain.output
    assert run("plot", table, "-o", tmp_path / "d.svg", "-m", "fisher_ratio").exit_code == 0
    alike = run("compare", acts, "-o", tmp_path / "cka.csv", "-f", tmp_path / "cka.svg")
    assert alike.exit_code == 3, alike.output
    assert "1 layer could not be compared, 'n, b': Layer 'b' of" in alike.stderr
    assert run("compare", acts, "-l", "!b").exit_code == 0
    assert "holds NaN or inf in 1 of 60 samples, the first of them id 17" in refused("compare", acts, "--strict", code=1)
    looked = run("filters", acts, "-o", tmp_path / "filters.csv", "--bootstrap", 0)
    assert looked.exit_code == 3, looked.output
    assert Table.load(tmp_path / "filters.csv").failures.keys() == {"b"}
    assert run("filters", acts, "-o", tmp_path / "f2.csv", "--bootstrap", 0, "-l", "!b").exit_code == 0
    assert "holds NaN or inf in 1 of" in refused("filters", acts, "-o", tmp_path / "f3.csv", "--strict", code=1)


def test_the_memory_of_statistics_is_bounded_and_the_bound_can_be_raised(acts: Path) -> None:
    tight = run("analyze", acts, "-m", "fisher_ratio", "--state-budget", 1e-7)
    assert "raise the budget (state_budget=, --state-budget)" in tight.stdout
    assert "Undefined" not in run("analyze", acts, "-m", "fisher_ratio").stdout


def test_fisher_ratio_and_rate_reduction_of_resnet20_rise_over_its_last_stage(real_data: Path, tmp_path: Path) -> None:
    """Extraction and analysis on real data: Fisher ratio and rate reduction rise over the last stage."""
    weights, images = real_data / "weights" / "resnet20-12fca82f.th", real_data / "cifar10" / "val.tar.gz"
    acts, results = tmp_path / "acts.h5", tmp_path / "results.csv"
    words = ["extract", "py:tests.networks.cifar_resnet:resnet20", "--weights", weights, "--data", f"imagefolder:{images}"]
    completed = run(*words, "-o", acts, "--limit", 2000, "-l", "layer*.relu2")
    assert completed.exit_code == 0, completed.output
    assert run("analyze", acts, "-o", results, "-m", "fisher_ratio,rate_reduction").exit_code == 0
    assert run("plot", results, "-o", tmp_path / "depth.png").exit_code == 0
    table = Table.load(results)
    for metric in ("fisher_ratio", "rate_reduction"):
        values = table.select(metric=metric, variant="").frame["value"].to_numpy()
        assert len(values) == 9
        assert (np.diff(values[5:]) > 0).all(), f"{metric}: {values}"
        assert values[-1] > 3 * values[5]


def test_features_in_an_npz_file_are_analysed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", early=rng.normal(size=(50, 4)), late=rng.normal(size=(50, 6)), labels=np.arange(50) % 2)
    result = run("analyze", tmp_path / "x.npz", "-m", "fisher_ratio", "--json")
    assert {row["layer"] for row in json.loads(result.stdout)["rows"]} == {"early", "late"}


def test_layers_are_compared(acts: Path, tmp_path: Path) -> None:
    completed = run("compare", acts, "-o", tmp_path / "cka.csv", "--figure", tmp_path / "cka.svg", "--samples", 50)
    assert completed.exit_code == 0, completed.output
    assert "cka" in completed.stdout
    assert (tmp_path / "cka.svg").stat().st_size > 1000
    repeated = run("compare", acts, acts, "-o", tmp_path / "cka.csv")
    assert repeated.exit_code == 2
    assert "--overwrite" in repeated.stderr
    unknown = run("compare", acts, "--method", "ckaa")
    assert unknown.exit_code == 2
    assert "Did you mean 'cka'?" in unknown.stderr


def test_null_classes_superclasses_and_a_heat_map(acts: Path, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("low = [0, 1]\nhigh = [2]\n")
    options = ("-m", "fisher_ratio,nc1", "--null", 3, "--workers", 1)
    for number in range(2):
        completed = run("analyze", acts, *options, "-o", tmp_path / f"r{number}.csv", "--classes", "0,1,2")
        assert completed.exit_code == 0, completed.output
    table = Table.load(tmp_path / "r0.csv")
    assert set(table.frame["perturbation"]) == {"", "label permutation"}
    assert table.frame[table.frame["perturbation"] == ""]["se"].notna().any()
    joined = run("analyze", acts, "-m", "nc2_equinorm", "--superclasses", tmp_path / "s.toml", "--json")
    assert joined.exit_code == 0, joined.output
    (tmp_path / "s.toml").write_text("low = 3")
    assert "list of classes per superclass" in run("analyze", acts, "--superclasses", tmp_path / "s.toml").stderr
    plot = run("plot", tmp_path / "r0.csv", "-o", tmp_path / "f.svg", "-m", "fisher_ratio", "--heatmap")
    assert plot.exit_code == 0, plot.output
    assert "--heatmap shows one metric" in run("plot", tmp_path / "r0.csv", "-o", tmp_path / "g.svg", "--heatmap").stderr


def test_a_head_from_a_file(acts: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    table = run("analyze", acts, "-m", "nc2_equinorm", "--json")
    d = {
        layer: facts["d"]
        for facts in json.loads(table.stdout)["provenance"].values()
        for layer, facts in facts["layers"].items()
    }
    layer, width = next(iter(d.items()))
    save_file({"fc.weight": np.ones((10, width), "f4"), "fc.bias": np.zeros(10, "f4")}, tmp_path / "head.safetensors")
    completed = run(
        "analyze", acts, "-m", "nc3_duality", "-l", layer, "--head", f"{tmp_path / 'head.safetensors'}:fc", "--json"
    )
    assert completed.exit_code == 0, completed.output
    assert all(0 <= row["value"] <= 2 for row in json.loads(completed.stdout)["rows"])
    wrong = run("analyze", acts, "-m", "nc3_duality", "--head", f"{tmp_path / 'head.safetensors'}:head")
    assert "holds no linear layer 'head'. It holds fc." in wrong.stderr


def test_with_a_null_the_terminal_shows_the_measured_value(tmp_path: Path) -> None:
    """Regression: with --null the mean under random labels was shown in place of the value."""
    acts = write_acts(tmp_path / "a.h5")
    options = ("-m", "fisher_ratio", "--groups", 0)
    plain = run("analyze", acts, *options, "-o", tmp_path / "a.csv").stdout.splitlines()
    with_null = run("analyze", acts, *options, "--null", 19, "-o", tmp_path / "b.csv").stdout.splitlines()
    assert [line for line in plain if line.startswith(("conv", "relu"))] == [
        line for line in with_null if line.startswith(("conv", "relu"))
    ]
    assert any(line.startswith("Random labels: p is at most 0.05 for ") for line in with_null)


def test_samples_that_may_differ_are_not_compared(tmp_path: Path) -> None:
    rng, files = np.random.default_rng(0), {}
    for name, dataset in (("train", "npz:train.npz"), ("val", "npz:val.npz")):
        files[name] = tmp_path / f"{name}.h5"
        with probes.create(files[name], attrs={"dataset": dataset, "ids_from": "index"}) as writer:
            writer.append(probes.Batch(np.arange(30), {"x": rng.normal(size=(30, 4))}))
    sentence = refused("compare", files["train"], files["val"], code=1)
    assert "positions in npz:train.npz and in npz:val.npz: equal ids may be different samples" in sentence
    assert run("compare", files["train"], files["val"], "--same-samples").exit_code == 0
    assert run("compare", files["train"]).exit_code == 0

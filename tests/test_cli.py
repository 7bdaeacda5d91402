"""The command line, as a user types it: the main job, and one sentence and an exit code for what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from probes import Batch
from probes.writer import create
from repanalysis.cli import app
from repanalysis.table import Table

DIGITS = "py:repanalysis.networks.digits_cnn:digits_cnn"


def write_acts(
    path: Path, layers: dict[str, np.ndarray] | None = None, y: np.ndarray | str | None = "three", *, complete: bool = True
) -> Path:
    """A small activations file: 60 samples of three classes in two layers, unless told otherwise."""
    rng = np.random.default_rng(0)
    layers = layers or {"conv": rng.normal(size=(60, 4)), "relu": rng.normal(size=(60, 5))}
    n = len(next(iter(layers.values())))
    labels = np.arange(n) % 3 if isinstance(y, str) else y
    writer = create(path, attrs={"model": "m"})
    writer.append(Batch(ids=np.arange(n), layers=layers, labels=labels))
    writer.close(complete=complete)
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refused(*words: object, code: int) -> str:
    """The one sentence on stderr."""
    result = run(*words)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    return lines[0].removeprefix("Error: ")


@pytest.fixture
def acts(tmp_path: Path) -> Path:
    return write_acts(tmp_path / "acts.h5")


def test_from_a_model_to_a_figure(tmp_path: Path) -> None:
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


def test_a_timm_model_on_a_folder_of_images_with_local_weights(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "w.pth")
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(rng.integers(0, 255, (40, 50, 3), np.uint8)).save(tmp_path / "images" / name / f"{i}.jpg")
    words = ["extract", "timm:resnet18", "--weights", tmp_path / "w.pth", "--data", f"imagefolder:{tmp_path / 'images'}"]
    done = run(
        *words, "-o", tmp_path / "acts.h5", "--size", 64, "-l", "layer?", "-l", "type:Linear", "--batch-size", 4, "--json"
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["layers"] == ["layer1", "layer2", "layer3", "layer4", "fc"]
    told = json.loads(run("info", tmp_path / "acts.h5", "--json").stdout)
    assert told["complete"] is True
    assert json.loads(told["preprocessing"])["input_size"] == [3, 64, 64]


def test_layers_lists_what_runs() -> None:
    done = run("layers", "timm:resnet18", "--size", 64)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["order", "layer", "type", "shape", "depth"]
    assert len(lines) == 78
    everything = json.loads(run("layers", "timm:resnet18", "--size", 64, "--all", "--json").stdout)["layers"]
    assert {"layer1", "layer1.0", "layer1.0.conv1"} <= {layer["name"] for layer in everything}
    assert "give --size, or --data for a sample" in refused("layers", DIGITS, code=2)
    assert run("layers", DIGITS, "--data", "digits").exit_code == 0


def test_json_is_json_and_quiet_is_quiet(acts: Path) -> None:
    told = json.loads(run("analyze", acts, "--json").stdout)
    assert {row["layer"] for row in told["rows"]} == {"conv", "relu"}
    assert told["provenance"]["acts"]["source"] == str(acts)
    assert run("analyze", acts, "--quiet").output == ""


def test_options_from_a_file(acts: Path, tmp_path: Path) -> None:
    config = tmp_path / "run.toml"
    config.write_text('quiet = true\n[analyze]\nmetrics = "coding_rate"\nlayers = ["relu"]\n')
    done = run("analyze", acts, "--config", config, "-o", tmp_path / "r.csv")
    assert done.exit_code == 0, done.output
    assert done.output == ""
    assert Table.load(tmp_path / "r.csv").frame[["layer", "metric"]].to_numpy().tolist() == [["relu", "coding_rate"]] * 3
    config.write_text("metrik = 1")
    wrong = run("analyze", acts, "--config", config)
    assert wrong.exit_code == 2
    assert "Did you mean 'metrics'?" in " ".join(wrong.stderr.replace("│", " ").split())


def test_infinite_values_are_told_once_per_reason(tmp_path: Path) -> None:
    x, y = np.repeat(np.eye(3), 4, axis=0), np.repeat(np.arange(3), 4)
    done = run("analyze", write_acts(tmp_path / "c.h5", {"a": x, "b": 2 * x}, y), "-m", "fisher_ratio")
    assert "Undefined or infinite at 2 layers: the within-class covariance has rank 0 of 3" in done.stdout


def test_several_runs_stand_side_by_side(acts: Path, tmp_path: Path) -> None:
    other = write_acts(tmp_path / "other.h5")
    done = run("analyze", acts, other, "-o", tmp_path / "r.csv")
    assert done.stdout.splitlines()[1].split()[:2] == ["acts", "other"]
    one = run("plot", tmp_path / "r.csv", "-o", tmp_path / "x.png", "-m", "within_class_variance", "--variant", "relative")
    assert one.exit_code == 0, one.output


def test_wrong_words(acts: Path, tmp_path: Path) -> None:
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
    assert "is no list of numbers" in refused(
        "extract", DIGITS, "--data", "digits", "-o", tmp_path / "x.h5", "--mean", "a", code=2
    )
    assert not (tmp_path / "x.h5").exists()
    assert run("analyse", acts).exit_code == 2
    assert run("analyze").exit_code == 2


def test_missing_and_foreign_files(acts: Path, tmp_path: Path) -> None:
    assert refused("analyze", tmp_path / "none.h5", code=2) == f"There is no file {tmp_path / 'none.h5'}."
    assert refused("info", tmp_path / "none.h5", code=2) == f"There is no file {tmp_path / 'none.h5'}."
    assert "There is no file" in refused("plot", tmp_path / "none.csv", "-o", tmp_path / "x.svg", code=2)
    (tmp_path / "text.h5").write_text("hello")
    assert "it is no HDF5 file" in refused("analyze", tmp_path / "text.h5", code=1)
    h5py.File(tmp_path / "foreign.h5", "w").close()
    assert "but not an activations file" in refused("info", tmp_path / "foreign.h5", code=1)
    (tmp_path / "cut.h5").write_bytes(acts.read_bytes()[:3000])
    assert "is truncated" in refused("analyze", tmp_path / "cut.h5", code=1)


def test_incomplete_files_say_how_far_they_came(tmp_path: Path) -> None:
    path = write_acts(tmp_path / "acts.h5", complete=False)
    assert "stopped after 60 samples" in refused("analyze", path, code=3)
    assert run("analyze", path, "--partial").exit_code == 0
    told = run("info", path)
    assert told.exit_code == 0
    assert "INCOMPLETE: writing stopped after 60 samples" in told.stdout


def test_data_that_can_not_answer(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    unlabelled = write_acts(tmp_path / "u.h5", {"a": x}, None)
    assert "have no labels" in refused("analyze", unlabelled, code=1)
    assert run("analyze", unlabelled, "-m", "coding_rate").exit_code == 0
    assert "are of one class (0)" in refused("analyze", write_acts(tmp_path / "o.h5", {"a": x}, np.zeros(60, int)), code=1)
    x[17, 1] = np.nan
    assert "Layer 'a' holds nan at sample id 17" in refused("analyze", write_acts(tmp_path / "n.h5", {"a": x}), code=1)


def test_nothing_is_overwritten_unasked(acts: Path, tmp_path: Path) -> None:
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


def test_a_model_that_fails_in_the_middle_leaves_what_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__(); self.fc = nn.Linear(64, 4); self.calls = 0\n"
        "    def forward(self, x):\n"
        "        self.calls += 1\n"
        "        if self.calls == 3: raise RuntimeError('the third batch is too much')\n"
        "        return self.fc(x.flatten(1))\n"
    )
    monkeypatch.chdir(tmp_path)
    sentence = refused("extract", "py:failing:Net", "--data", "digits", "-o", "acts.h5", "--batch-size", 50, code=1)
    assert sentence == (
        "RuntimeError: the third batch is too much (while Net ran on samples 100 to 149 (step 2)) "
        "(100 samples are whole in acts.h5; go on with resume=True (--resume), or read them with "
        "probes.open('acts.h5', partial=True))"
    )
    assert "stopped after 100 samples" in refused("analyze", "acts.h5", code=3)
    assert run("analyze", "acts.h5", "--partial").exit_code == 0


def test_a_log_has_no_progress_bar_and_threads_are_limited(acts: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "repanalysis.cli", "analyze", str(acts), "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    broken = subprocess.run(
        [*command[:4], "none.h5"], capture_output=True, text=True, check=False, env=os.environ | {"REPANALYSIS_TRACEBACK": "1"}
    )
    assert broken.returncode == 2
    assert "Traceback" in broken.stderr


def test_the_memory_of_statistics_is_bounded_and_the_bound_can_be_raised(acts: Path) -> None:
    tight = run("analyze", acts, "-m", "fisher_ratio", "--state-budget", 1e-7)
    assert "raise the budget (state_budget=, --state-budget)" in tight.stdout
    assert "Undefined" not in run("analyze", acts, "-m", "fisher_ratio").stdout


def test_the_version_is_told() -> None:
    assert run("--version").stdout.startswith("repanalysis ")


def test_every_verb_takes_the_common_options() -> None:
    for verb in ("demo", "layers", "extract", "analyze", "plot", "info"):
        command: Any = __import__("typer").main.get_command(app)
        options = {option for parameter in command.commands[verb].params for option in parameter.opts}
        assert {"--seed", "--threads", "--quiet", "--json", "--config"} <= options


def test_the_real_resnet20_rises_over_its_last_stage(real_data: Path, tmp_path: Path) -> None:
    """The main job on real data: Fisher ratio and rate reduction rise over the last stage (specification, section 8)."""
    weights, images = real_data / "weights" / "resnet20-12fca82f.th", real_data / "cifar10" / "val.tar.gz"
    acts, results = tmp_path / "acts.h5", tmp_path / "results.csv"
    words = ["extract", "py:tests.networks.cifar_resnet:resnet20", "--weights", weights, "--data", f"imagefolder:{images}"]
    done = run(*words, "-o", acts, "--limit", 2000, "-l", "layer*.relu2")
    assert done.exit_code == 0, done.output
    assert run("analyze", acts, "-o", results).exit_code == 0
    assert run("plot", results, "-o", tmp_path / "depth.png").exit_code == 0
    table = Table.load(results)
    for metric in ("fisher_ratio", "rate_reduction"):
        values = table.select(metric=metric, variant="").frame["value"].to_numpy()
        assert len(values) == 9
        assert (np.diff(values[5:]) > 0).all(), f"{metric}: {values}"
        assert values[-1] > 3 * values[5]


def extracted(path: Path, *more: object) -> Path:
    assert run("extract", DIGITS, "--data", "digits", "--split", "test", "--limit", 100, "-o", path, *more).exit_code == 0
    return path


def test_plan_says_what_would_be_written_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("plan", DIGITS, "--data", "digits", "--split", "test", "--limit", 100, "--pool", "none")
    result = run(*words)
    assert "Total: " in result.stdout
    assert not list(tmp_path.iterdir())
    planned = json.loads(run(*words, "--json").stdout)
    path = extracted(tmp_path / "x.h5", "--pool", "none")
    with h5py.File(path) as raw:
        assert planned["bytes"] == sum(raw[f"layers/{name}/x"].nbytes for name in raw["layers"])
    assert all(layer["state_bytes"] > 8 * np.prod(layer["kept"]) ** 2 for layer in planned["layers"])


def test_plan_keeps_a_budget_with_pools_that_extract_takes(tmp_path: Path) -> None:
    words = ("plan", DIGITS, "--data", "digits", "--split", "test", "--limit", 100, "--pool", "none", "--budget", "1MB")
    result = run(*words)
    assert "To fit the budget:" in result.stdout
    assert "loses" in result.stdout
    planned = json.loads(run(*words, "--json").stdout)
    assert planned["bytes"] <= 1_000_000
    pools = [word for pool in planned["pools"] for word in ("--pool", pool)]
    with h5py.File(extracted(tmp_path / "x.h5", *pools)) as raw:
        assert planned["bytes"] == sum(raw[f"layers/{name}/x"].nbytes for name in raw["layers"])
    assert "'20 apples' is no size" in refused(*words[:-1], "20 apples", code=2)
    assert "more than 10 bytes" in refused(*words[:-1], "10B", code=2)


def test_extract_with_metrics_writes_the_table_alone(tmp_path: Path) -> None:
    streamed = extracted(tmp_path / "x.csv", "--metrics", "fisher_ratio,within_class_variance")
    assert not list(tmp_path.glob("*.h5"))
    dumped = tmp_path / "y.csv"
    run("analyze", extracted(tmp_path / "x.h5"), "-m", "fisher_ratio,within_class_variance", "-o", dumped)
    a, b = Table.load(streamed), Table.load(dumped)
    np.testing.assert_allclose(a.frame["value"], b.frame["value"], rtol=1e-10)
    assert a.frame["layer"].tolist() == b.frame["layer"].tolist()
    words = ("extract", DIGITS, "--data", "digits", "-o", tmp_path / "z.h5", "--metrics", "fisher_ratio")
    assert "Unknown table format '.h5'" in refused(*words, code=2)


def test_extract_resumes_and_refuses_other_options(tmp_path: Path) -> None:
    path = write_acts(tmp_path / "x.h5", complete=False)
    assert "--resume goes on with it" in refused("extract", DIGITS, "--data", "digits", "-o", path, code=2)
    sentence = refused("extract", DIGITS, "--data", "digits", "-o", path, "--resume", code=2)
    assert "was written by another run" in sentence
    assert "model: 'm' in the file" in sentence
    done = extracted(tmp_path / "y.h5")
    before = done.read_bytes()
    extracted(tmp_path / "y.h5", "--resume")
    assert done.read_bytes() == before


def test_pools_by_layer_dtype_ops_and_compression(tmp_path: Path) -> None:
    path = extracted(
        tmp_path / "x.h5", "--pool", "conv*=none", "--pool", "max", "--dtype", "float16", "--ops", "--compression", "zstd"
    )
    with h5py.File(path) as raw:
        assert json.loads(raw["layers/conv1/x"].attrs["dims"])[2:] == ["height", "width"]
        assert raw["layers/relu1/x"].attrs["pool"] == "max"
        assert raw["layers/relu1/x"].dtype == np.float16
        assert raw.attrs["ops"] == 1
    assert "Unknown pool 'men'. Did you mean" in refused(
        "extract", DIGITS, "--data", "digits", "-o", tmp_path / "y.h5", "--pool", "men", code=2
    )


def test_verify_says_whether_the_numbers_come_out_again(tmp_path: Path) -> None:
    path = extracted(tmp_path / "x.h5")
    result = run("verify", DIGITS, path, "--samples", 8)
    assert result.exit_code == 0
    assert "layers come out again, on 8 random samples" in result.stdout
    other = "py:tests.networks.cifar_resnet:resnet20"
    assert "was made with other weights" in refused("verify", other, path, code=2)


def test_doctor_tells_what_is_whole_and_what_to_do(tmp_path: Path) -> None:
    whole, stopped = write_acts(tmp_path / "a.h5"), write_acts(tmp_path / "b.h5", complete=False)
    assert run("doctor", whole).exit_code == 0
    result = run("doctor", stopped)
    assert result.exit_code == 3
    assert "RESUMABLE" in result.stdout
    assert "--resume" in result.stdout
    content = bytearray(whole.read_bytes())
    content[len(content) // 2] ^= 1
    whole.write_bytes(content)
    result = run("doctor", whole)
    assert result.exit_code == 1
    assert "DAMAGED" in result.stdout
    assert "2 of 2 files need attention" in run("doctor", tmp_path).stderr


def test_merge_and_info_of_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        extracted(tmp_path / "acts", "--batch-size", 16)
    monkeypatch.undo()
    assert "samples          100" in run("info", tmp_path / "acts").stdout
    assert run("merge", tmp_path / "acts", "-o", tmp_path / "one.h5").exit_code == 0
    a, b = (json.loads(run("analyze", tmp_path / name, "--json").stdout)["rows"] for name in ("acts", "one.h5"))
    numbers = [[np.nan if row["value"] is None else float(row["value"]) for row in rows] for rows in (a, b)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-10, nan_ok=True)


def test_features_in_an_npz_file_are_analysed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "x.npz", early=rng.normal(size=(50, 4)), late=rng.normal(size=(50, 6)), labels=np.arange(50) % 2)
    result = run("analyze", tmp_path / "x.npz", "-m", "fisher_ratio", "--json")
    assert {row["layer"] for row in json.loads(result.stdout)["rows"]} == {"early", "late"}


def test_operations_are_listed() -> None:
    result = run("layers", "torchvision:resnet18", "--ops")
    assert "layer1.0.add" in result.stdout


def test_layers_are_compared(acts: Path, tmp_path: Path) -> None:
    done = run("compare", acts, "-o", tmp_path / "cka.csv", "--figure", tmp_path / "cka.svg", "--samples", 50)
    assert done.exit_code == 0, done.output
    assert "cka" in done.stdout
    assert (tmp_path / "cka.svg").stat().st_size > 1000
    again = run("compare", acts, acts, "-o", tmp_path / "cka.csv")
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    unknown = run("compare", acts, "--method", "ckaa")
    assert unknown.exit_code == 2
    assert "Did you mean 'cka'?" in unknown.stderr


def test_null_classes_superclasses_and_a_heat_map(acts: Path, tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text("low = [0, 1]\nhigh = [2]\n")
    options = ("-m", "fisher_ratio,nc1", "--null", 3, "--workers", 1)
    for number in range(2):
        done = run("analyze", acts, *options, "-o", tmp_path / f"r{number}.csv", "--classes", "0,1,2")
        assert done.exit_code == 0, done.output
    table = Table.load(tmp_path / "r0.csv")
    assert set(table.frame["perturbation"]) == {"", "label permutation"}
    assert table.frame[table.frame["perturbation"] == ""]["se"].notna().any()
    joined = run("analyze", acts, "-m", "nc2_equinorm", "--superclasses", tmp_path / "s.toml", "--json")
    assert joined.exit_code == 0, joined.output
    (tmp_path / "s.toml").write_text("low = 3")
    assert "list of classes per superclass" in run("analyze", acts, "--superclasses", tmp_path / "s.toml").stderr
    drawn = run("plot", tmp_path / "r0.csv", "-o", tmp_path / "f.svg", "-m", "fisher_ratio", "--heatmap")
    assert drawn.exit_code == 0, drawn.output
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
    done = run("analyze", acts, "-m", "nc3_duality", "-l", layer, "--head", f"{tmp_path / 'head.safetensors'}:fc", "--json")
    assert done.exit_code == 0, done.output
    assert all(0 <= row["value"] <= 2 for row in json.loads(done.stdout)["rows"])
    wrong = run("analyze", acts, "-m", "nc3_duality", "--head", f"{tmp_path / 'head.safetensors'}:head")
    assert "holds no linear layer 'head'. It holds fc." in wrong.stderr

"""From a network and data to activations, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import probes
from repanalysis.table import Table
from tests.cli.running import DIGITS, refused, run, write_acts
from tests.inputs.test_models import Clips, Tokens


def extracted(path: Path, *options: object) -> Path:
    assert run("extract", DIGITS, "--data", "digits", "--split", "test", "--limit", 100, "-o", path, *options).exit_code == 0
    return path


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
    completed = run(
        *words, "-o", tmp_path / "acts.h5", "--size", 64, "-l", "layer?", "-l", "type:Linear", "--batch-size", 4, "--json"
    )
    assert completed.exit_code == 0, completed.output
    assert json.loads(completed.stdout)["layers"] == ["layer1", "layer2", "layer3", "layer4", "fc"]
    info = json.loads(run("info", tmp_path / "acts.h5", "--json").stdout)
    assert info["complete"] is True
    assert json.loads(info["preprocessing"])["input_size"] == [3, 64, 64]


def test_layers_lists_the_modules_that_run() -> None:
    completed = run("layers", "timm:resnet18", "--size", 64)
    assert completed.exit_code == 0, completed.output
    lines = completed.stdout.splitlines()
    assert lines[0].split() == ["order", "layer", "type", "shape", "axes", "from", "prefix", "depth"]
    assert lines[2].split()[1:6] == ["bn1", "BatchNorm2d", "64x32x32", "BCHW", "measured"]
    assert len(lines) == 78
    everything = json.loads(run("layers", "timm:resnet18", "--size", 64, "--all", "--json").stdout)["layers"]
    assert {"layer1", "layer1.0", "layer1.0.conv1"} <= {layer["name"] for layer in everything}
    assert "give --size, or --data for a sample" in refused("layers", DIGITS, code=2)
    assert run("layers", DIGITS, "--data", "digits").exit_code == 0


def test_a_model_that_fails_midway_leaves_an_incomplete_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_plan_describes_the_output_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_plan_meets_a_budget_with_pools_that_extract_accepts(tmp_path: Path) -> None:
    words = ("plan", DIGITS, "--data", "digits", "--split", "test", "--limit", 100, "--pool", "none", "--budget", "1MB")
    result = run(*words)
    assert "To fit the budget:" in result.stdout
    assert "loses" in result.stdout
    planned = json.loads(run(*words, "--json").stdout)
    assert planned["bytes"] <= 1_000_000
    pools = [word for pool in planned["pools"] for word in ("--pool", pool)]
    with h5py.File(extracted(tmp_path / "x.h5", *pools)) as raw:
        assert planned["bytes"] == sum(raw[f"layers/{name}/x"].nbytes for name in raw["layers"])
    assert "'20 apples' is not a size" in refused(*words[:-1], "20 apples", code=2)
    assert "more than 10 bytes" in refused(*words[:-1], "10B", code=2)


def test_extract_with_metrics_writes_only_the_table(tmp_path: Path) -> None:
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
    assert "--resume continues it" in refused("extract", DIGITS, "--data", "digits", "-o", path, code=2)
    sentence = refused("extract", DIGITS, "--data", "digits", "-o", path, "--resume", code=2)
    assert "was written by another run" in sentence
    assert "model: 'm' in the file" in sentence
    completed = extracted(tmp_path / "y.h5")
    before = completed.read_bytes()
    extracted(tmp_path / "y.h5", "--resume")
    assert completed.read_bytes() == before


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


def test_operations_are_listed() -> None:
    result = run("layers", "torchvision:resnet18", "--ops")
    assert "layer1.0.add" in result.stdout


@pytest.mark.parametrize(
    ("factory", "size", "shapes"),
    [
        ("Tokens", "7", [[7, 4], [7, 2]]),
        ("Clips", "3x5x6x7", [[4, 3, 4, 5], [4, 3, 4, 5]]),
        ("Signals", "20", [[4, 18], [4, 18]]),
        ("Vectors", "5", [[4]]),
    ],
)
def test_layers_lists_networks_that_do_not_take_images(factory: str, size: str, shapes: list[list[int]]) -> None:
    completed = run("layers", f"py:tests.inputs.test_models:{factory}", "--size", size, "--json")
    assert [layer["source_shape"] for layer in json.loads(completed.stdout)["layers"]] == shapes


def test_tokens_and_clips_are_planned_and_extracted(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tokens, clips = rng.integers(0, 9, (10, 7)), rng.random((6, 3, 5, 6, 7)).astype(np.float32)
    np.savez(tmp_path / "t.npz", x=tokens, y=np.arange(10) % 2)
    np.savez(tmp_path / "c.npz", x=clips, y=np.arange(6) % 2)
    for name, factory, x in (("t", Tokens, torch.from_numpy(tokens)), ("c", Clips, torch.from_numpy(clips))):
        model, data = f"py:tests.inputs.test_models:{factory.__name__}", f"npz:{tmp_path / name}.npz"
        planned = json.loads(run("plan", model, "--data", data, "--pool", "none", "--json").stdout)
        run("extract", model, "--data", data, "-o", tmp_path / f"{name}.h5", "--pool", "none", "--seed", "3")
        torch.manual_seed(3)
        network = factory()
        with torch.no_grad():
            expected = network[0](x)
        store = probes.open(tmp_path / f"{name}.h5")
        np.testing.assert_allclose(store["0"], expected.numpy(), rtol=1e-5, atol=1e-6)
        assert planned["layers"][0]["kept"] == list(expected.shape[1:])


def test_stated_axes_apply_to_layers_plan_extract_and_verify(tmp_path: Path) -> None:
    layers = ["--layers", "fc2", "--axes", "fc2=BC"]
    listed = json.loads(run("layers", DIGITS, "--data", "digits", *layers, "--json").stdout)["layers"]
    assert (listed[0]["source_dims"], listed[0]["axes_from"]) == (["sample", "channel"], "given")
    assert run("plan", DIGITS, "--data", "digits", "--limit", 20, *layers).exit_code == 0
    path = tmp_path / "x.h5"
    completed = run("extract", DIGITS, "--data", "digits", "--limit", 20, "-o", path, *layers)
    assert completed.exit_code == 0, completed.output
    assert probes.open(path).attrs["axes"] == "fc2=BC"
    assert run("verify", DIGITS, path, "--trust-file").exit_code == 0
    assert "name 3 axes, but the output of 'fc2' has 2" in refused(
        "extract",
        DIGITS,
        "--data",
        "digits",
        "--limit",
        20,
        "-o",
        tmp_path / "y.h5",
        "--layers",
        "fc2",
        "--axes",
        "fc2=TBC",
        code=2,
    )


def test_a_complete_file_that_lacks_new_images_has_exit_code_3(tmp_path: Path) -> None:
    rng, folder = np.random.default_rng(0), tmp_path / "images" / "cat"
    folder.mkdir(parents=True)
    for i in range(4):
        Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(folder / f"{i}.png")
    model = "small:mlp,width=8,colours=3,size=8,classes=3"
    words = ("extract", model, "--data", f"imagefolder:{tmp_path / 'images'}", "-o", tmp_path / "x.h5")
    assert run(*words).exit_code == 0
    assert run(*words, "--resume").exit_code == 0
    Image.new("L", (8, 8)).save(folder / "!.png")
    assert "1 of the 5 samples that there are now are not in it ('cat/!.png' first)" in refused(*words, "--resume", code=3)
    assert json.loads(run("info", tmp_path / "x.h5", "--json").stdout)["ids_from"] == "name"
    assert "names of their files" in run("layers", model, "--data", f"imagefolder:{tmp_path / 'images'}").stdout

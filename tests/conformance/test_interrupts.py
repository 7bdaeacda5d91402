"""Ctrl-C and SIGTERM at every kind of moment, then resuming: the file equals that of an uninterrupted run.

Regression: an interrupt while the main thread joined the writer's thread left two threads writing the same columns. Rows of a
batch were repeated in some layers, all later rows had ids of other samples, and `doctor` reported "whole".
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

import probes
import probes.storage.writer
from probes.checking import doctor
from probes.storage.background import Background
from probes.storage.columns import Column
from probes.storage.journal import AtomicFile
from probes.storage.writer import Writer
from tests.conformance.test_crashes import content

SERVER = """
import os, sys, traceback
import torch, probes, probes.storage.writer, repanalysis.cli, repanalysis.extraction, repanalysis.networks.small
import sklearn.datasets, sklearn.model_selection

probes.storage.writer._COMMIT_SECONDS = (0.0, 0.0)  # a commit for every batch: as many places to be interrupted in as can be
probes.storage.writer._CHUNK_BYTES = (4000, 8000)
probes.storage.writer._BUFFERED_BYTES = 2000
torch.set_num_threads(1)
for line in sys.stdin:  # every run is a process of its own, forked where torch is imported already
    path, compression = line.split()
    if not (pid := os.fork()):
        log = os.open(path + ".log", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)
        sys.argv = ["repanalysis", "extract", "small:mlp,width=16,size=8,colours=1,classes=10", "--weights", "random"]
        sys.argv += ["--data", "digits", "--limit", "360", "--batch-size", "12", "-o", path, "--compression", compression]
        sys.argv += ["--resume"]
        code = 99
        try:
            repanalysis.cli.main()
        except SystemExit as error:
            code = error.code or 0
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


class Server:
    """Runs `extract`, each time in a new process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, path: Path, compression: str, signals: list[tuple[float, int]] | None = None) -> int:
        """The exit code after a list of signals, each with its delay in seconds after the previous one."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{path} {compression}\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        for wait, number in signals or []:
            time.sleep(wait)
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return os.waitstatus_to_exitcode(int(self.process.stdout.readline()))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Server(process)
        assert process.stdin is not None
        process.stdin.close()


def interrupted_and_resumed(server: Server, tmp_path: Path, compression: str, interrupts: int, seed: int) -> None:
    """Interrupt runs by one or two signals; compare the file of each run that ends, then start again."""
    reference, path, log = tmp_path / "whole.h5", tmp_path / "acts.h5", tmp_path / "acts.h5.log"
    assert server.run(tmp_path / "first.h5", compression) == 0  # the first process is slower than the others
    start = time.monotonic()
    assert server.run(reference, compression) == 0
    duration, truth = time.monotonic() - start, content(reference)
    rng, stopped, codes = np.random.default_rng(seed), 0, set()
    while stopped < interrupts or path.exists():
        first, second = (int(rng.choice([signal.SIGINT, signal.SIGTERM])) for _ in range(2))
        signals = [(float(rng.uniform(0.05, duration)), first)]
        signals += [(float(rng.uniform(0, 0.02)), second)] if rng.random() < 0.5 else []
        code = server.run(path, compression, signals if stopped < interrupts else None)
        codes.add(code)
        if code in (
            -signal.SIGINT,
            -signal.SIGTERM,
            1,
        ):  # before the command started or during Python's exit, where no handler is installed
            assert code < 0 or "Aborted" in log.read_text()
        elif code:
            assert code in (130, 143), log.read_text()
            assert log.read_text().rstrip().splitlines()[-1].startswith("Stopped.")
            if (named := re.search(r"(\d+) samples are whole in", log.read_text())) and path.exists():
                with probes.open(path, partial=True) as store:
                    assert len(store) == int(named[1])
        if code == 0:
            arrays = content(path)
            assert list(arrays) == list(truth)
            for name, array in truth.items():
                np.testing.assert_array_equal(arrays[name], array, err_msg=name)
            path.unlink()
            continue
        stopped += 1
        if path.exists():
            assert doctor(path, progress=False)[0].state in ("resumable", "empty", "whole"), doctor(path, progress=False)
    assert codes & {130, 143}


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_run_interrupted_at_random_moments_and_resumed_writes_the_same_file(
    server: Server, tmp_path: Path, compression: str
) -> None:
    interrupted_and_resumed(server, tmp_path, compression, interrupts=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_a_run_interrupted_two_hundred_times_writes_the_same_file(server: Server, tmp_path: Path, compression: str) -> None:
    interrupted_and_resumed(server, tmp_path, compression, interrupts=100, seed=1)


MOMENTS: dict[str, tuple[type, str]] = {
    "opening": (Writer, "_open"),
    "rows are taken": (Writer, "_buffer_rows"),
    "a column is written": (Column, "_write"),
    "a commit": (Writer, "_commit"),
    "the journal": (AtomicFile, "commit"),
    "closing": (Writer, "_close"),
    "the seal": (AtomicFile, "seal"),
    "handing over": (Background, "put"),
}


def arm(monkeypatch: pytest.MonkeyPatch, moment: str, call: int, *, after: bool) -> None:
    """Send Ctrl-C to the main thread before or after the n-th call of a method, and again while it closes."""
    kind, name = MOMENTS[moment]
    remaining = [call]

    def patch(owner: type, method: str, due: Callable[[], bool]) -> None:
        original = getattr(owner, method)

        def wrapped(*args: object, **kwargs: object) -> object:
            now = due()
            if now and not after:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                time.sleep(0.01)
            result = original(*args, **kwargs)
            if now and after:
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                time.sleep(0.01)
            return result

        monkeypatch.setattr(owner, method, wrapped)

    def due() -> bool:
        remaining[0] -= 1
        return remaining[0] == 0

    patch(kind, name, due)
    if moment != "closing":
        patch(Writer, "_close", lambda: remaining[0] <= 0)


@pytest.mark.parametrize(("compression", "call"), [("none", 1), ("gzip", 2), ("none", 5)])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_interrupted_twice_at_a_moment_and_resumed_writes_the_same_file(
    tmp_path: Path, moment: str, call: int, *, after: bool, compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes.storage.writer, "_COMMIT_SECONDS", (0.0, 0.0))
    monkeypatch.setattr(probes.storage.writer, "_CHUNK_BYTES", (200, 400))
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
    loader = [(torch.randn(4, 3), torch.arange(4) % 2) for _ in range(6)]
    reference = probes.record(model, loader, tmp_path / "whole.h5", compression=compression)
    path = tmp_path / "x.h5"
    interrupt: BaseException | None = None
    with monkeypatch.context() as patched:
        arm(patched, moment, call, after=after)
        try:
            probes.record(model, loader, path, compression=compression)
        except KeyboardInterrupt as error:
            interrupt = error
    assert threading.active_count() < 20
    if path.exists():
        store = probes.open(path, partial=True)
        note = " ".join(getattr(interrupt, "__notes__", []))
        assert f"{len(store)} samples are whole in" in note or not note
    monkeypatch.setattr(probes.storage.writer, "_COMMIT_SECONDS", (0.0, 0.0))
    resumed = probes.record(model, loader, path, compression=compression, resume=True)
    for layer in reference.layers:
        np.testing.assert_array_equal(resumed[layer], reference[layer])
    np.testing.assert_array_equal(resumed.ids, reference.ids)
    np.testing.assert_array_equal(resumed.labels, reference.labels)
    assert [finding.state for finding in doctor(path, progress=False)] == ["whole"]

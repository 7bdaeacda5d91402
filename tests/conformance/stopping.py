"""Runs commands in separate processes that stop at a given moment: `python -m tests.conformance.stopping`.

A moment is before or after a call that changes a file or folder: open for writing, replace, unlink, fsync, ... A line of JSON
on stdin gives the command and where to stop; a line of JSON on stdout gives the result. Each run is forked after all
imports, so its time is only that of its work.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CALLS = (
    "open",
    "replace",
    "rename",
    "unlink",
    "remove",
    "fsync",
    "fdatasync",
    "truncate",
    "ftruncate",
    "pwrite",
    "mkdir",
    "chmod",
)
PRELOADED = (
    "pyarrow.parquet", "sklearn.datasets", "sklearn.linear_model", "matplotlib.pyplot", "matplotlib.backends.backend_svg",
    "repanalysis.analyses.stability.filter_energy", "repanalysis.analyses.filters.laws", "repanalysis.analyses.similarity",
    "repanalysis.analyses.pruning.networks", "repanalysis.analyses.pruning.recorded_heads", "repanalysis.studies.noise",
    "repanalysis.training.runs", "repanalysis.plots.filter_sheets",
    "torch.distributed", "torch._dynamo",
)  # fmt: skip
_READ_LINK = os.readlink


class StopPoints:
    """Lists the moments of calls that change a folder, and stops the process at the moment with index `stop_at`."""

    def __init__(self, folder: str, stop_at: int | None, signal_name: str) -> None:
        self.folder, self.stop_at, self.signal_name = folder, stop_at, signal_name
        self.names: list[str] = []

    def reach(self, name: str) -> None:
        self.names.append(name)
        if len(self.names) - 1 == self.stop_at:
            os.kill(os.getpid(), signal.SIGKILL if self.signal_name == "kill" else signal.SIGINT)

    def within(self, target: Any) -> bool:
        with contextlib.suppress(OSError):
            path = _READ_LINK(f"/proc/self/fd/{target}") if isinstance(target, int) else os.path.abspath(os.fsdecode(target))  # noqa: PTH100
            return path.startswith(self.folder)
        return False

    def observed(self, name: str, real: Callable[..., Any], writes: Callable[..., bool]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            target = arguments[0] if arguments else options.get("path", options.get("file"))
            if not (writes(*arguments, **options) and self.within(target)):
                return real(*arguments, **options)
            path = _READ_LINK(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fsdecode(target)
            call_and_file = f"{name} {Path(path).name}"
            self.reach(f"before {call_and_file}")
            result = real(*arguments, **options)
            self.reach(f"after {call_and_file}")
            return result

        return call

    def install(self) -> None:
        """Replace the system's calls by observed ones."""

        def opens(_: Any, mode: Any = "r", *__: Any, **___: Any) -> bool:
            return bool(set(mode) & set("wax+"))

        def opens_fd(_: Any, flags: int, *__: Any, **___: Any) -> bool:
            return bool(flags & (os.O_CREAT | os.O_TRUNC))

        def always(*_: Any, **__: Any) -> bool:
            return True

        for name in CALLS:
            setattr(os, name, self.observed(f"os.{name}", getattr(os, name), opens_fd if name == "open" else always))
        builtins.open = io.open = self.observed("open", io.open, opens)


def run(job: dict[str, Any], pipe: int) -> None:
    """The forked process."""
    os.chdir(job["folder"])
    os.environ.update(job["env"])
    for number in (1, 2):  # its output goes to a file
        os.dup2(os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    points = StopPoints(job["folder"], job["at"], job["how"])
    points.install()
    code = 0
    try:
        if "call" in job:
            module, _, name = job["call"].rpartition(".")
            getattr(importlib.import_module(module), name)()
        else:
            sys.argv = ["repanalysis", *job["words"]]
            importlib.import_module("repanalysis.cli").app()
    except SystemExit as error:
        code = int(error.code or 0)
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
        code = 99
    os.write(pipe, json.dumps({"code": code, "moments": points.names}).encode())
    os._exit(0)


def replace_file() -> None:
    """Replace a file, as every command does at the end."""
    from probes.atomic_files import replacing

    with replacing("t.csv") as draft:
        draft.write_text("new")


def serve() -> None:
    """Import the modules of all commands, then fork a process per line; no thread may be started here."""
    import matplotlib
    import torch
    from matplotlib.figure import Figure

    from repanalysis.cli import app

    matplotlib.use("agg")
    torch.set_num_threads(1)
    for name in PRELOADED:
        importlib.import_module(name)
    figure = Figure()
    figure.subplots().set_title("$x$")
    figure.savefig(io.BytesIO(), format="png")
    app(["plan", "small:mlp,width=2,colours=1,size=8", "--data", "digits", "--weights", "random", "-q"], standalone_mode=False)
    for line in sys.stdin:
        job = json.loads(line)
        reader, writer = os.pipe()
        if not (pid := os.fork()):
            run(job, writer)
        os.close(writer)
        with os.fdopen(reader) as file:
            text = file.read()
        status = os.waitpid(pid, 0)[1]
        sys.stdout.write((text or json.dumps({"code": -os.WTERMSIG(status), "moments": []})) + "\n")
        sys.stdout.flush()


class Server:
    """Runs commands and returns their results."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, folder: Path, words: list[str], *, at: int | None = None, how: str = "kill", **more: Any) -> dict[str, Any]:
        """Run a command in a folder up to a moment; its exit code (-9: killed) and the moments it passed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        log = folder.parent / f"{folder.name}.log"
        job = {"folder": str(folder), "words": words, "at": at, "how": how, "log": str(log), "env": {}} | more
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        result: dict[str, Any] = json.loads(self.process.stdout.readline())
        result["output"] = log.read_text() if log.exists() else ""
        log.unlink(missing_ok=True)
        return result


@contextmanager
def server() -> Iterator[Server]:
    """A process that runs commands."""
    command = [sys.executable, "-m", "tests.conformance.stopping"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "200"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        yield Server(process)
        assert process.stdin is not None
        process.stdin.close()


if __name__ == "__main__":
    serve()

"""What does recording cost? A bare forward loop, hand-written hooks, `capture` and `record`, in one run.

    python benchmarks/extract.py [--model resnet18] [--images 256] [--rounds 5] [--threads 2]

Every mode runs the same batches through the same network, in turn, round after round; a mode's time is the median over
the rounds of its ratio to the bare loop of the same round, so that a machine that slows down slows both sides. Peak
memory is that of a process of its own per mode. Prints a table, writes benchmarks/results/extract.json.

Modes
    bare          model(x), without gradients
    hand hooks    a forward hook on every leaf module that keeps output.mean((2, 3)) as numpy
    capture       probes.capture of every leaf call, pool=mean, batches thrown away
    record mean   probes.record of every leaf call, pool=mean, to a file
    record raw    probes.record of the four stages' whole output, pool=none, to a file

Found (timm resnet18, 224 px, batch 32, 2 threads): the mean of every output reads 35 MB an image once more, and that is
what recording costs. An Identity hands on the very tensor that was pooled a moment ago: it is not read again, which
takes a fifth of the reads away. Registering hooks anew for every step (so that none outlives an abandoned loop) takes
under 1 ms a step. Without HDF5's chunk cache rows go straight to the file, so that memory does not depend on n.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

import probes

MODES = ("bare", "hand hooks", "capture", "record mean", "record raw")
BATCH = 32


def batches(images: int, size: int) -> Iterator[Tensor]:
    """The same batch again and again: loading and decoding images is not what is measured."""
    x = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    for start in range(0, images, BATCH):
        yield x[: images - start]


def bare(model: nn.Module, loader: Iterator[Tensor], _: Path) -> None:
    with torch.no_grad():
        for x in loader:
            model(x)


def hand_hooks(model: nn.Module, loader: Iterator[Tensor], _: Path) -> None:
    kept: dict[str, object] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: object, output: Tensor) -> None:
            kept[name] = (output.mean(list(range(2, output.ndim))) if output.ndim > 2 else output.clone()).numpy()

        return keep

    leaves = [(name, module) for name, module in model.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(hook(name)) for name, module in leaves]
    with torch.no_grad():
        for x in loader:
            model(x)
            kept.clear()
    for handle in handles:
        handle.remove()


def capture(model: nn.Module, loader: Iterator[Tensor], _: Path) -> None:
    for _batch in probes.capture(model, loader):
        pass


def record_mean(model: nn.Module, loader: Iterator[Tensor], path: Path) -> None:
    probes.record(model, loader, path, overwrite=True, progress=False)


def record_raw(model: nn.Module, loader: Iterator[Tensor], path: Path) -> None:
    stages = [f"layer{stage}" for stage in range(1, 5)]
    probes.record(model, loader, path, layers=stages, pool="none", overwrite=True, progress=False)


RUN = dict(zip(MODES, (bare, hand_hooks, capture, record_mean, record_raw), strict=True))


def one(mode: str, model: nn.Module, images: int, size: int, path: Path) -> float:
    """Seconds that a mode takes."""
    start = time.perf_counter()
    RUN[mode](model, batches(images, size), path)
    return time.perf_counter() - start


def peak(arguments: argparse.Namespace, mode: str, images: int) -> float:
    """Peak memory of a process of its own, in MB."""
    command = [sys.executable, __file__, "--only", mode, "--images", str(images)]
    command += ["--model", arguments.model, "--size", str(arguments.size), "--threads", str(arguments.threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", type=int, nargs=2, default=(512, 2048), help="numbers of images whose peaks are compared")
    parser.add_argument("--only", choices=MODES, help="run one mode and print its peak memory")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = timm.create_model(arguments.model).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "acts.h5"
        if arguments.only:
            one(arguments.only, model, arguments.images, arguments.size, path)
            status = Path("/proc/self/status").read_text()  # getrusage's maximum is inherited from the parent
            print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
            return
        seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
        sizes = dict.fromkeys(MODES, 0)
        for mode in MODES:
            one(mode, model, BATCH, arguments.size, path)
        for _ in range(arguments.rounds):
            for mode in MODES:
                seconds[mode].append(one(mode, model, arguments.images, arguments.size, path))
                sizes[mode] = path.stat().st_size if mode.startswith("record") else 0
    few, many = arguments.memory
    rows = []
    for mode in MODES:
        ratio = statistics.median(mine / base for mine, base in zip(seconds[mode], seconds["bare"], strict=True))
        row = {"mode": mode, "images_per_s": arguments.images / statistics.median(seconds[mode]), "ratio": ratio}
        row |= {"megabytes": sizes[mode] / 2**20, "peak_mb": peak(arguments, mode, few)}
        row["growth_mb"] = peak(arguments, mode, many) - row["peak_mb"] if mode in ("bare", "record mean") else float("nan")
        rows.append(row)
    print(f"{arguments.model}, {arguments.size} px, batch {BATCH}, {arguments.threads} threads, torch {torch.__version__}")
    print(f"{'mode':12} {'images/s':>9} {'x bare':>7} {'file MB':>8} {f'peak MB, {few}':>13} {f'growth to {many}':>15}")
    for row in rows:
        print(
            f"{row['mode']:12} {row['images_per_s']:9.1f} {row['ratio']:7.3f} {row['megabytes']:8.1f} "
            f"{row['peak_mb']:13.0f} {row['growth_mb']:15.1f}"
        )
    out = Path(__file__).parent / "results" / "extract.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"arguments": vars(arguments), "seconds": seconds, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

"""What does recording cost? A bare forward loop, hand-written hooks, `capture` and `record`, in one run.

    python benchmarks/extract.py [--model resnet18] [--images 512] [--threads 2]

Every mode runs in a process of its own and is paired, batch by batch, with the bare forward of the same batch: its loader
runs and times that before it hands the batch out. So a machine that slows down slows both sides, and what is written
once (creating, closing the file) is counted too. Peak memory is sampled after the first 512 images and at the end of a
longer run of `record mean`. Prints a table, writes benchmarks/results/extract.json.

Modes
    bare          model(x), without gradients
    hand hooks    a forward hook on every leaf module that keeps output.mean((2, 3)) as numpy
    capture       probes.capture of every leaf call, pool=mean, batches thrown away
    record mean   probes.record of every leaf call, pool=mean, to a file
    record raw    probes.record of the four stages' whole output, pool=none, to a file

Found (timm resnet18, 224 px, batch 32, 2 threads): rounds of whole runs differed by 20 % on a shared machine, pairs of
batches agree to 2 %. The mean of every output reads 35 MB an image once more (3 %), and that is most of what recording
costs. An Identity hands on the very tensor that was pooled a moment ago: it is not read again, which takes a fifth of
the reads away. Registering hooks anew for every step (so that none outlives an abandoned loop) takes under 1 ms. Creating
77 datasets with their dimension scales takes 0.15 s, once; holding rows back until 16 MB wait took 20 ms a step off the
writing. Without HDF5's chunk cache rows go straight to the file. What is kept of a step lies in one block
outside the heap: as small tensors on the heap, between activations of 25 MB that come and go, it broke the heap into
pieces, and in some runs the peak grew by 200 MB (that of hand-written hooks still does).
"""

from __future__ import annotations

import argparse
import json
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


class Paired:
    """A loader of the same batch again and again, which runs the bare network on it before it hands it out.

    Loading and decoding images is not what is measured.
    """

    def __init__(self, model: nn.Module, images: int, size: int, *, paired: bool) -> None:
        self.model, self.images, self.paired = model, images, paired
        self.x = torch.randn(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
        self.bare: list[float] = []
        self.peaks: dict[int, float] = {}

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, self.images, BATCH):
            self.peaks[start] = peak_mb()
            x = self.x[: self.images - start]
            if self.paired:
                before = time.perf_counter()
                with torch.no_grad():
                    self.model(x)
                self.bare.append(time.perf_counter() - before)
            yield x


def peak_mb() -> float:
    """Peak memory of this process; getrusage's is inherited from the parent."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def bare(model: nn.Module, loader: Paired, _: Path) -> None:
    with torch.no_grad():
        for x in loader:
            model(x)


def hand_hooks(model: nn.Module, loader: Paired, _: Path) -> None:
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


def capture(model: nn.Module, loader: Paired, _: Path) -> None:
    for _batch in probes.capture(model, loader):
        pass


def record_mean(model: nn.Module, loader: Paired, path: Path) -> None:
    probes.record(model, loader, path, overwrite=True, progress=False)


def record_raw(model: nn.Module, loader: Paired, path: Path) -> None:
    stages = [f"layer{stage}" for stage in range(1, 5)]
    probes.record(model, loader, path, layers=stages, pool="none", overwrite=True, progress=False)


RUN = dict(zip(MODES, (bare, hand_hooks, capture, record_mean, record_raw), strict=True))


def measure(mode: str, name: str, images: int, size: int, *, paired: bool) -> dict[str, float]:
    """Seconds of a mode and of its bare twin, file size, and peak memory early and late."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "acts.h5"
        RUN[mode](model, Paired(model, 2 * BATCH, size, paired=True), path)
        loader = Paired(model, images, size, paired=paired)
        start = time.perf_counter()
        RUN[mode](model, loader, path)
        bare = sum(loader.bare)
        return {
            "seconds": time.perf_counter() - start - bare,
            "bare": bare,
            "megabytes": path.stat().st_size / 2**20 if path.exists() else 0.0,
            "early_mb": loader.peaks.get(512, float("nan")),
            "late_mb": peak_mb(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--long", type=int, default=2048, help="images of the run in which memory must not grow")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=MODES, help="run one mode and print what was measured")
    parser.add_argument("--unpaired", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        print(
            json.dumps(
                measure(arguments.only, arguments.model, arguments.images, arguments.size, paired=not arguments.unpaired)
            )
        )
        return

    def alone(mode: str, images: int, *more: str) -> dict[str, float]:
        command = [sys.executable, __file__, "--only", mode, "--images", str(images), "--model", arguments.model]
        command += ["--size", str(arguments.size), "--threads", str(arguments.threads), *more]
        found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        return found

    rows = {mode: alone(mode, arguments.images) for mode in MODES}
    print(f"{arguments.model}, {arguments.size} px, batch {BATCH}, {arguments.threads} threads, torch {torch.__version__}")
    print(f"{'':12} {'images/s':>9} {'x bare':>7} {'file MB':>8} {'peak MB':>8}")
    for mode, row in rows.items():
        row["ratio"] = row["seconds"] / row["bare"]
        speed = arguments.images / row["seconds"]
        print(f"{mode:12} {speed:9.1f} {row['ratio']:7.3f} {row['megabytes']:8.1f} {row['late_mb']:8.0f}")
    rows["long"] = alone("record mean", arguments.long, "--unpaired")
    grown = rows["long"]["late_mb"] - rows["long"]["early_mb"]
    print(f"record mean, {arguments.long} images: peak memory {grown:+.1f} MB after the first 512")
    out = Path(__file__).parent / "results" / "extract.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"arguments": vars(arguments), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

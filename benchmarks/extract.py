"""What does recording cost? A bare forward loop, hand-written hooks, `capture` and `record`, in one run.

    python benchmarks/extract.py [--models resnet18,vit_tiny_patch16_224,tf_efficientnet_lite0] [--images 512] [--threads 2]
    python benchmarks/extract.py --models resnet18 --long 8192        # memory must not grow
    python benchmarks/extract.py --models tiny_linear,tiny_conv --modes "bare,hand hooks,capture" --images 4096 --threads 1

Every mode runs in a process of its own and is paired, batch by batch, with the bare forward of the same batch: its loader
runs and times that before it hands the batch out. So a machine that slows down slows both sides, and what is written
once (creating, closing, sealing the file) is counted too. Peak memory is sampled after the first 512 images and at the end
of a longer run of `record mean`. Prints a table per network, writes benchmarks/results/extract.json.

`tiny_linear` and `tiny_conv` are 400 times `Linear(8, 8)`, ReLU and `Conv2d(4, 4, 3)`, ReLU: 800 calls that compute next to
nothing, so that what a call of a hook costs is seen.

Modes
    bare          model(x), without gradients
    hand hooks    a forward hook on every leaf module that keeps output.mean over space or tokens as numpy
    capture       probes.capture of every leaf call, pool=mean, batches thrown away
    hand 4, capture 4    the same of the whole output of four layers
    record mean   probes.record of every leaf call, pool=mean, to a file
    record raw    probes.record of the whole output of four layers, pool=none, to a file
    record gzip, record lz4    the same, packed
    record ops    probes.record of every leaf call and operation, pool=mean
    plain write   the bytes of `record raw` with plain `write` and fsync; not paired

Result (2 threads, shared machine on which `bare` against itself gives 0.91 to 1.01; 512 images of resnet18, 256 of the others)

                  resnet18          vit_tiny_patch16_224   tf_efficientnet_lite0
                  x bare  peak MB   x bare  peak MB        x bare  peak MB
    bare           0.907     1070    1.011      921         0.981     1407
    hand hooks     1.069     1284    1.105     1693         1.013     1677
    capture        1.050     1068    1.135      933         1.101     1396
    record mean    1.041     1148    1.048     1037         1.133     1448
    record raw     1.010     1162    0.998     1162         0.951     1425
    capture / hand hooks            0.982, 1.028, 1.087; of four whole layers, resnet18: 1.022
    record raw / max(bare, write)   1.010, 0.998, 0.951
    8,192 images, record mean       +36 MB after the first 512 at 224 px, +8.5 MB at 64 px

In that table the bare forward that hand-written hooks were paired with ran with their hooks on, which made them look cheaper
than they are (1.013 for lite0); since then it runs a copy of the network. Interleaved step by step in one process instead, the
least CPU time of one thread (batch 8, tiny ones 32; other jobs running), as multiples of the bare forward:

                  resnet18   vit_tiny_patch16_224   tf_efficientnet_lite0   tiny_linear   tiny_conv
    hand hooks       1.045          1.086                  1.115               2.29         1.60
    capture          1.041          1.074                  1.079               3.16         1.86
    capture / hand hooks
                     0.996          0.989                  0.968               1.38         1.17

For the tiny networks that was 5.9 and 2.4. A call's hooks took 370 us of that machine's time: two registrations and their
removal, the search for what the output is like, five tensor operations around a copy of 1 kB. Now they take 40: hooks are
registered once, an output like that of the pass before needs six comparisons, and its mean is written to a tensor that was
prepared before the pass. A tenth of a step went to `eval()` on a network that was in eval mode. The first step of an iteration
determines names, axes and pools and takes 3.4 times as long as with hand-written hooks.

The mean of every output reads it once more, and that is most of what recording costs; an Identity hands on the very tensor
that was pooled a moment ago and is not read again. What is kept of a step lies in blocks outside the heap: on the heap, between
activations of 20 MB that come and go, even the 200 bytes of a tensor's header make a hole too small for the next activation.
Hand-written hooks on the vision transformer hold 800 MB more than the bare network because of that, and `capture` held 500 MB
more (glibc's mallinfo2: 515 MB free, in pieces, after one step). Blocks are used again once no batch points into them.
Chunks were written twice, first as zeros, until fill_time="never". Checksums of the pages that changed cost a read of
what was just written, from the system's cache, in the writer's thread.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import probes

MODES = ("bare", "hand hooks", "capture", "hand 4", "capture 4", "record mean", "record raw")
MODES += ("record gzip", "record lz4", "record ops")
MODELS = "resnet18,vit_tiny_patch16_224,tf_efficientnet_lite0"
FOUR = {
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "vit_tiny_patch16_224": ["blocks.2", "blocks.5", "blocks.8", "blocks.11"],
    "tf_efficientnet_lite0": ["blocks.1", "blocks.2", "blocks.4", "blocks.6"],
    "tiny_linear": ["100", "300", "500", "700"],
    "tiny_conv": ["100", "300", "500", "700"],
}
BATCH = 32
TINY = {"tiny_linear": (8,), "tiny_conv": (4, 6, 6)}  # shape of an input


class Paired:
    """A loader of the same batch again and again, which runs a copy of the network, without hooks, before it hands it out.

    Loading and decoding images is not what is measured.
    """

    def __init__(self, model: nn.Module, images: int, shape: tuple[int, ...], *, paired: bool) -> None:
        self.twin, self.images, self.paired = copy.deepcopy(model), images, paired
        self.x = torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(0))
        self.dataset = range(images)
        self.bare: list[float] = []
        self.peaks: dict[int, float] = {}

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, self.images, BATCH):
            self.peaks[start] = peak_mb()
            x = self.x[: self.images - start]
            if self.paired:
                before = time.perf_counter()
                with torch.no_grad():
                    self.twin(x)
                self.bare.append(time.perf_counter() - before)
            yield x


def peak_mb() -> float:
    """Peak memory of this process; getrusage's is inherited from the parent."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def bare(model: nn.Module, loader: Paired, path: Path, four: list[str]) -> None:
    with torch.no_grad():
        for x in loader:
            model(x)


def by_hand(model: nn.Module, loader: Paired, keep: Callable[[Tensor], Any], names: list[str] | None) -> None:
    kept: dict[str, Any] = {}

    def hook(name: str) -> Callable[..., None]:
        def store(module: nn.Module, args: object, output: Tensor) -> None:
            kept[name] = keep(output)

        return store

    modules = dict(model.named_modules())
    wanted = [name for name, module in modules.items() if not list(module.children())] if names is None else names
    handles = [modules[name].register_forward_hook(hook(name)) for name in wanted]
    with torch.no_grad():
        for x in loader:
            model(x)
            kept.clear()
    for handle in handles:
        handle.remove()


def hand_hooks(model: nn.Module, loader: Paired, path: Path, four: list[str]) -> None:
    def mean(output: Tensor) -> Any:
        inner = [1] if output.ndim == 3 else list(range(2, output.ndim))
        return (output.mean(inner) if inner else output.clone()).numpy()

    by_hand(model, loader, mean, None)


def hand_four(model: nn.Module, loader: Paired, path: Path, four: list[str]) -> None:
    by_hand(model, loader, lambda output: output.clone().numpy(), four)


def capture(model: nn.Module, loader: Paired, path: Path, four: list[str]) -> None:
    for _batch in probes.capture(model, loader):
        pass


def capture_four(model: nn.Module, loader: Paired, path: Path, four: list[str]) -> None:
    for _batch in probes.capture(model, loader, layers=four, pool="none", early_stop=False):
        pass


def recorder(**options: Any) -> Callable[[nn.Module, Paired, Path, list[str]], None]:
    def run(model: nn.Module, loader: Paired, path: Path, four: list[str]) -> None:
        layers = four if options.get("pool") == "none" else None
        probes.record(model, loader, path, layers=layers, overwrite=True, progress=False, early_stop=False, **options)

    return run


RUN = {
    "bare": bare, "hand hooks": hand_hooks, "capture": capture, "hand 4": hand_four, "capture 4": capture_four,
    "record mean": recorder(), "record raw": recorder(pool="none"),
    "record gzip": recorder(pool="none", compression="gzip"), "record lz4": recorder(pool="none", compression="lz4"),
    "record ops": recorder(ops=True),
}  # fmt: skip


def network(name: str) -> nn.Module:
    """A network of timm's, or 800 tiny layers."""
    if name not in TINY:
        return timm.create_model(name)
    layer = {"tiny_linear": lambda: nn.Linear(8, 8), "tiny_conv": lambda: nn.Conv2d(4, 4, 3, padding=1)}[name]
    return nn.Sequential(*(module for _ in range(400) for module in (layer(), nn.ReLU())))


def measure(mode: str, name: str, images: int, size: int, *, paired: bool) -> dict[str, float]:
    """Seconds of a mode and of its bare twin, file size, and peak memory early and late."""
    torch.manual_seed(0)
    model, shape = network(name).eval(), TINY.get(name, (3, size, size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "acts.h5"
        RUN[mode](model, Paired(model, 2 * BATCH, shape, paired=True), path, FOUR[name])
        loader = Paired(model, images, shape, paired=paired)
        start = time.perf_counter()
        RUN[mode](model, loader, path, FOUR[name])
        times = {
            "seconds": time.perf_counter() - start - sum(loader.bare),
            "bare": sum(loader.bare),
            "megabytes": path.stat().st_size / 2**20 if path.exists() else 0.0,
            "early_mb": loader.peaks.get(512, float("nan")),
            "late_mb": peak_mb(),
        }
        if mode == "record raw":
            times["write"] = plain_write(path)
        return times


def plain_write(path: Path) -> float:
    """Seconds that writing as many bytes takes with plain `write` and fsync."""
    block = os.urandom(8 << 20)
    start = time.perf_counter()
    with path.with_name("plain").open("wb", buffering=0) as file:
        for _ in range(path.stat().st_size // len(block)):
            file.write(block)
        os.fsync(file.fileno())
    return time.perf_counter() - start


def alone(mode: str, name: str, images: int, arguments: argparse.Namespace, *more: str) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--only", mode, "--images", str(images), "--models", name]
    command += ["--size", str(arguments.size), "--threads", str(arguments.threads), *more]
    measured: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--modes", default=",".join(MODES))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--long", type=int, default=0, help="images of a run in which memory must not grow")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=MODES, help="run one mode and print what was measured")
    parser.add_argument("--unpaired", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        print(
            json.dumps(
                measure(arguments.only, arguments.models, arguments.images, arguments.size, paired=not arguments.unpaired)
            )
        )
        return
    results: dict[str, Any] = {"arguments": vars(arguments)}
    for name in arguments.models.split(","):
        rows = results[name] = {mode: alone(mode, name, arguments.images, arguments) for mode in arguments.modes.split(",")}
        shape = "x".join(map(str, TINY.get(name, (3, arguments.size, arguments.size))))
        print(f"\n{name}, input {shape}, batch {BATCH}, {arguments.threads} threads, torch {torch.__version__}")
        print(f"{'':12} {'images/s':>9} {'x bare':>7} {'file MB':>8} {'peak MB':>8}")
        for mode, row in rows.items():
            row["ratio"] = row["seconds"] / row["bare"]
            speed = arguments.images / row["seconds"]
            print(f"{mode:12} {speed:9.1f} {row['ratio']:7.3f} {row['megabytes']:8.1f} {row['late_mb']:8.0f}", flush=True)
        for ours, theirs in (("capture", "hand hooks"), ("capture 4", "hand 4")):
            if ours in rows and theirs in rows:
                print(f"{ours} / {theirs}: {rows[ours]['ratio'] / rows[theirs]['ratio']:.3f}")
        if "record raw" in rows:
            raw = rows["record raw"]
            most = max(raw["bare"], raw["write"])
            print(f"record raw / max(bare, plain write of the bytes, {raw['write']:.2f} s): {raw['seconds'] / most:.3f}")
        if arguments.long:
            long = rows["long"] = alone("record mean", name, arguments.long, arguments, "--unpaired")
            grown = long["late_mb"] - long["early_mb"]
            print(f"record mean, {arguments.long} images: peak memory {grown:+.1f} MB after the first 512")
    out = Path(__file__).parent / "results" / "extract.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

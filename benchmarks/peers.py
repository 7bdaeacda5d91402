"""The whole output of four layers of resnet18 on disk: our `record` against captum, torchlens and torchvision.

    python benchmarks/peers.py --captum PEER/bin/python --torchlens PEER/bin/python [--images 256] [--threads 2]

Each peer runs in a virtual environment of its own (requirements-peers.txt), does the same images in batches of 32, and writes
the same bytes: torchlens by its own `extract_dataset`; captum (`LayerActivation`) and torchvision
(`create_feature_extractor`) with `np.save` per layer and batch, which is as plain as a file can be; ours to one HDF5 file,
sealed and fsynced. Next to each runs the bare forward of the same batches, so a machine that slows down slows both: `x bare` is
the ratio. Then the numbers of all are compared with those of hand-written hooks in the same process.

Found (256 images; bare before and after):

                   x bare         images/s    MB   largest difference to hooks
    ours           1.086  1.120       22.3   385   0
    torchvision    1.107  1.210       25.5   368   0
    captum         1.102  1.207       23.7   368   0
    torchlens      2.269  2.279       11.6   368   0

The peers' files hold arrays alone; ours also ids, labels, provenance and checksums.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

FOUR = ["layer1", "layer2", "layer3", "layer4"]
BATCH = 32


def batches(images: int) -> list[torch.Tensor]:
    """The images, the same in every process."""
    x = torch.randn(images, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return list(x.split(BATCH))


def by_hand(model: Any, xs: list[torch.Tensor], folder: Path) -> list[np.ndarray]:
    """Hand-written hooks and np.save."""
    kept: dict[str, np.ndarray] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[name].register_forward_hook(lambda _m, _a, out, name=name: kept.update({name: out.clone().numpy()}))
        for name in FOUR
    ]
    with torch.no_grad():
        for step, x in enumerate(xs):
            model(x)
            for name, array in kept.items():
                np.save(folder / f"{name}-{step:05d}.npy", array)
    for handle in handles:
        handle.remove()
    return saved(folder)


def saved(folder: Path) -> list[np.ndarray]:
    """What np.save has written, per layer."""
    return [np.concatenate([np.load(path) for path in sorted(folder.glob(f"{name}-*.npy"))]) for name in FOUR]


def ours(model: Any, xs: list[torch.Tensor], folder: Path) -> Callable[[], list[np.ndarray]]:
    import probes

    store = probes.record(model, xs, folder / "acts.h5", layers=FOUR, pool="none", progress=False)
    return lambda: [store[name] for name in FOUR]


def torchvision(model: Any, xs: list[torch.Tensor], folder: Path) -> Callable[[], list[np.ndarray]]:
    from torchvision.models.feature_extraction import create_feature_extractor

    extractor = create_feature_extractor(model, {name: name for name in FOUR})
    with torch.no_grad():
        for step, x in enumerate(xs):
            for name, value in extractor(x).items():
                np.save(folder / f"{name}-{step:05d}.npy", value.numpy())
    return lambda: saved(folder)


def captum(model: Any, xs: list[torch.Tensor], folder: Path) -> Callable[[], list[np.ndarray]]:
    from captum.attr import LayerActivation

    modules = dict(model.named_modules())
    layers = LayerActivation(model, [modules[name] for name in FOUR])
    with torch.no_grad():
        for step, x in enumerate(xs):
            for name, value in zip(FOUR, layers.attribute(x), strict=True):
                np.save(folder / f"{name}-{step:05d}.npy", value.numpy())
    return lambda: saved(folder)


def torchlens(model: Any, xs: list[torch.Tensor], folder: Path) -> Callable[[], list[np.ndarray]]:
    import torchlens as tl

    out = folder / "shards"
    tl.extract_dataset(model, torch.cat(xs), FOUR, batch_size=BATCH, output_dir=out, progress=False)
    return lambda: _torchlens(tl, out)


def _torchlens(tl: Any, folder: Path) -> list[np.ndarray]:
    tensors = tl.load_extraction(folder).activations
    return [tensors[name].numpy() for name in FOUR]


TOOLS = {"ours": ours, "torchvision": torchvision, "captum": captum, "torchlens": torchlens}


def measure(tool: str, images: int) -> dict[str, float]:
    """Seconds of one tool, of the bare forward before and after it, and the largest difference to hand-written hooks."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18").eval()
    xs = batches(images)

    def bare() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            for x in xs:
                model(x)
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "warm").mkdir()
        TOOLS[tool](model, xs[:2], folder / "warm")
        before = bare()
        (folder / "run").mkdir()
        start = time.perf_counter()
        read = TOOLS[tool](model, xs, folder / "run")
        seconds = time.perf_counter() - start
        after = bare()
        size = sum(path.stat().st_size for path in (folder / "run").rglob("*") if path.is_file()) / 2**20
        (folder / "hand").mkdir()
        few = xs[:2]
        truth = by_hand(model, few, folder / "hand")
        rows = sum(len(x) for x in few)
        apart = max(float(np.abs(a - b[:rows]).max()) for a, b in zip(truth, read(), strict=True))
    return {"seconds": seconds, "bare": (before + after) / 2, "megabytes": size, "difference": apart}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captum", help="the python of an environment that has captum")
    parser.add_argument("--torchlens", help="the python of an environment that has torchlens")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=TOOLS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.images)))
        return
    pythons = {
        "ours": sys.executable,
        "torchvision": sys.executable,
        "captum": arguments.captum,
        "torchlens": arguments.torchlens,
    }
    results: dict[str, list[dict[str, float]]] = {tool: [] for tool, python in pythons.items() if python}
    for _ in range(arguments.rounds):
        for tool, rows in results.items():
            command = [str(pythons[tool]), __file__, "--only", tool, "--images", str(arguments.images)]
            command += ["--threads", str(arguments.threads)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append(json.loads(done.stdout.strip().splitlines()[-1]))
    print(
        f"resnet18, 224 px, {arguments.images} images in batches of {BATCH}, {arguments.threads} threads; four layers to disk"
    )
    print(f"{'':12} {'x bare':>16} {'images/s':>9} {'MB':>7} {'difference to hooks':>20}")
    for tool, rows in results.items():
        ratios = sorted(row["seconds"] / row["bare"] for row in rows)
        speed = max(arguments.images / row["seconds"] for row in rows)
        spread = " ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"{tool:12} {spread:>16} {speed:9.1f} {rows[0]['megabytes']:7.0f} {max(row['difference'] for row in rows):20.2g}")
    out = Path(__file__).parent / "results" / "peers.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

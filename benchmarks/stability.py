"""What does a stability run cost beside its forward passes, and does its memory grow with the number of images?

    python benchmarks/stability.py [--rounds 5]

Both sides run the same networks over the same images, in turn: the bare network over clean images and two perturbed versions of
each, put together beforehand; and `stability` over the clean ones with two perturbations, all of it (perturbations, hooks,
distances). 2 threads. Memory is that of a process of its own, at its peak, over 4 and over 16 steps. Writes
benchmarks/results/stability.json.

Found (wanted: 1.15): 1.77 for all 68 leaf calls of resnet20, 1.38 for its convolutions; vgg11_bn 1.01; resnet18 1.52, its
blocks alone 1.27; lite0 2.10, its blocks 1.36. Perturbing takes 7 % of a forward pass of resnet18, most of it normal numbers;
the rest is reading every output once more, which costs as much as a ReLU each time. Memory: 912 MB over 4 steps, 937 over 16
(resnet20).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from repanalysis.analyses.stability.sensitivity import stability
from repanalysis.inputs.models import load_model
from repanalysis.perturbations import perturbations

sys.path.insert(0, str(Path(__file__).parent.parent))
PERTURB = ["diffeo:delta=1,c=3", "noise:match=diffeo"]
CASES: dict[str, tuple[int, int, Any]] = {  # side, images per step, layers
    "resnet20": (32, 32, None),
    "resnet20, convolutions": (32, 32, "type:Conv2d"),
    "vgg11_bn": (32, 32, None),
    "resnet18": (224, 8, None),
    "resnet18, blocks": (224, 8, "layer?.?"),
    "tf_efficientnet_lite0": (224, 8, None),
    "tf_efficientnet_lite0, blocks": (224, 8, "blocks.?.?"),
}


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    if name == "resnet20":
        return load_model("py:tests.networks.cifar_resnet:resnet20").module
    return timm.create_model(name).eval()


def images(side: int, n: int, steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(n, 3, side, side, generator=generator) for _ in range(steps)]


def measured(case: str, rounds: int) -> dict[str, Any]:
    side, n, layers = CASES[case]
    model, clean = network(case.partition(",")[0]), images(side, n, 8 if side < 64 else 3)
    made = perturbations(PERTURB)
    ids = range(n)
    together = [torch.cat([x, *(one(x, ids) for one in made)]) for x in clean]

    def bare() -> None:
        with torch.no_grad():
            for x in together:
                model(x)

    def ours() -> int:
        return len(stability(model, clean, made, layers=layers, progress=False).frame["layer"].unique())

    bare()
    n_layers = ours()
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    for _ in range(rounds):
        for task in (bare, ours):
            start = time.perf_counter()
            task()
            times[task.__name__].append(time.perf_counter() - start)
    ratio = min(times["ours"]) / min(times["bare"])  # other load on the machine only ever adds
    return {"case": case, "layers": n_layers, "ratio": ratio, **times}


def memory(case: str, steps: int) -> float:
    """Peak memory in MB of a run in a process of its own."""
    command = [sys.executable, __file__, "--memory", case, "--steps", str(steps)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", choices=CASES)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.memory:
        side, n, layers = CASES[arguments.memory]
        clean = images(side, n, 1) * arguments.steps
        stability(network(arguments.memory.partition(",")[0]), clean, perturbations(PERTURB), layers=layers, progress=False)
        status = Path("/proc/self/status").read_text(encoding="ascii")  # getrusage would count what the parent had
        print(next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")))
        return
    rows = []
    print(f"{'network':>30} {'layers':>7} {'x its forward passes':>21}")
    for case in CASES:
        result = measured(case, arguments.rounds)
        print(f"{case:>30} {result['layers']:>7} {result['ratio']:>21.2f}", flush=True)
        rows.append(result)
    for case in ("resnet20", "tf_efficientnet_lite0"):
        few, many = memory(case, 4), memory(case, 16)
        print(f"{case}: {few:,.0f} MB over 4 steps, {many:,.0f} MB over 16")
        rows.append({"case": case, "memory": [few, many]})
    out = Path(__file__).parent / "results" / "stability.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

"""Is our scattering transform kymatio's, and faster? Agreement first, then both in turn, in one run.

    python -m venv peer-kymatio && peer-kymatio/bin/pip install kymatio==0.3.0 'scipy<1.17' torch
    python benchmarks/scattering.py --kymatio peer-kymatio/bin/python [--rounds 7]
    python benchmarks/scattering.py --paths            # FFT against matrix, by size of the image

kymatio can't be imported beside scipy 1.17, so it runs in a process of its own, with its torch backend; only one of the two
computes at a time. kymatio takes 3.1415 for pi in the norm of its filters: its coefficients are multiplied by (3.1415 / pi)
once for every filter on their path. Writes benchmarks/results/scattering.json.

Result (2 shared cores): difference 4e-7 to 6e-7 of the largest value; faster 2.0 to 2.1 times at J = 2, 2.4 to 3.0 at J = 3.

- Most of the time went into fresh pages: the transform of all filtered images at once was slower than kymatio. Two megabytes at
  a time, made, rectified and written out while they are in the cache, took half as long.
- Half a spectrum of real images is computed, 21 ms where the whole one takes 56, and mirrored.
- A Gaussian low pass, with padding, subsampling and cutting in it, is two small matrices and needs no transform.
- The matrix is faster than the FFT up to 20 pixels (61 times at 4, 3 at 16, 1.5 at 20, 0.7 at 28).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repanalysis.networks.filtering import Filtering, identity
from repanalysis.networks.scattering import Scattering
from repanalysis.networks.wavelets import morlet

CASES = ((32, 2, 64), (32, 3, 64), (224, 2, 4), (224, 3, 4))  # side, J, images

PEER = """
import json, sys, time
import numpy as np, torch
from kymatio.torch import Scattering2D
torch.set_num_threads(2)
for line in sys.stdin:
    job = json.loads(line)
    x = torch.from_numpy(np.load(job["x"]))
    if "out" in job:
        made = Scattering2D(job["scales"], x.shape[-2:], L=8)
        np.save(job["out"], made(x).numpy())
    start = time.perf_counter()
    made(x)
    print(json.dumps(time.perf_counter() - start), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kymatio", help="Python of an environment that has kymatio 0.3.0")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--paths", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    results = paths(arguments.rounds) if arguments.paths else against_kymatio(arguments.kymatio, arguments.rounds)
    out = Path(__file__).parent / "results" / "scattering.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=1))


def against_kymatio(python: str, rounds: int) -> list[dict[str, Any]]:
    """Largest difference, and how many times faster."""
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen([python, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer,
    ):
        assert peer.stdin
        assert peer.stdout

        def ask(job: dict[str, Any]) -> float:
            peer.stdin.write(json.dumps(job) + "\n")  # type: ignore[union-attr]
            peer.stdin.flush()  # type: ignore[union-attr]
            return float(json.loads(peer.stdout.readline()))  # type: ignore[union-attr]

        print(f"{'image':>9} {'J':>2} {'images':>6} {'difference':>11} {'ours, ms':>9} {'kymatio':>9} {'faster':>7}")
        for side, scales, count in CASES:
            x = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))
            np.save(f"{folder}/x.npy", x.numpy())
            ask({"x": f"{folder}/x.npy", "scales": scales, "out": f"{folder}/y.npy"})
            ours = Scattering(scales)
            with torch.no_grad():
                mine = ours(x).numpy()
                theirs = aligned(np.load(f"{folder}/y.npy"), scales).reshape(mine.shape)
                odd = float(np.abs(mine - theirs).max() / np.abs(theirs).max())
                times: dict[str, list[float]] = {"ours": [], "kymatio": []}
                for _ in range(rounds):
                    start = time.perf_counter()
                    ours(x)
                    times["ours"].append(time.perf_counter() - start)
                    times["kymatio"].append(ask({"x": f"{folder}/x.npy", "scales": scales}))
            faster = statistics.median(b / a for a, b in zip(times["ours"], times["kymatio"], strict=True))
            a, b = (1e3 * statistics.median(times[side]) for side in ("ours", "kymatio"))
            print(f"{side:>5} px {scales:>3} {count:>6} {odd:>11.1e} {a:>9.1f} {b:>9.1f} {faster:>7.2f}", flush=True)
            rows.append({"side": side, "scales": scales, "images": count, "difference": odd, "faster": faster, **times})
        peer.stdin.close()
    return rows


def aligned(theirs: np.ndarray, scales: int) -> np.ndarray:
    """Kymatio's coefficients with pi in place of 3.1415."""
    first = 1 + 8 * scales
    power = np.repeat([1, 2, 3], [1, first - 1, theirs.shape[2] - first])
    return theirs * ((3.1415 / np.pi) ** power)[:, None, None]


def paths(rounds: int) -> list[dict[str, Any]]:
    """One scale of wavelets (17 filters, stride 2) through the FFT and through the matrix."""
    rows = []
    print(f"{'side':>5} {'fft, ms':>9} {'matrix':>9} {'faster':>7}  chosen")
    for side in (4, 8, 12, 16, 20, 24, 28, 32, 40, 48):
        padded = 2 * ((side + 2) // 2 + 1)
        filters = morlet((padded, padded), 1).psi[0]
        x = torch.rand(64, 32, side, side)
        made, times = {}, {}
        for path in ("fft", "matrix", "auto"):
            made[path] = Filtering()
            made[path].build_run(filters, x, stride=2, size=(side, side), margin=1, path=path)
            times[path] = []
        with torch.no_grad():
            for _ in range(rounds + 1):
                for path in ("fft", "matrix"):
                    start = time.perf_counter()
                    made[path].filtered(x, identity)
                    times[path].append(time.perf_counter() - start)
        a, b = (1e3 * statistics.median(times[path][1:]) for path in ("fft", "matrix"))
        chosen = "matrix" if made["auto"].matrix.numel() else "fft"
        print(f"{side:>5} {a:>9.2f} {b:>9.2f} {a / b:>7.2f}  {chosen}", flush=True)
        rows.append({"side": side, "fft": a, "matrix": b, "chosen": chosen})
    return rows


if __name__ == "__main__":
    main()

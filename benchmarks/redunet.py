"""How long does the construction of a ReduNet take? Beside the published algorithm, and against n, d, C and T.

    python benchmarks/redunet.py [--only vectors|images|scaling] [--layers 50]

vectors: d = 128, n = 5,000, K = 10, 50 layers, against the published algorithm written plainly with numpy: once with dense
memberships Pi_k (n x n, one class at a time; K of them at once need 2 GB) and explicit inverses, once with memberships as
vectors, which is the fair comparison. Features after the last layer must agree to 1e-9.

images: 20 channels of 28 x 28, 100 training and 1,000 test samples, 10 classes, 20 layers, with the rates of both after each
layer, streamed to a file. Limits: 60 s, 3 GB.

scaling: seconds per layer for doubled n, d (vectors), C and T (signals), with the fitted exponent.

2 threads. Writes benchmarks/results/redunet.json.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from repanalysis.networks.redunet.construction import construct

Array = np.ndarray


def peak() -> float:
    """Peak memory of this process in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def published(
    x: Array, y: Array, layers: int, *, dense: bool, eta: float = 0.5, eps_sq: float = 0.1, lam: float = 500.0
) -> Array:
    """Features after the last layer; samples are columns, as in the paper."""
    z = (x / np.linalg.norm(x, axis=1, keepdims=True)).T
    d, n = z.shape
    classes = np.unique(y)
    for _ in range(layers):
        alpha = d / (n * eps_sq)
        expansion = alpha * np.linalg.inv(np.eye(d) + alpha * z @ z.T)
        compressions, shares = [], []
        for k in classes:
            membership = (y == k).astype(float)
            weighted = z @ np.diag(membership) if dense else z * membership
            alpha_k = d / (membership.sum() * eps_sq)
            compressions.append(alpha_k * np.linalg.inv(np.eye(d) + alpha_k * weighted @ z.T))
            shares.append(membership.sum() / n)
        products = np.stack([compression @ z for compression in compressions])  # (K, d, n)
        logits = -lam * np.linalg.norm(products, axis=1)
        pi = np.exp(logits - logits.max(axis=0))
        pi /= pi.sum(axis=0)
        gradient = expansion @ z - np.einsum("k,kn,kdn->dn", np.array(shares), pi, products)
        z = z + eta * gradient
        z /= np.linalg.norm(z, axis=0)
    return z.T


def samples(n: int, shape: tuple[int, ...], classes: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    y = np.arange(classes).repeat(-(-n // classes))[:n]
    centres = rng.normal(size=(classes, *shape))
    return centres[y] + rng.normal(size=(n, *shape)), y


def vectors(layers: int) -> dict[str, float]:
    x, y = samples(5000, (128,), 10)
    seconds = {}
    features: dict[str, Array] = {}

    def ours() -> Array:
        network = construct(x, y, layers=layers, progress=False)
        start = time.perf_counter()
        with torch.no_grad():
            result = network.forward_features(torch.from_numpy(x)).numpy()
        seconds["forward"] = time.perf_counter() - start
        return result

    runs: dict[str, Callable[[], Array]] = {
        "ours": ours,
        "memberships as vectors": lambda: published(x, y, layers, dense=False),
        "dense memberships": lambda: published(x, y, layers, dense=True),
    }
    for name, run in runs.items():
        start = time.perf_counter()
        features[name] = run()
        seconds[name] = time.perf_counter() - start
    seconds["ours"] -= seconds["forward"]
    result = dict(seconds)
    print(f"d 128, n 5,000, K 10, {layers} layers: {seconds['ours']:.1f} s")
    for name in list(runs)[1:]:
        difference = float(np.abs(features[name] - features["ours"]).max())
        result |= {f"ratio, {name}": seconds[name] / seconds["ours"], f"difference, {name}": difference}
        print(
            f"  {name}: {seconds[name]:.1f} s, {seconds[name] / seconds['ours']:.1f} x; difference {difference:.1e}", flush=True
        )
    return result


def images() -> dict[str, float]:
    x, y = samples(100, (1, 28, 28), 10)
    new, labels = samples(1000, (1, 28, 28), 10, seed=1)
    options = {"shift_invariant": True, "channels": 20, "kernel": 5, "layers": 20, "eta_eff": 1.0, "progress": False}
    before = peak()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        construct(x, y, test=(new, labels), output=Path(folder, "net"), **options)  # type: ignore[arg-type]
        seconds = time.perf_counter() - start
        size = Path(folder, "net").stat().st_size / 2**20
    print(
        f"20 x 28 x 28, 100 + 1,000 samples, 20 layers: {seconds:.0f} s (limit 60), {peak():,.0f} MB (limit 3,000; "
        f"{before:,.0f} before), file {size:,.0f} MB",
        flush=True,
    )
    return {"seconds": seconds, "peak_mb": peak(), "file_mb": size}


def scaling() -> dict[str, dict[str, list[float] | float]]:
    """Seconds per layer against one size, the others fixed."""
    cases: dict[str, tuple[list[int], Callable[[int], tuple[tuple[int, tuple[int, ...]], bool]]]] = {
        "n (d 128)": ([2500, 5000, 10000, 20000], lambda n: ((n, (128,)), False)),
        "d (n 2,000)": ([64, 128, 256, 512], lambda d: ((2000, (d,)), False)),
        "C (T 256, n 100)": ([8, 16, 32, 64], lambda c: ((100, (c, 256)), True)),
        "T (C 16, n 100)": ([256, 512, 1024, 2048], lambda t: ((100, (16, t)), True)),
    }
    result: dict[str, dict[str, list[float] | float]] = {}
    for name, (sizes, of) in cases.items():
        seconds = []
        for size in sizes:
            (n, shape), spectral = of(size)
            x, y = samples(n, shape, 10)
            construct(x, y, layers=1, eta_eff=1.0, shift_invariant=spectral, progress=False)
            times = []
            for layers in (2, 7):
                start = time.perf_counter()
                construct(x, y, layers=layers, eta_eff=1.0, shift_invariant=spectral, progress=False)
                times.append(time.perf_counter() - start)
            seconds.append((times[1] - times[0]) / 5)
        exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
        print(f"{name}: {', '.join(f'{size}: {value * 1e3:.1f} ms' for size, value in zip(sizes, seconds, strict=True))}; "
              f"exponent {exponent:.2f}", flush=True)  # fmt: skip
        result[name] = {"sizes": [float(size) for size in sizes], "seconds": seconds, "exponent": exponent}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["vectors", "images", "scaling"])
    parser.add_argument("--layers", type=int, default=50)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    runs: dict[str, Callable[[], object]] = {"images": images, "vectors": lambda: vectors(arguments.layers), "scaling": scaling}
    results = {name: run() for name, run in runs.items() if arguments.only in (None, name)}
    out = Path(__file__).parent / "results" / "redunet.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

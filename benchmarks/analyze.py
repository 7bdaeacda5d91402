"""How close is an analysis to one matrix product? `analyze` of a stored layer against one float64 `X.T @ X`, in one run.

    python benchmarks/analyze.py [--n 50000] [--d 512] [--k 10] [--rounds 7]

The file is written once and is in the page cache. Every round measures the product and `analyze` of all metrics in turn,
a pause between them; ratios are of one round, and their median is printed. Writes benchmarks/results/analyze.json.

Found (n = 50,000, d = 512, K = 10, two cores):

- numpy knows that X.T @ X is symmetric and computes half of it; so does this package, which calls dsyrk on the rows of
  each class and adds in place, without a temporary of d x d.
- numpy and scipy each bring an OpenBLAS with threads of its own, which go on spinning for a while after a product. Summing
  rows with numpy's `@` before scipy's dsyrk made the dsyrk 3 times slower (0.22 -> 0.79 s). All products are scipy's.
- np.add.reduceat over axis 0 took as long as the whole scatter (0.21 s); a product with ones takes 0.01 s.
- The three coding rates share one computation, K + 1 Cholesky factors (0.02 s); from eigenvalues they took 0.3 s.
- fisher_ratio takes a Cholesky factor where the covariance is regular (4 ms), and eigenvalues where it is not (55 ms).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import probes
from repanalysis import analyze
from repanalysis.metrics import names
from repanalysis.statistics import ClassMoments


def write(path: Path, n: int, d: int, k: int) -> None:
    """A file of one layer: Gaussian classes, float32."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(k, d)).astype(np.float32)
    with probes.create(path, expected=n) as writer:
        for start in range(0, n, 500):
            ids = np.arange(start, min(start + 500, n))
            labels = rng.integers(0, k, len(ids))
            x = rng.standard_normal((len(ids), d), dtype=np.float32) + means[labels]
            writer.append(probes.Batch(ids=ids, layers={"x": x}, labels=labels))


def seconds(function: object, *arguments: object) -> float:
    time.sleep(0.3)  # the threads of one BLAS go on spinning into the time of the other
    start = time.perf_counter()
    function(*arguments)  # type: ignore[operator]
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=50_000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        write(path, arguments.n, arguments.d, arguments.k)
        with probes.open(path) as store:
            stored, y = store["x"], store.labels
        x = stored.astype(np.float64)
        tasks = {
            "X.T @ X": lambda: x.T @ x,
            "read": lambda: probes.open(path)["x"],
            "ClassMoments": lambda: ClassMoments().of(stored, y),
            "analyze, all": lambda: analyze(path, progress=False),
            "analyze, fisher": lambda: analyze(path, "fisher_ratio", progress=False),
        }
        times: dict[str, list[float]] = {name: [] for name in tasks}
        for task in tasks.values():
            seconds(task)
        for _ in range(arguments.rounds):
            for name, task in tasks.items():
                times[name].append(seconds(task))
    print(f"n = {arguments.n}, d = {arguments.d}, K = {arguments.k}, {len(names())} metrics, numpy {np.__version__}")
    print(f"{'':16} {'seconds':>8} {'x product':>10}")
    rows = []
    for name, mine in times.items():
        ratio = statistics.median(a / b for a, b in zip(mine, times["X.T @ X"], strict=True))
        rows.append({"task": name, "seconds": statistics.median(mine), "ratio": ratio})
        print(f"{name:16} {statistics.median(mine):8.3f} {ratio:10.2f}")
    out = Path(__file__).parent / "results" / "analyze.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"arguments": vars(arguments), "seconds": times, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()

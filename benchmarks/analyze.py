"""How close is an analysis to one matrix product? `analyze` of a stored layer against one float64 `X.T @ X`, in one run.

    python benchmarks/analyze.py [--n 50000] [--d 512] [--k 10] [--rounds 7]
    python benchmarks/analyze.py --layers 100 --n 10000 --rounds 3     # a whole file against reading it and 100 products
    python benchmarks/analyze.py --peers --n 20000                     # against scikit-learn, torch, scikit-dimension

The file is written once and is in the page cache. Every round measures the product and `analyze` of all smooth metrics (all
functions of moments) in turn, a pause between them; ratios are of one round, and their median is printed. Writes
benchmarks/results/analyze.json.

Measured (two cores, shared and noisy; ratios to one X.T @ X of 0.2 to 0.3 s)

    n = 50,000, d = 512, K = 10      ClassMoments 1.32 to 1.40; fisher_ratio 1.6; all 18 smooth metrics 1.76 to 2.11
                                     (target: 1.5); with jackknife errors 6.8 to 8.2; peak 730 MB
    n = 50,000, d = 2,048, K = 10    ClassMoments 1.58; fisher_ratio 1.91; all 18 smooth metrics 2.08 (target: 1.5), of which
                                     reading 400 MB is 0.45; peak 1,830 MB, of which x twice is 1,170
    n = 50,000, d = 512, K = 1,000   from rows, no K d^2: 14 (before sums of scatters were remembered: 18); peak 860 MB
    100 layers, n = 10,000, d = 512  2.6 x (reading + 100 products) (target: 1.3), workers=2: 1.9 x with 3 s of starting;
                                     peak 510 MB (target: 1.5 GB)
    peers (n = 20,000)               fisher_ratio 10 x faster than scikit-learn's LDA (4e-15); nc1 1.5 x faster than two passes
                                     in torch (target: 3), equal to the last digit; rate_reduction with n << d 60 x faster than
                                     the published formula (2e-16); TwoNN 4.4 x faster than scikit-dimension (1e-16)

Where the time goes: at n = 10,000 a layer takes 139 ms: its products 51, centring and gathering 16, K + 1 Cholesky factors 19,
the spectrum 16, sums and symmetric copies of scatters 13, Fisher's factor 4, reading 5. So 1.3 would leave less for all metrics
than the Cholesky factors of ten classes alone take. At n = 50,000 rows are gathered and centred in 50 ms and multiplied in 220.

- numpy knows that X.T @ X is symmetric and computes half of it; so does this package, which calls dsyrk on long runs of rows of
  one class and adds in place. Runs of 200 rows take 1.3 times as long as runs of 2,000.
- Fresh pages cost as much as what is done to them: the room that a block is centred in is used again. A second thread to fill
  it was slower: the threads of BLAS spin between calls and have the other core.
- numpy and scipy each bring an OpenBLAS with threads of its own, which go on spinning for a while after a product. Summing
  rows with numpy's `@` before scipy's dsyrk made the dsyrk 3 times slower (0.22 -> 0.79 s). All products are scipy's.
- Other processes open a file once, not for every layer: describing 100 layers takes as long as analysing one.
- scipy's wrappers hold Python's lock, so layers in two threads with a core each are slower than one after the other.
- The coding rates share one computation, K + 1 Cholesky factors; from eigenvalues they took 0.3 s instead of 0.02.
- fisher_ratio takes a Cholesky factor where the covariance is regular (4 ms), and eigenvalues where it is not (55 ms).
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import probes
from repanalysis import analyze
from repanalysis.metrics import get, names
from repanalysis.statistics import ClassMoments, Rows, Samples

SMOOTH = [name for name in names() if get(name).has_jackknife_se and not get(name).needs_head]


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
    parser.add_argument("--layers", type=int, default=0, help="so many layers in one file")
    parser.add_argument("--peers", action="store_true", help="single metrics against other libraries")
    parser.add_argument("--threads", type=int, default=0, help="of torch, in --peers")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        if arguments.peers:
            results = peers(arguments)
        elif arguments.layers:
            results = many_layers(arguments, path)
        else:
            results = one_layer(arguments, path)
    out = Path(__file__).parent / "results" / "analyze.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps({"arguments": vars(arguments), **results}, indent=1))


def one_layer(arguments: argparse.Namespace, path: Path) -> dict[str, Any]:
    """All smooth metrics of one layer against one product."""
    write(path, arguments.n, arguments.d, arguments.k)
    with probes.open(path) as store:
        stored, y = store["x"], store.labels
    x = stored.astype(np.float64)
    tasks = {
        "X.T @ X": lambda: x.T @ x,
        "read": lambda: probes.open(path)["x"],
        "fisher": lambda: analyze(path, "fisher_ratio", groups=0, progress=False),
        "smooth": lambda: analyze(path, SMOOTH, groups=0, progress=False),
        "smooth, errors": lambda: analyze(path, SMOOTH, progress=False),
    }
    if arguments.k * arguments.d**2 * 8 < 1 << 30:
        tasks["ClassMoments"] = lambda: ClassMoments().of(stored, y)
    times = rounds(tasks, arguments.rounds)
    print(f"n = {arguments.n}, d = {arguments.d}, K = {arguments.k}, {len(SMOOTH)} smooth metrics, numpy {np.__version__}")
    print(f"{'':16} {'seconds':>8} {'x product':>10}")
    rows = []
    for name, mine in times.items():
        ratio = statistics.median(a / b for a, b in zip(mine, times["X.T @ X"], strict=True))
        rows.append({"task": name, "seconds": statistics.median(mine), "ratio": ratio})
        print(f"{name:16} {statistics.median(mine):8.3f} {ratio:10.2f}")
    print(f"peak memory {peak_mb():.0f} MB, of which x in float64 and float32 {(x.nbytes + stored.nbytes) / 2**20:.0f} MB")
    return {"seconds": times, "rows": rows}


def many_layers(arguments: argparse.Namespace, path: Path) -> dict[str, Any]:
    """Many layers against reading the file once and as many products."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(arguments.k, arguments.d)).astype(np.float32)
    with probes.create(path, expected=arguments.n) as writer:
        for start in range(0, arguments.n, 500):
            ids = np.arange(start, min(start + 500, arguments.n))
            labels = ids % arguments.k
            noise = rng.standard_normal((len(ids), arguments.d), dtype=np.float32)
            layers = {f"layer{i}": noise * (1 + i / 50) + means[labels] for i in range(arguments.layers)}
            writer.append(probes.Batch(ids=ids, layers=layers, labels=labels))
    x = np.random.default_rng(1).normal(size=(arguments.n, arguments.d))

    def read() -> None:
        with probes.open(path) as store:
            for layer in store.layers:
                store[layer]

    tasks = {
        "read": read,
        "products": lambda: [x.T @ x for _ in range(arguments.layers)],
        "smooth": lambda: analyze(path, SMOOTH, groups=0, progress=False),
        "smooth, workers=2": lambda: analyze(path, SMOOTH, groups=0, workers=2, progress=False),
    }
    times = rounds(tasks, arguments.rounds)
    base = [r + p for r, p in zip(times["read"], times["products"], strict=True)]
    ratios = {name: statistics.median(s / b for s, b in zip(mine, base, strict=True)) for name, mine in times.items()}
    for name, mine in times.items():
        print(f"{name:18} {statistics.median(mine):8.3f} s  {ratios[name]:6.2f} x (read + products)")
    print(f"peak memory {peak_mb():.0f} MB")
    return {"seconds": times, "ratios": ratios, "peak_mb": peak_mb()}


def peers(arguments: argparse.Namespace) -> dict[str, Any]:
    """Single metrics against what people use now, agreement first."""
    import torch
    from skdim.id import TwoNN
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    torch.set_num_threads(arguments.threads or 2)
    n, d, k = arguments.n, arguments.d, arguments.k
    rng = np.random.default_rng(0)
    y = np.arange(n) % k
    x = rng.normal(size=(n, d)) + rng.normal(size=(k, d))[y] * 0.3

    def lda() -> float:
        fitted = LinearDiscriminantAnalysis(solver="svd").fit(x, y)
        z = fitted.transform(x)  # white within classes, up to a factor that is a matter of convention
        centres = np.array([z[y == c].mean(axis=0) for c in range(k)])
        return float(np.square(centres).sum() / k / (z - centres[y]).var(axis=0).mean() / k)

    def collapse() -> float:
        """The plain two-pass formulas of public code, in float64."""
        h, labels = torch.from_numpy(x), torch.from_numpy(y)
        mean = h.mean(dim=0)
        means = torch.stack([h[labels == c].mean(dim=0) for c in range(k)])
        within = torch.zeros(d, d, dtype=torch.float64)
        for c in range(k):
            z = h[labels == c] - means[c]
            within += z.T @ z / n
        centred = means - mean
        between = centred.T @ centred / k
        return float(torch.trace(within @ torch.linalg.pinv(between, rtol=1e-8)) / k)

    wide_n, wide_d = 500, 4096
    wide, wide_y = rng.normal(size=(wide_n, wide_d)), np.arange(wide_n) % k
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)

    def rate() -> float:
        """The published formulas: logdet of d x d matrices."""
        z, eye = torch.from_numpy(wide), torch.eye(wide_d, dtype=torch.float64)
        whole = torch.logdet(eye + wide_d / (wide_n * 0.5) * z.T @ z) / 2
        parts = 0.0
        for c in range(k):
            part = z[wide_y == c]
            parts += len(part) / wide_n * torch.logdet(eye + wide_d / (len(part) * 0.5) * part.T @ part) / 2
        return float(whole - parts)

    few = rng.normal(size=(10_000, 64)) @ rng.normal(size=(64, 64))
    none = np.zeros(len(few), np.int64)
    pairs: dict[str, tuple[Any, Any]] = {
        "fisher_ratio / sklearn LDA (svd)": (lambda: get("fisher_ratio")(ClassMoments().of(x, y))[""], lda),
        "nc1 / two passes in torch": (lambda: get("nc1")(ClassMoments().of(x, y))[""], collapse),
        "rate_reduction, n << d / published": (lambda: get("rate_reduction")(Rows().of(wide, wide_y))[""], rate),
        "intrinsic_dimension / skdim TwoNN": (
            lambda: get("intrinsic_dimension", max_samples=0)(Samples(limit=0).of(few, none))["max_samples=0"],
            lambda: float(TwoNN().fit(few).dimension_),
        ),
    }
    print(f"n = {n}, d = {d}, K = {k}; rate: n = {wide_n}, d = {wide_d}; TwoNN: n = 10000, d = 64")
    print(f"{'':36} {'ours, s':>8} {'theirs, s':>10} {'faster':>7} {'difference':>11}")
    rows = []
    for name, (ours, theirs) in pairs.items():
        mine, other = float(ours()), theirs()
        times = rounds({"ours": ours, "theirs": theirs}, min(3, arguments.rounds))
        faster = statistics.median(b / a for a, b in zip(times["ours"], times["theirs"], strict=True))
        difference = abs(mine - other) / abs(other)
        rows.append({"task": name, "faster": faster, "difference": difference, **times})
        a, b = (statistics.median(times[side]) for side in ("ours", "theirs"))
        print(f"{name:36} {a:8.3f} {b:10.3f} {faster:7.1f} {difference:11.1e}", flush=True)
    return {"peers": rows}


def rounds(tasks: dict[str, Any], count: int) -> dict[str, list[float]]:
    """Seconds of every task, in rounds, so that a machine that slows down slows all."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for task in tasks.values():
        seconds(task)
    for _ in range(count):
        for name, task in tasks.items():
            times[name].append(seconds(task))
    return times


def peak_mb() -> float:
    """Peak memory of this process."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


if __name__ == "__main__":
    main()

"""Do error bars cover? Every metric's and every similarity's standard error against what other data sets of the same size give.

    python benchmarks/coverage.py [--draws 200] [--workers 2]
    python benchmarks/coverage.py --calibration     # false positives of `compare(null=...)` at 5 %

Independent data sets are drawn from one law, with other ids each time, so that halves and groups are drawn anew as well.
Printed is the share of data sets, in per cent, in which value +- 1.96 se holds the mean of all values: the expectation of the
estimate at this n, not what more samples would give. In brackets, the root mean square of se over the standard deviation of the
values. With 200 draws a true 95 % shows as 92 to 98. docs/uncertainty.md holds the tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

import probes
from repanalysis import analyze, metrics
from repanalysis.analyses.filters.measures import filters
from repanalysis.analyses.similarity import METHODS, compare

LAWS = {
    "Gaussian": (400, 10, 4, 0.7),  # n, d, K, distance of the class means
    "heavy tails": (400, 10, 4, 0.7),
    "separated": (400, 10, 4, 2.0),
    "n near d": (150, 40, 3, 0.5),
}
NAMES = [name for name in metrics.names() if name != "power_law_exponent"] + ["power_law_exponent:first=2,last=9"]
PAIRS = {"Gaussian": (200, 10), "heavy tails": (200, 10), "n below d": (60, 80)}
CELLS = ((6, 3), (8, 30), (30, 5), (30, 60), (100, 20))
Row = tuple[tuple[str, str], float, float]


def classes(law: str, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples, labels and the true means."""
    n, d, k, distance = LAWS[law]
    rng = np.random.default_rng(seed)
    means = distance * np.random.default_rng(7).normal(size=(k, d))
    y = rng.integers(0, k, n)
    noise = rng.standard_t(5, size=(n, d)) * np.sqrt(3 / 5) if law == "heavy tails" else rng.normal(size=(n, d))
    return means[y] + noise * np.geomspace(1, 0.5, d), y, means


def of_metrics(law: str, seed: int) -> list[Row]:
    """Values and errors of every metric and variant, with the head of nearest true means, and of a filters head."""
    with threadpool_limits(1):
        x, y, means = classes(law, seed)
        source = probes.from_arrays({"x": x}, ids=np.arange(len(y)) + 10**6 * seed, labels=y)
        head = means, -0.5 * np.square(means).sum(axis=1)
        rows = analyze(source, NAMES, head=head, progress=False).frame.itertuples()
        values = [((row.metric, row.variant), row.value, row.se) for row in rows]
        filtered = filters(source, progress=False)[0].frame.dropna(subset="se").itertuples()
        return [*values, *(((f"filters: {row.metric}", row.variant), row.value, row.se) for row in filtered)]


def of_similarities(law: str, seed: int) -> list[Row]:
    """Values and errors of every method, of a layer and a noisy function of it."""
    with threadpool_limits(1):
        n, d = PAIRS[law]
        rng = np.random.default_rng(seed)
        x = (rng.standard_t(5, size=(n, d)) if law == "heavy tails" else rng.normal(size=(n, d))) * np.geomspace(1, 0.1, d)
        mixing = np.random.default_rng(3).normal(size=(d, d)) / np.sqrt(d)
        layers = {"x": x, "y": np.tanh(x @ mixing) + 0.3 * rng.normal(size=(n, d))}
        source = probes.from_arrays(layers, ids=np.arange(n) + 10**6 * seed)
        values = []
        for method in METHODS:
            row = compare(source, method=method, progress=False).frame.iloc[1]
            values.append(((f"compare: {method}", ""), row["value"], row["se"]))
        return values


def summary(draws: Iterable[list[Row]]) -> dict[tuple[str, str], tuple[float, float, float, int]]:
    """Mean, ratio, coverage and number of errors by metric and variant."""
    every: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for rows in draws:
        for key, value, se in rows:
            every.setdefault(key, []).append((value, se))
    coverage = {}
    for key, pairs in every.items():
        values, errors = np.array(pairs).T
        known = np.isfinite(errors) & np.isfinite(values)
        mean, spread = float(values[known].mean()) if known.any() else np.nan, float(np.nanstd(values, ddof=1))
        ratio = float(np.sqrt(np.square(errors[known]).mean()) / spread) if known.any() and spread > 1e-12 else np.nan
        inside = np.abs(values[known] - mean) <= 1.96 * errors[known] + 1e-12
        coverage[key] = (mean, ratio, float(inside.mean()) if known.any() else np.nan, int(known.sum()))
    return coverage


def table(laws: Iterable[str], measure: object, draws: int, workers: int) -> None:
    """Cover (ratio) of every key by law, as Markdown."""
    columns = {}
    with ProcessPoolExecutor(workers) as pool:
        for law in laws:
            columns[law] = summary(pool.map(partial(measure, law), range(draws)))  # type: ignore[operator]
    keys = list(dict.fromkeys(key for column in columns.values() for key in column))
    print("| metric | variant |", " | ".join(columns), "|")
    print("|---|---|" + "---|" * len(columns))
    for metric, variant in keys:
        cells = [shown(column.get((metric, variant)), draws) for column in columns.values()]
        print(f"| {metric} | {variant} |", " | ".join(cells), "|", flush=True)


def shown(cell: tuple[float, float, float, int] | None, draws: int) -> str:
    if cell is None or not cell[3]:
        return "no error"
    ratio = f" ({cell[1]:.2f})" if np.isfinite(cell[1]) else " (constant)"
    return f"{100 * cell[2]:.1f}{ratio}" + (f", in {cell[3]}" if cell[3] < draws else "")


def positives(method: str, cell: tuple[int, int], *, pairs: int = 2000, null: int = 99) -> tuple[float, int]:
    """Share of p <= 0.05 among unrelated layers of one file, and how many p there are."""
    n, d = cell
    with threadpool_limits(1):
        p: list[float] = []
        for seed in range(-(-pairs // 10)):
            rng = np.random.default_rng(seed)
            source = probes.from_arrays({name: rng.standard_t(4, size=(n, d)) for name in "abcde"})
            frame = compare(source, method=method, null=null, seed=seed, groups=0, progress=False).frame
            p += frame[frame["layer_a"] < frame["layer_b"]]["p"].dropna().tolist()
        return float(np.mean(np.array(p) <= 0.05)) if p else np.nan, len(p)


def calibration(workers: int) -> None:
    """A row per method, a column per n and d."""
    print("| method |", " | ".join(f"n = {n}, d = {d}" for n, d in CELLS), "|")
    print("|---|" + "---|" * len(CELLS))
    with ProcessPoolExecutor(workers) as pool:
        for method in METHODS:
            shares = pool.map(partial(positives, method), CELLS)
            cells = ["no p" if not count else f"{100 * share:.1f}" for share, count in shares]
            print(f"| {method} |", " | ".join(cells), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--calibration", action="store_true", help="false positives of compare instead")
    parser.add_argument("--similarities", action="store_true", help="errors of compare alone")
    arguments = parser.parse_args()
    if arguments.calibration:
        calibration(arguments.workers)
        return
    table(PAIRS, of_similarities, arguments.draws, arguments.workers)
    if not arguments.similarities:
        print()
        table(LAWS, of_metrics, arguments.draws, arguments.workers)


if __name__ == "__main__":
    main()

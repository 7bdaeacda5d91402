"""The same number by every path: file, stream, workers, arrays, direct call; alone and together with other metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ortho_group

import probes
from probes import Batch
from probes.ids import id_keys
from repanalysis import analyze, metrics
from repanalysis.metrics import Head, Metric
from repanalysis.statistics import Rows

Data = tuple[np.ndarray, np.ndarray]
Values = dict[tuple[str, str], float]

EVERY = [metrics.get(name) for name in metrics.names()]
SMOOTH = [metric for metric in EVERY if metric.has_jackknife_se]


def low_rank() -> Data:
    """90 samples of 3 classes that span 20 directions."""
    rng = np.random.default_rng(11)
    y = np.arange(90) % 3
    return rng.normal(size=(90, 20)) @ rng.normal(size=(20, 20)) + 1.5 * rng.normal(size=(3, 20))[y], y


def embedded(width: int) -> Data:
    """The same samples in `width` features, mapped by an isometry."""
    x, y = low_rank()
    return np.c_[x, np.zeros((90, width - 20))] @ ortho_group(width, seed=2).rvs(), y


def kinds() -> dict[str, Data]:
    x, y = low_rank()
    rng = np.random.default_rng(12)
    wide = rng.normal(size=(60, 150)) * rng.uniform(0.1, 10, 150)
    return {
        "plain": (x, y),
        "padded with zeros": (np.c_[x, np.zeros((90, 130))], y),
        "padded with constants": (np.c_[x, np.full((90, 130), 0.3)], y),
        "rotated, rank below d below n": embedded(60),
        "rotated, n below d": embedded(150),
        "mapped to more features": (x @ rng.normal(size=(20, 200)) + rng.normal(size=200), y),
        "more features than samples": (wide, np.arange(60) % 4),
        "many classes": (rng.normal(size=(120, 30)), np.arange(120) % 40),
        "unequal classes": (rng.normal(size=(80, 100)), np.repeat([0, 1, 2], [50, 20, 10])),
    }


def final_linear(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(3).normal(size=(int(y.max()) + 1, x.shape[1])), np.zeros(int(y.max()) + 1)


def batched(x: np.ndarray, y: np.ndarray, size: int = 37) -> list[Batch]:
    ids = np.arange(len(x))
    cuts = [slice(i, i + size) for i in range(0, len(x), size)]  # labels are also the targets, for metrics of targets
    return [Batch(ids[cut], {"layer": x[cut]}, y[cut], targets=y[cut].astype(float)) for cut in cuts]


def table(source: object, names: list[str] | None, head: tuple[np.ndarray, np.ndarray], **options: object) -> Values:
    frame = analyze(source, names, head=head, groups=0, **options).frame  # type: ignore[arg-type]
    return {(row.metric, row.variant): row.value for row in frame.itertuples()}


def direct(metric: Metric, x: np.ndarray, y: np.ndarray, *, rows: bool) -> Values:
    statistic = Rows(normalize=metric.needs.normalize) if rows else metric.needs  # type: ignore[attr-defined]
    return {(metric.name, variant): float(value) for variant, value in metric(statistic.of(x, y)).items()}


def assert_same(values: Values, expected: Values, description: str) -> None:
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, rel=1e-8, abs=1e-11, nan_ok=True), f"{description}: {key}"


@pytest.fixture(scope="module")
def workers() -> ProcessPoolExecutor:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        yield pool


@pytest.mark.parametrize("kind", kinds())
def test_every_path_gives_the_same_number(kind: str, tmp_path: Path, workers: ProcessPoolExecutor) -> None:
    x, y = kinds()[kind]
    head = final_linear(x, y)
    fitted = [metrics.get(m.name, head=Head(*head)) if m.needs_head else m for m in EVERY]
    expected = {key: value for metric in fitted for key, value in direct(metric, x, y, rows=False).items()}
    assert any(math.isfinite(expected[metric.name, variant]) for metric in fitted for _, variant in expected)
    names = [metric.name for metric in EVERY]
    with probes.create(tmp_path / "x.h5") as writer:
        for batch in batched(x, y):
            writer.append(batch)
    file = probes.open(tmp_path / "x.h5")
    order = np.random.default_rng(5).permutation(len(x))
    shuffled = Batch(np.arange(len(x))[order] * 7919 + 5, {"layer": x[order]}, y[order])
    paths: dict[str, Callable[[], Values]] = {
        "rows": lambda: {key: value for m in fitted if m.has_jackknife_se for key, value in direct(m, x, y, rows=True).items()},
        "arrays": lambda: table(probes.from_arrays({"layer": x}, labels=y, targets=y), names, head),
        "file": lambda: table(file, names, head),
        "stream": lambda: table(batched(x, y), names, head),
        "workers": lambda: table(file, names, head, executor=workers),
        "other order and ids": lambda: table([shuffled], [metric.name for metric in SMOOTH], head),
        "alone": lambda: {key: value for name in names for key, value in table(file, [name], head).items()},
    }
    for description, path in paths.items():
        values = path()
        assert values.keys() == expected.keys() or description in ("rows", "other order and ids"), "halves go by the ids"
        assert_same(values, {key: value for key, value in expected.items() if key in values}, f"{kind}, {description}")


@pytest.mark.parametrize("kind", ["padded with zeros", "padded with constants", "rotated, rank below d below n",
                                  "rotated, n below d", "mapped to more features"])  # fmt: skip
def test_an_injective_linear_map_leaves_invariant_metrics_unchanged(kind: str) -> None:
    """Regression: linearly dependent features changed a separation of 10.71 to inf."""
    (x, y), (wide, _) = low_rank(), kinds()[kind]
    for metric in SMOOTH:
        invariant = metric.invariant & {"linear"} or ("rotated" in kind and metric.invariant >= {"rotation", "translation"})
        if not invariant or metric.name.startswith(("rate", "coding")) or metric.name == "participation_ratio":
            continue  # metrics that depend on d differ by definition
        before, after = direct(metric, x, y, rows=False), table(probes.from_arrays({"layer": wide}, labels=y), [metric.name],
                                                                final_linear(wide, y))  # fmt: skip
        assert_same(after, {key: value for key, value in before.items() if math.isfinite(value)}, kind)


def test_samples_with_names_give_the_same_number_by_every_path(tmp_path: Path, workers: ProcessPoolExecutor) -> None:
    """Halves, groups and subsamples are drawn by the hash of a name, independently of other samples."""
    x, y = low_rank()
    texts = np.array([f"{'é' * (i % 4)}class {label}/{i}.png" for i, label in enumerate(y)])
    head, metric_names = final_linear(x, y), [metric.name for metric in EVERY]

    def named(order: np.ndarray, size: int) -> list[Batch]:
        cuts = [order[start : start + size] for start in range(0, len(order), size)]
        return [Batch(texts[rows], {"layer": x[rows]}, y[rows], targets=y[rows, None] / 1) for rows in cuts]

    def write(path: Path, batches: list[Batch]) -> Path:
        with probes.create(path) as writer:
            for batch in batches:
                writer.append(batch)
        return path

    plain, mixed = np.arange(len(x)), np.random.default_rng(5).permutation(len(x))
    file = probes.open(write(tmp_path / "x.h5", named(plain, 37)))
    shards = probes.open([write(tmp_path / f"{i}.h5", [batch]) for i, batch in enumerate(named(mixed, 31))])
    by_key = probes.from_arrays({"layer": x}, labels=y, targets=y, ids=id_keys(texts))
    expected = table(by_key, metric_names, head)
    statistics = [metrics.get(m.name, head=Head(*head)) if m.needs_head else m for m in EVERY]
    separate = {(m.name, key): float(value) for m in statistics for key, value in m(m.needs.of(x, y, texts)).items()}
    assert_same(expected, separate, "direct")
    paths: dict[str, Callable[[], Values]] = {
        "arrays": lambda: table(probes.from_arrays({"layer": x}, labels=y, targets=y, ids=texts), metric_names, head),
        "file": lambda: table(file, metric_names, head),
        "stream": lambda: table(named(plain, 37), metric_names, head),
        "other batches": lambda: table(named(plain, 1), metric_names, head),
        "another order": lambda: table(named(mixed, 37), metric_names, head),
        "shards": lambda: table(shards, metric_names, head),
        "workers": lambda: table(file, metric_names, head, executor=workers),
    }
    for description, path in paths.items():
        values = path()
        assert set(values) == set(expected), description
        assert_same(values, expected, description)
    numbered = table(probes.from_arrays({"layer": x}, labels=y, targets=y), metric_names, head)
    assert any(values != expected[key] for key, values in numbered.items()), "other ids, other halves"

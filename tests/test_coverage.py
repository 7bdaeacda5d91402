"""Coverage of error bars: value +- 1.96 se contains the mean over data sets drawn repeatedly with different ids."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import probes
from repanalysis import analyze
from repanalysis.analyses.filters.measures import filters

READOUTS = (
    "ncc_accuracy", "knn_accuracy", "lda_accuracy", "linear_probe_accuracy", "linear_separability", "nc4_ncc_mismatch",
    "intrinsic_dimension",
)  # fmt: skip


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """benchmarks/coverage.py."""
    path = Path(__file__).parent.parent / "benchmarks" / "coverage.py"
    spec = importlib.util.spec_from_file_location("coverage_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def covered(results: dict[tuple[str, str], tuple[float, float, float, int]], draws: int, least: float) -> None:
    """Assert coverage of every value with an error; `least` is the lower limit for a true 90 % at this number of draws."""
    for key, (_, _, cover, n_errors) in results.items():
        if n_errors > draws / 2:
            assert cover >= least, f"{key} covers {cover:.3f}"


@pytest.mark.parametrize("distance", [0.7, 2.5])
def test_error_bars_of_readouts_cover(bench: ModuleType, distance: float) -> None:
    """80 draws, well inside and near accuracy 1: a true 90 % is below 80 % once in 500 times."""
    means = distance * np.random.default_rng(7).normal(size=(3, 5))
    draws = []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        y = rng.integers(0, 3, 160)
        x = means[y] + rng.normal(size=(160, 5))
        source = probes.from_arrays({"x": x}, ids=np.arange(160) + 10**6 * seed, labels=y)
        rows = analyze(source, READOUTS, head=(means, np.zeros(3)), progress=False).frame.itertuples()
        filtered = filters(source, bootstrap=0, progress=False)[0].select(metric="layer_accuracy").frame
        head = (("layer_accuracy", ""), filtered["value"].item(), filtered["se"].item())
        draws.append([*(((row.metric, row.variant), row.value, row.se) for row in rows), head])
    results = bench.summary(draws)
    assert sum(n_errors == 80 for *_, n_errors in results.values()) >= 11
    covered(results, 80, 0.8)
    for key, (_, ratio, _, n_errors) in results.items():
        if n_errors == 80 and np.isfinite(ratio):
            assert ratio > 0.8, f"{key}: the error is {ratio:.2f} of the spread"
    certain = [se for rows in draws for (name, variant), value, se in rows if value == 1.0 and variant != "penalty"]
    assert min(certain, default=1.0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("law", ["Gaussian", "heavy tails", "separated", "n near d"])
def test_every_error_bar_covers(bench: ModuleType, law: str) -> None:
    """200 draws: a true 90 % is below 84 % once in 500 times."""
    covered(bench.summary(bench.of_metrics(law, seed) for seed in range(200)), 200, 0.84)


@pytest.mark.slow
@pytest.mark.parametrize("law", ["Gaussian", "heavy tails", "n below d"])
def test_every_error_bar_of_a_similarity_covers(bench: ModuleType, law: str) -> None:
    covered(bench.summary(bench.of_similarities(law, seed) for seed in range(200)), 200, 0.84)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cka", "cca", "procrustes", "rsa"])
def test_false_positives_of_a_similarity_are_at_most_nominal(bench: ModuleType, method: str) -> None:
    for cell in ((8, 30), (30, 5)):
        share, count = bench.positives(method, cell)
        assert not count or 0.03 < share < 0.07

"""Draws by id: uniform, mutually independent, and fixed across versions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from repanalysis.statistics.draws import JACKKNIFE_SEED, SPLIT_SEED, SUBSAMPLE_SEED, fitted_on, group_of, hashed, uniform


@pytest.mark.parametrize("seed", [0, SUBSAMPLE_SEED, JACKKNIFE_SEED, SPLIT_SEED])
@pytest.mark.parametrize(
    "ids", [np.arange(20_000), np.arange(20_000) * 4096 + 7, -np.arange(20_000)], ids=["dense", "sparse", "negative"]
)
def test_ids_of_any_pattern_are_spread_evenly(ids: np.ndarray, seed: int) -> None:
    assert len(np.unique(hashed(ids, seed))) == len(ids)
    assert kstest(uniform(ids, seed), "uniform").pvalue > 1e-4
    assert chisquare(np.bincount((hashed(ids, seed) % np.uint64(10)).astype(int))).pvalue > 1e-4


def test_seeds_are_independent() -> None:
    ids = np.arange(20_000)
    table = np.corrcoef([uniform(ids, seed) for seed in range(5)])
    assert np.abs(table - np.eye(5)).max() < 0.03


def test_draws_for_different_uses_are_independent() -> None:
    """Subsampling, groups and halves: within each, the shares of the others are those of all samples."""
    ids = np.arange(40_000)
    subsample = np.argsort(hashed(ids, SUBSAMPLE_SEED))[:4000]
    fitted, group = fitted_on(ids), group_of(ids, 10)
    assert abs(fitted[subsample].mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)
    for index in range(10):
        assert abs((group[subsample] == index).mean() - 0.1) < 4 * 0.3 / np.sqrt(4000)
        assert abs(fitted[group == index].mean() - 0.5) < 4 * 0.5 / np.sqrt(3800)
    assert len({SUBSAMPLE_SEED, JACKKNIFE_SEED, SPLIT_SEED}) == 3


def test_draws_are_fixed_across_versions() -> None:
    """Which samples are drawn is part of every published number: these values must not change."""
    assert hashed(np.array([0, 1, 10**12]), SUBSAMPLE_SEED).tolist() == EXPECTED


EXPECTED = [12035550249420947055, 6791897765849424158, 5604782783794462124]

"""spectrum: plain eigenvalues, in shares, at ranks 1, 2, 5, 10 and so on."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from repanalysis.metrics.spectrum import spectrum
from repanalysis.statistics import ClassMoments, Rows

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]


@pytest.mark.parametrize(("n", "d"), [(300, 30), (20, 60)])
def test_values_are_shares_of_plain_eigenvalues(classes: Classes, n: int, d: int) -> None:
    x, y = classes(n, d, 4)
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    for statistic in (ClassMoments(), Rows()):
        values = spectrum(statistic.of(x, y))
        assert list(values) == [f"component={rank}" for rank in (1, 2, 5, 10, 20, 50) if rank <= d]
        for name, value in values.items():
            rank = int(name.partition("=")[2])
            assert value == pytest.approx(max(eigenvalues[rank - 1], 0) / eigenvalues.sum(), rel=1e-8, abs=1e-14)


def test_n_samples_span_n_minus_1_directions(rng: np.random.Generator) -> None:
    values = spectrum(ClassMoments().of(rng.normal(size=(20, 60)).astype(np.float32), np.zeros(20, int)))
    assert values["component=20"] == 0.0
    assert values["component=10"] > 0


def test_equal_samples_have_no_spectrum() -> None:
    assert all(math.isnan(value) for value in spectrum(ClassMoments().of(np.ones((9, 3)), np.zeros(9, int))).values())


def test_the_ranks_are_1_2_5_of_every_decade_up_to_the_number_of_features_and_to_last(rng: np.random.Generator) -> None:
    state = ClassMoments().of(rng.normal(size=(300, 100)), np.zeros(300, int))
    ranks = [1, 2, 5, 10, 20, 50, 100]
    assert list(spectrum(state)) == [f"component={rank}" for rank in ranks]
    assert list(spectrum(state, last=20)) == [f"component={rank}" for rank in ranks[:5]]

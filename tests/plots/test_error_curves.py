"""Scatter of test error: every run is a point, and the rank correlation is scipy's."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from probes.errors import UsageError
from repanalysis.plots import errors


@pytest.fixture
def runs() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"model": np.repeat(["small:a,width=2", "b"], 4), "noise": np.tile([0.0, 1.0, 3.0, 10.0], 2)})
    for column in ("test_error", "D", "G", "R"):
        frame[column] = rng.uniform(0.01, 0.5, 8)
    return frame


def test_every_run_is_a_point_and_the_correlation_agrees_with_scipy(runs: pd.DataFrame) -> None:
    figure = errors(runs)
    for ax, letter in zip(figure.axes, "DGR", strict=True):
        points = np.concatenate(
            [np.asarray(collection.get_offsets()) for collection in ax.collections if len(collection.get_offsets()) == 4]
        )
        np.testing.assert_allclose(points, runs[[letter, "test_error"]])
        assert ax.get_title("right") == f"Spearman {spearmanr(runs[letter], runs['test_error']).statistic:+.2f}"
    plt.close(figure)


def test_missing_columns_have_one_sentence_errors(runs: pd.DataFrame) -> None:
    with pytest.raises(UsageError, match="lacks the columns G"):
        errors(runs.drop(columns="G"))
    with pytest.raises(UsageError, match="three are the least"):
        errors(runs.head(2))

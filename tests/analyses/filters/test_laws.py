"""Laws of filters: planted layers, exact limiting cases, and recovery of planted power laws."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from probes.errors import DataError, UsageError
from repanalysis.analyses.filters.laws import against_labels, against_width
from repanalysis.analyses.filters.measures import LabelledActivations
from repanalysis.table import Table
from tests.heads.plain import class_means, head, share_right, summary


def planted(n: int, seed: int, k: int = 8, f: int = 24) -> LabelledActivations:
    """Filters that respond to two labels each."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % k
    x = 0.6 * np.abs(rng.normal(size=(n, f, 1)))
    for index in range(f):
        x[(y == index % k) | (y == (3 * index + 1) % k), index] += 0.7
    return LabelledActivations(x, y, np.arange(n))


def values(table: Table, metric: str, variant: str = "") -> dict[float, float]:
    frame = table.select(metric=metric, variant=variant).frame
    return dict(zip(frame["strength"], frame["value"], strict=True))


def test_at_all_labels_both_heads_are_equal_and_clusters_are_those_of_the_layer() -> None:
    train, test = planted(400, 0), planted(320, 1)
    table = against_labels(train, test, sizes=[2, 5, 8], subsets=3, progress=False)
    weights = head(train.x[:, :, 0], train.y, 8)
    error = 1 - share_right(weights, test.x[:, :, 0], test.y)
    for variant in ("fixed head", "refitted heads"):
        assert values(table, "error_rate", variant)[8] == pytest.approx(error)
    expected = summary(class_means(test.x, test.y, 8), weights.reshape(8, 24, 1))
    for metric in ("clusters_per_filter", "cluster_size", "labels_per_filter", "noise_per_filter", "snr_pair"):
        assert values(table, metric)[8] == pytest.approx(expected[metric]), metric
    assert table.provenance["run"]["sizes"] == [2, 5, 8]


def test_pairs_of_a_fixed_head_agree_with_a_count() -> None:
    train, test = planted(400, 0), planted(320, 1)
    table = against_labels(train, test, sizes=[2], subsets=1, progress=False)
    weights = head(train.x[:, :, 0], train.y, 8)
    scores = test[0][:, :, 0] @ weights.T
    wrong = [scores[row, j] > scores[row, label] for row, label in enumerate(test[1]) for j in range(8) if j != label]
    assert values(table, "error_rate", "fixed head")[2] == pytest.approx(np.mean(wrong))


def test_all_pairs_are_refitted_when_they_are_few() -> None:
    """Three labels have three pairs, so many subsets average over all of them."""
    (x, y, _), (z, t, _) = train, test = planted(300, 0, k=3, f=6), planted(300, 1, k=3, f=6)
    table = against_labels(train, test, sizes=[2, 3], subsets=60, progress=False)
    errors = []
    for pair in ((0, 1), (0, 2), (1, 2)):
        training, test_rows = np.isin(y, pair), np.isin(t, pair)
        weights = head(x[training, :, 0], np.searchsorted(pair, y[training]), 2)
        errors.append(1 - share_right(weights, z[test_rows, :, 0], np.searchsorted(pair, t[test_rows])))
    frame = table.select(metric="error_rate", variant="refitted heads").frame.set_index("strength")
    assert abs(frame["value"][2.0] - np.mean(errors)) < 3 * frame["se"][2.0] + 1e-9


def test_clusters_of_subsets_are_means_over_subsets_with_standard_errors() -> None:
    """Subsets are drawn with (seed, size, draw); five labels of eight are renumbered from 0."""
    train, test = planted(400, 0), planted(320, 1)
    table = against_labels(train, test, sizes=[5], subsets=3, seed=4, progress=False)
    summaries = []
    for draw in range(3):
        labels = np.sort(np.random.default_rng((4, 5, draw)).choice(8, 5, replace=False))
        (x, y), (z, t) = (
            (part.x[np.isin(part.y, labels)], np.searchsorted(labels, part.y[np.isin(part.y, labels)]))
            for part in (train, test)
        )
        weights = head(x[:, :, 0], y, 5)
        summaries.append(
            summary(class_means(z, t, 5), weights.reshape(5, 24, 1)) | {"error_rate": 1 - share_right(weights, z[:, :, 0], t)}
        )
    rows = table.frame[(table.frame["variant"] != "fixed head") & table.frame["metric"].isin(summaries[0])].set_index("metric")
    assert len(rows) == 6
    for metric, row in rows.iterrows():
        values = np.array([expected[str(metric)] for expected in summaries])
        assert row["value"] == pytest.approx(values.mean()), metric
        assert row["se"] == pytest.approx(np.sqrt(np.square(values - values.mean()).sum() / 2 / 3)), metric


def test_error_rises_with_labels_and_its_linear_fit_is_in_the_table() -> None:
    table = against_labels(planted(400, 0), planted(320, 1), progress=False)
    curve = values(table, "error_rate", "fixed head")
    assert list(curve) == [2, 3, 5, 6, 8]
    assert np.all(np.diff(list(curve.values())) > 0)
    slope, offset = np.polyfit(list(curve), list(curve.values()), 1)
    fit = table.select(variant="fixed head").frame.set_index("metric")["value"]
    assert fit["error_slope"] == pytest.approx(slope)
    assert fit["error_offset"] == pytest.approx(offset)
    assert 0.8 < fit["error_r_squared"] <= 1


def test_subsets_depend_on_the_seed() -> None:
    train, test = planted(200, 0), planted(160, 1)
    first, repeated, reseeded = (
        against_labels(train, test, sizes=[3], subsets=2, seed=seed, progress=False) for seed in (0, 0, 1)
    )
    assert first.frame.equals(repeated.frame)
    assert not first.frame["value"].equals(reseeded.frame["value"])


def widths(noise: float = 90.0) -> Table:
    rng = np.random.default_rng(0)
    rows = []
    for d in (8, 16, 32, 64):
        for layer, order in (("first", 0), ("last", 1)):
            base = {"run": f"w{d}", "layer": layer, "order": order, "n": 500}
            error = 0.9 * d**-0.4 * np.exp(0.01 * rng.normal()) if order else 0.8
            for metric, value in (
                ("filters_per_layer", d), ("layer_accuracy", 1 - error), ("noise_per_filter", noise * d**-0.7 * order),
            ):  # fmt: skip
                rows.append(base | {"metric": metric, "value": value, "se": 0.01})
    return Table.from_rows(rows, {f"w{d}": {} for d in (8, 16, 32, 64)})


def test_planted_power_laws_are_recovered() -> None:
    table = against_width(widths())
    fits = table.select(run="power law").frame.set_index("metric")["value"]
    assert fits["error_exponent"] == pytest.approx(0.4, abs=0.03)
    assert fits["error_factor"] == pytest.approx(0.9, rel=0.1)
    assert fits["noise_exponent"] == pytest.approx(0.7)
    assert fits["noise_r_squared"] == pytest.approx(1)
    se = table.select(run="power law").frame.set_index("metric")["se"]
    assert se["noise_exponent"] < 1e-6 < se["error_exponent"] < 0.05
    assert set(table.frame[table.frame["strength"].notna()]["layer"]) == {"last"}


def test_without_noise_its_power_law_is_undefined() -> None:
    fits = against_width(widths(0.0)).select(run="power law").frame.set_index("metric")
    assert np.isnan(fits["value"]["noise_exponent"])
    assert fits["note"]["noise_exponent"] == "fewer than three widths with any noise"
    assert np.isfinite(fits["value"]["error_exponent"])


def test_invalid_input_has_a_one_sentence_error() -> None:
    with pytest.raises(UsageError, match="sizes go from 2 to 8"):
        against_labels(planted(80, 0), planted(80, 1), sizes=[3, 9], progress=False)
    with pytest.raises(UsageError, match="at least one is needed"):
        against_labels(planted(80, 0), planted(80, 1), subsets=0, progress=False)
    with pytest.raises(UsageError, match="`repanalysis filters` writes such tables"):
        against_width(Table.from_rows([{"run": "a", "metric": "layer_accuracy", "value": 0.5}]))
    with pytest.raises(UsageError, match="Run w8 has no layer 'middle'"):
        against_width(widths(), layer="middle")
    twice = pd.concat([widths().frame, widths().frame.query("run == 'w8'")])
    with pytest.raises(UsageError, match="Run w8 occurs twice"):
        against_width(Table(twice, widths().provenance))
    with pytest.raises(DataError, match=r"these are \[8, 16\]"):
        against_width(Table(widths().frame.query("run in ['w8', 'w16']"), {"w8": {}, "w16": {}}))

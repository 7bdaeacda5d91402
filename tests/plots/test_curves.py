"""Depth curves: lines show the values of the table, and undefined values are reported."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from probes import UsageError
from repanalysis.plots import depth, overview
from repanalysis.table import Table


@pytest.fixture(autouse=True)
def _no_figure_is_left_open() -> Iterator[None]:
    yield
    plt.close("all")


def table(runs: int = 2, layers: int = 5, metrics: tuple[str, ...] = ("fisher_ratio",), value: float | None = None) -> Table:
    return Table.from_rows(
        {
            "run": f"run{run}", "layer": f"layer{i}", "order": i, "depth": (i + 1) / layers, "metric": metric, "n": 1000,
            "value": (i + 1.0) * (run + 1) if value is None or i != 2 else value, "se": 0.1 if run else math.nan,
        }
        for run in range(runs) for metric in metrics for i in range(layers)
    )  # fmt: skip


def test_lines_show_the_values_in_order_of_execution() -> None:
    shuffled = table()
    shuffled = Table(shuffled.frame.sample(frac=1, random_state=0))
    ax = depth(shuffled)
    lines = {line.get_label(): line for line in ax.get_lines()}
    assert set(lines) == {"run0", "run1"}
    np.testing.assert_array_equal(lines["run1"].get_ydata(), [2, 4, 6, 8, 10])
    assert [text.get_text() for text in ax.get_xticklabels()] == [f"layer{i}" for i in range(5)]
    assert ax.get_title("right") == "n = 1,000"
    assert len(ax.collections) == 1  # the band of the run that has standard errors
    assert ax.get_legend() is not None


def test_the_axis_is_depth_where_layers_are_many_or_differ() -> None:
    ax = depth(table(layers=60))
    np.testing.assert_allclose(ax.get_lines()[0].get_xdata(), (np.arange(60) + 1) / 60)
    mixed = Table.concat([table(1, 5), table(2, 7).select(run="run1")])
    assert depth(mixed).get_xlabel().startswith("depth")
    with pytest.raises(UsageError, match="The runs have different layers"):
        depth(mixed, x="layer")


def test_infinite_and_undefined_values_are_counted_in_the_figure() -> None:
    ax = depth(table(1, value=math.inf))
    assert "infinite: 1" in ax.get_title("right")
    assert [line.get_marker() for line in ax.get_lines()] == ["o", "^"]
    assert "undefined: 1" in depth(table(1, value=math.nan)).get_title("right")


def test_given_axes_are_used_and_global_settings_are_unchanged() -> None:
    before = dict(plt.rcParams)
    _, ax = plt.subplots()
    assert depth(table(), ax=ax) is ax
    assert dict(plt.rcParams) == before


def test_missing_metrics_have_one_sentence_errors() -> None:
    with pytest.raises(UsageError, match="Unknown metric of this table 'fisher'. Did you mean 'fisher_ratio'?"):
        depth(table(), metric="fisher")
    with pytest.raises(UsageError, match="Unknown variant of fisher_ratio 'x'"):
        depth(table(), variant="x")
    with pytest.raises(UsageError, match="Unknown x 'y'"):
        depth(table(), x="y")  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_overview_has_a_panel_per_metric_and_saves_without_a_warning(count: int, tmp_path: Path) -> None:
    names = ("coding_rate", "fisher_ratio", "rate_reduction", "nc1", "nc2", "nc3", "nc4")[:count]
    figure = overview(table(metrics=names))
    panels = [ax for ax in figure.axes if ax.axison]
    assert len(panels) == count
    figure.savefig(tmp_path / "x.png")
    figure.savefig(tmp_path / "x.svg")
    assert len(figure.legends) == 1
    boxes = [ax.get_window_extent() for ax in panels]
    assert all(box.width > 100 and box.height > 80 for box in boxes), "the layout collapsed"


def test_overview_starts_with_the_fisher_ratio_and_prefers_relative_values() -> None:
    rows = table(1, metrics=("coding_rate", "within_class_variance", "fisher_ratio")).frame
    relative = rows[rows["metric"] == "within_class_variance"].assign(variant="relative")
    figure = overview(Table(__import__("pandas").concat([rows, relative])))
    titles = [ax.get_title("left") for ax in figure.axes if ax.axison]
    assert titles == ["Fisher ratio", "Within class variance (relative)", "Coding rate"]


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to plot"):
        overview(Table.from_rows([]))


def test_random_labels_are_a_dashed_line_with_two_standard_deviations() -> None:
    rows = [
        {"run": "a", "layer": f"l{i}", "order": i, "depth": i / 4, "metric": "nc1", "value": 5.0 + i, "se": 0.5, "n": 9}
        for i in range(4)
    ]
    null = [{**row, "perturbation": "label permutation", "value": 1.0, "se": 0.25} for row in rows]
    ax = depth(Table.from_rows(rows + null), metric="nc1")
    dashed = next(line for line in ax.get_lines() if line.get_linestyle() == "--")
    np.testing.assert_array_equal(dashed.get_ydata(), np.ones(4))
    bands = [path.vertices[:, 1] for band in ax.collections for path in band.get_paths()]
    assert sorted((band.min(), band.max()) for band in bands) == [(0.5, 1.5), (4.5, 8.5)]
    assert "random labels" in [text.get_text() for text in ax.get_legend().get_texts()]
    plt.close(ax.figure)


def test_many_runs_are_an_ordered_scale_of_colours_without_a_legend() -> None:
    rows = [
        {"run": f"epoch{run}", "layer": f"l{i}", "order": i, "depth": i / 4, "metric": "nc1", "value": 1.0 + run + i, "n": 9}
        for run in range(12)
        for i in range(4)
    ]
    ax = depth(Table.from_rows(rows), metric="nc1")
    lightness = [np.dot(mpl.colors.to_rgb(line.get_color()), [0.3, 0.6, 0.1]) for line in ax.get_lines()]
    assert len(lightness) == 12
    assert (np.diff(lightness) > 0).all()
    assert ax.get_legend() is None
    plt.close(ax.figure)


def test_a_wide_positive_range_has_a_logarithmic_axis() -> None:
    for values, scale in (([1e3, 10.0, 1.0], "log"), ([1e3, 10.0, -1.0], "linear"), ([3.0, 2.0, 1.0], "linear")):
        rows = [
            {"run": "a", "layer": f"l{i}", "order": i, "metric": "nc1", "value": value, "n": 9}
            for i, value in enumerate(values)
        ]
        ax = depth(Table.from_rows(rows), metric="nc1")
        assert ax.get_yscale() == scale
        plt.close(ax.figure)


def test_headings_use_the_notation_of_the_field() -> None:
    rows = [
        {"run": "a", "layer": "l", "metric": metric, "value": 1.0, "n": 9} for metric in ("nc1", "knn_accuracy", "fisher_ratio")
    ]
    titles = [ax.get_title("left") for ax in overview(Table.from_rows(rows)).axes[:3]]
    assert set(titles) == {"NC1", "kNN accuracy", "Fisher ratio"}
    plt.close("all")

"""Tables in a terminal: no wider than the terminal and not truncated; unwrapped lines without a terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repanalysis.cli._tables import columns
from repanalysis.cli._texts import pretty
from repanalysis.table import Table
from tests.cli.running import run, write_acts

LAYERS = ["conv1", "layer1.0.conv2", "layer4.1.conv2", "fc"]
METRICS = [("fisher_ratio", ""), ("rate_reduction", ""), ("within_class_variance", "relative")]


def checkpoints(count: int) -> Table:
    """Three metrics of four layers of a network at several epochs; the values are 1, 2, ...."""
    keys = [(i, order, metric) for i in range(count) for order in range(len(LAYERS)) for metric in METRICS]
    return Table.from_rows(
        {
            "run": f"resnet18_epoch_{i:03d}",
            "layer": LAYERS[order],
            "order": order,
            "n": 100,
            "metric": metric,
            "variant": variant,
            "value": 1 + row,
        }
        for row, (i, order, (metric, variant)) in enumerate(keys)
    )


@pytest.mark.parametrize("count", [1, 2, 7, 30])
@pytest.mark.parametrize("width", [80, 100, 200])
def test_checkpoints_fit_the_terminal(monkeypatch: pytest.MonkeyPatch, count: int, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    table = checkpoints(count)
    text = pretty(table)
    assert max(map(len, text.splitlines())) <= width
    rows = [line.split() for line in text.splitlines() if line.startswith(tuple(LAYERS))]
    assert {row[0] for row in rows} == set(LAYERS)
    assert sorted(int(cell) for row in rows for cell in row[1:]) == list(table.frame["value"].astype(int))


def test_seven_checkpoints_fit_side_by_side_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = checkpoints(7)
    blocks = pretty(table).split("\n\n")
    titles = ["fisher ratio", "rate reduction", "within class variance (relative)"]
    for block, title, (metric, _) in zip(blocks, titles, METRICS, strict=True):
        assert block.splitlines()[0] == f"{title}, resnet18_epoch_..."
        assert block.splitlines()[1].split() == [f"{i:03d}" for i in range(7)]
        for line in block.splitlines()[-len(LAYERS) :]:
            layer, *values = line.split()
            rows = table.frame[(table.frame["metric"] == metric) & (table.frame["layer"] == layer)]
            assert list(map(float, values)) == list(rows["value"])


def test_output_to_a_pipe_is_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repanalysis.cli._tables._terminal_width", lambda: 1_000_000)
    header, *lines = columns(["layer", *(f"a long heading of column {i}" for i in range(30))], [["conv1", *range(30)]]).split(
        "\n"
    )
    assert [line.split() for line in lines] == [["conv1", *map(str, range(30))]]
    assert header.count("a long heading of column") == 30


words = st.text("abc_-./ 1[]", min_size=1, max_size=30).filter(str.strip)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(st.lists(words, min_size=2, max_size=9), st.integers(1, 4), st.integers(40, 200), st.data())
def test_every_cell_is_shown_and_no_line_exceeds_the_width(
    monkeypatch: pytest.MonkeyPatch, header: list[str], n: int, width: int, data: st.DataObject
) -> None:
    """A table of a single column besides the first may be wider than the terminal; no cell is truncated."""
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [[data.draw(words), *(data.draw(st.integers(0, 10**6)) for _ in header[1:])] for _ in range(n)]
    text = columns(header, rows)
    for heading in header:
        for word in heading.split():
            for piece in re.findall(r"[^_\-./]+", word):
                assert piece in text
    tokens = text.split()
    for row in rows:
        for cell in row[1:]:
            assert str(cell) in tokens
    longest = max(len(row[0]) for row in rows)
    widest = max(len(heading) for heading in header)
    assert max(map(len, text.splitlines())) <= max(width, max(longest, widest) + 2 + max(widest, 7))


def test_markup_in_names_is_shown_literally() -> None:
    assert "[red]conv[/red]" in columns(["layer", "n"], [["[red]conv[/red]", 1]])


def test_output_of_the_command_fits_the_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    files = [write_acts(tmp_path / f"resnet18_epoch_{i:03d}.h5") for i in range(7)]
    lines = run("analyze", *files, "-m", ",".join(metric for metric, _ in METRICS), "--groups", 0).stdout.splitlines()
    assert sum(line.startswith("relu ") for line in lines) == len(METRICS)
    assert max(map(len, lines)) <= 80

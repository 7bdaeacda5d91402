r"""Names in figures. Regression: `$\frac{$` stopped a plot, and a control character made an unreadable SVG."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ET
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import probes
from repanalysis import plots
from repanalysis.analyses.similarity import compare
from repanalysis.table import Table

NAMES = [
    r"$\frac{$",
    "a$b$c",
    r"\$x$",
    "_private",
    "\x1b[2J\x00\x07",
    "x\u202egnp.exe",
    "two\nlines",
    "\udcff",
    "<&>\"'",
    "%{}^_#~",
]


def table(metric: str, **columns: object) -> Table:
    rows = [
        {
            "run": name,
            "model": name,
            "layer": f"{layer}{other}",
            "order": order,
            "depth": (order + 1) / 2,
            "metric": metric,
            "value": 1.0 + order,
            "se": 0.1,
            "n": 9,
            "strength": 1.0 + order,
            **columns,
        }
        for name in NAMES[:6]
        for order, (layer, other) in enumerate([(NAMES[0], ""), (NAMES[4], NAMES[5])])
    ]
    return Table.from_rows(rows)


def of_curves() -> Figure:
    return plots.overview(table("fisher_ratio"))


def of_depth() -> Figure:
    labels = table(r"a$\frac{$", variant=r"$\v{$\x1b")
    return plots.depth(labels, metric=r"a$\frac{$", variant=r"$\v{$\x1b").figure  # type: ignore[return-value]


def of_many_layers() -> Figure:
    rows = [{"run": "r", "layer": name, "order": i, "metric": "nc1", "value": i, "n": 9} for i, name in enumerate(NAMES)]
    return plots.depth(Table.from_rows(rows), metric="nc1", x="layer").figure  # type: ignore[return-value]


def of_checkpoints() -> Figure:
    return plots.checkpoints(table("nc1"), metric="nc1").figure  # type: ignore[return-value]


def of_similarity() -> Figure:
    x = np.random.default_rng(0).normal(size=(30, 4))
    return plots.similarity(compare(probes.from_arrays({name: x + i for i, name in enumerate(NAMES[:4])}))).figure  # type: ignore[return-value]


def of_stability() -> Figure:
    return plots.stability(table("sensitivity", perturbation=r"$\frac{$"))


def of_strengths() -> Figure:
    return plots.stability(table("sensitivity", perturbation=r"$\frac{$"), x="strength")


def of_errors() -> Figure:
    runs = [
        {"model": f"small:{name}", "noise": 1.0, "test_error": 0.1 * (i + 1), **dict.fromkeys("DGR", 1.0 + i)}
        for i, name in enumerate(NAMES)
    ]
    return plots.errors(pd.DataFrame(runs))


def of_dilution() -> Figure:
    rows = [
        {"run": "r", "metric": "head_accuracy", "variant": name, "strength": s, "value": 0.5, "n": 9}
        for name in NAMES
        for s in (0, 1)
    ]
    return plots.dilution(Table.from_rows(rows)).figure  # type: ignore[return-value]


def of_laws() -> Figure:
    rows = [
        {"run": "r", "metric": "error_rate", "variant": name, "perturbation": "labels", "strength": 1 + s, "value": 0.5, "n": 9}
        for name in NAMES
        for s in (1, 2)
    ]
    return plots.laws(Table.from_rows(rows))


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.parametrize(
    "draw",
    [
        of_curves,
        of_depth,
        of_many_layers,
        of_checkpoints,
        of_similarity,
        of_stability,
        of_strengths,
        of_errors,
        of_dilution,
        of_laws,
    ],
)
def test_any_name_can_be_plotted_and_the_file_can_be_read(draw: Callable[[], Figure]) -> None:
    figure = draw()
    with plt.rc_context({"svg.fonttype": "none"}):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg")
    plt.close(figure)
    text = buffer.getvalue().decode()
    words = " ".join("".join(element.itertext()) for element in ET.fromstring(text).iter())
    assert not {"\x1b", "\x00", "\x07", "\u202e"} & set(text)
    assert "$" in words or "\\x1b" in words


def test_names_are_drawn_literally() -> None:
    rows = [{"run": "r", "layer": name, "order": i, "metric": "nc1", "value": i, "n": 9} for i, name in enumerate(NAMES[:3])]
    axes = plots.depth(Table.from_rows(rows), metric="nc1", x="layer")
    axes.figure.canvas.draw()
    labels = [label._preprocess_math(label.get_text()) for label in axes.get_xticklabels()]  # type: ignore[attr-defined]
    assert labels == [(name, False) for name in NAMES[:3]]
    plt.close(axes.figure)

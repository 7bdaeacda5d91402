"""What a terminal shows of tables and numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from probes.printable import printable

if TYPE_CHECKING:
    import pandas as pd

    from repanalysis.table import Table


MOST_COLUMNS = 12  # more columns than this do not fit a terminal


MOST_EPOCHS = 12


_HEADLINES = (("fisher_ratio", ""), ("rate_reduction", ""), ("within_class_variance", "relative"))


def columns(header: list[str], rows: list[list[Any]], *, numeric: bool = False) -> str:
    """A table in plain text, words to the left and numbers to the right."""
    lines = [[printable(cell) for cell in line] for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = [numeric or not isinstance(cell, str) for cell in rows[0]] if rows else [numeric] * len(header)
    return "\n".join(
        "  ".join(cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    )


def without(reasons: dict[str, str]) -> str:
    """Lines on the layers that could not be recorded."""
    lines = "\n".join(printable(f"  {name}: {why}") for name, why in reasons.items())
    return f"\n{len(reasons)} left out:\n{lines}" if reasons else ""


def data_of(table: Table) -> dict[str, Any]:
    return {"rows": table.frame.to_dict("records"), "provenance": dict(table.provenance)}


def pretty(table: Table) -> str:
    """The headline metrics side by side, a row per layer and a column per run; then what is undefined, and why."""
    frame, null = _apart(table.frame)
    present = list(dict.fromkeys(zip(frame["metric"], frame["variant"], strict=True)))
    layers, runs = list(dict.fromkeys(frame["layer"])), list(dict.fromkeys(frame["run"]))
    blocks = [["", *([""] if len(runs) > 1 else []), *map(printable, layers)]]
    shown = [pair for pair in _HEADLINES if pair in present]
    if shown:  # beside them, the first variant of other metrics
        shown += [pair for i, pair in enumerate(present) if pair[0] not in dict(shown) | dict(present[:i])]
    for metric, variant in (shown or present)[:3]:
        rows = frame[(frame["metric"] == metric) & (frame["variant"] == variant)]
        values = {(run, layer): value for run, layer, value in zip(rows["run"], rows["layer"], rows["value"], strict=True)}
        body = [[number(values.get((run, layer))) for run in runs] for layer in layers]
        lines = columns(runs if len(runs) > 1 else body[0], body if len(runs) > 1 else body[1:], numeric=True).split("\n")
        blocks.append([printable(metric.replace("_", " ") + (f" ({variant})" if variant else "")), *lines])
    names, *values_of = blocks
    padded = [_padded(names, names=True), *map(_padded, values_of)]
    text = "\n".join("   ".join(cells).rstrip() for cells in zip(*padded, strict=True))
    return "\n".join(filter(None, [text, notes(frame), null]))


def _apart(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows that were measured, and a line on those of random labels, which stand beside them in the table."""
    is_null = frame["perturbation"] == "label permutation"
    if not is_null.any():
        return frame, ""
    tested = frame[is_null & frame["p"].notna()]
    low = int((tested["p"] <= 0.05).sum())
    line = (
        f"Random labels: p is at most 0.05 for {low} of {len(tested)} values; the table's rows with perturbation "
        f"'label permutation' hold the mean and spread under random labels, p and its tail."
    )
    return frame[~is_null], line


def _padded(block: list[str], *, names: bool = False) -> list[str]:
    """The lines of a block, all as wide as it: its head and names to the left, numbers to the right."""
    width = max(map(len, block))
    head, *rest = block
    return [head.ljust(width), *(line.ljust(width) if names else line.rjust(width) for line in rest)]


def number(value: float | None) -> str:
    return "" if value is None else "undefined" if math.isnan(value) else f"{value:.4g}"


def notes(frame: pd.DataFrame) -> str:
    """What is undefined or infinite, and why, once per reason."""
    undefined = frame[~frame["value"].between(-math.inf, math.inf, inclusive="neither")]
    reasons = undefined.groupby("note", sort=False)["layer"].nunique()
    return "\n".join(
        printable(f"Undefined or infinite at {count} layer{'s' * (count > 1)}: {note}.") for note, count in reasons.items()
    )

"""Text of tables and numbers for the terminal."""

from __future__ import annotations

import math
import re
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Any

from probes.printable import printable
from repanalysis.cli._tables import columns, fits

if TYPE_CHECKING:
    import pandas as pd

    from repanalysis.table import Table


MOST_COLUMNS = 12  # more columns don't fit a terminal


MOST_EPOCHS = 12


_HEADLINES = (("fisher_ratio", ""), ("rate_reduction", ""), ("within_class_variance", "relative"))


def without(reasons: dict[str, str]) -> str:
    """Lines on the layers that could not be recorded."""
    lines = "\n".join(printable(f"  {name}: {why}") for name, why in reasons.items())
    return f"\n{len(reasons)} left out:\n{lines}" if reasons else ""


def data_of(table: Table) -> dict[str, Any]:
    return {"rows": table.frame.to_dict("records"), "provenance": dict(table.provenance)}


def pretty(table: Table) -> str:
    """The main metrics, a row per layer and a column per run; then the undefined values with their reasons.

    Metrics are side by side if the terminal is wide enough, otherwise one below the other.
    """
    frame, null = _apart(table.frame)
    present = list(dict.fromkeys(zip(frame["metric"], frame["variant"], strict=True)))
    layers, runs = list(dict.fromkeys(frame["layer"])), list(dict.fromkeys(frame["run"]))
    shown = [pair for pair in _HEADLINES if pair in present]
    if shown:  # beside them, the first variant of other metrics
        shown += [pair for i, pair in enumerate(present) if pair[0] not in dict(shown) | dict(present[:i])]
    tables = {}
    for metric, variant in (shown or present)[:3]:
        rows = frame[(frame["metric"] == metric) & (frame["variant"] == variant)]
        values = {(run, layer): value for run, layer, value in zip(rows["run"], rows["layer"], rows["value"], strict=True)}
        title = metric.replace("_", " ") + (f" ({variant})" if variant else "")
        tables[title] = [[number(values.get((run, layer))) for run in runs] for layer in layers]
    header = [(title, run) if len(runs) > 1 else title for title in tables for run in runs]
    body = [[layer, *chain.from_iterable(table[i] for table in tables.values())] for i, layer in enumerate(layers)]
    if len(runs) == 1 or fits(["", *header], body):
        text = columns(["", *header], body, numeric=True)
    else:
        shared = _common_stem(runs)
        short = [run.removeprefix(shared) for run in runs]
        text = "\n\n".join(
            f"{printable(title)}{f', {printable(shared)}...' if shared else ''}\n"
            + columns(["", *short], [[layer, *cells] for layer, cells in zip(layers, table, strict=True)], numeric=True)
            for title, table in tables.items()
        )
    return "\n".join(filter(None, [text, notes(frame), null]))


def _common_stem(names: list[str]) -> str:
    """The common prefix of all names, up to a separator, if no name ends there: `net_epoch_` of net_epoch_10 and
    net_epoch_20.
    """
    common = "".join(letters[0] for letters in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))
    stem = re.sub(r"[^_\-./ ]+$", "", common)
    return "" if stem in names else stem


def _apart(frame: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The measured rows, and a line on the rows of the null distribution in the table."""
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


def frame_text(frame: pd.DataFrame, digits: int) -> str:
    """A data frame without its index; numbers with the given number of digits."""
    rows = [
        [f"{value:.{digits}g}" if isinstance(value, float) else value for value in row] for row in frame.itertuples(index=False)
    ]
    return columns(list(map(str, frame.columns)), rows)


def number(value: float | None) -> str:
    return "" if value is None else "undefined" if math.isnan(value) else f"{value:.4g}"


def notes(frame: pd.DataFrame) -> str:
    """The undefined and infinite values with the reason, once per reason."""
    undefined = frame[~frame["value"].between(-math.inf, math.inf, inclusive="neither")]
    reasons = undefined.groupby("note", sort=False)["layer"].nunique()
    return "\n".join(
        printable(f"Undefined or infinite at {count} layer{'s' * (count > 1)}: {note}.") for note, count in reasons.items()
    )

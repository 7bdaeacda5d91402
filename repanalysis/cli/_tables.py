"""Tables that fit the terminal: headings wrap first, then further columns continue below, with the first column repeated.

Output to a file or a pipe has complete lines, for grep and diff.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from probes.printable import printable

__all__ = ["columns", "fits"]

Heading = str | tuple[str, ...]

_GAP = 2
_FOLDS = (10_000, 16, 12, 9)  # widths of headings to try, from wide to narrow


def columns(header: Sequence[Heading], rows: Sequence[Sequence[Any]], *, numeric: bool = False) -> str:
    """A table in plain text, words to the left and numbers to the right.

    Parameters
    ----------
    header : sequence of str or tuple of str
        A heading per column; the parts of a tuple are on separate lines.
    rows : sequence of sequences
        Cells; a column is of numbers if its first cell is not text.
    numeric : bool, default False
        Whether all columns but the first are numbers formatted as text.
    """
    limit = _terminal_width()
    cells = [[printable(row[i]) for row in rows] for i in range(len(header))]
    is_number = [(numeric and i > 0) or (bool(rows) and not isinstance(rows[0][i], str)) for i in range(len(header))]
    headings = next(
        folded for fold in _FOLDS if fold == _FOLDS[-1] or _total(folded := _folded(header, cells, fold), cells) <= limit
    )
    widths = _widths(headings, cells)
    return "\n\n".join(_drawn([0, *part], headings, cells, is_number) for part in _parts(widths, limit))


def fits(header: Sequence[Heading], rows: Sequence[Sequence[Any]]) -> bool:
    """Whether the terminal is wide enough for all columns, with wrapped headings."""
    cells = [[printable(row[i]) for row in rows] for i in range(len(header))]
    return _total(_folded(header, cells, _FOLDS[-1]), cells) <= _terminal_width()


def _terminal_width() -> int:
    """Columns of the terminal, or of the variable COLUMNS; infinite without a terminal."""
    return shutil.get_terminal_size(fallback=(0, 0)).columns or 1_000_000


def _folded(header: Sequence[Heading], cells: list[list[str]], width: int) -> list[str]:
    """Headings whose lines are no longer than `width` or the widest cell, if they can be cut after a space or any of _-./@:."""
    return [
        "\n".join(
            line for part in ((heading,) if isinstance(heading, str) else heading) for line in _lines(printable(part), longest)
        )
        for heading, longest in zip(header, (max([width, *map(len, column)]) for column in cells), strict=True)
    ]


def _lines(text: str, width: int) -> Iterator[str]:
    line = ""
    for piece in re.findall(r"[^\s_\-./@:]*(?:[_\-./@:]|\s+|$)", text):
        if line and len((line + piece).rstrip()) > width:
            yield line.rstrip()
            line = ""
        line += piece
    yield line.rstrip()


def _widths(headings: list[str], cells: list[list[str]]) -> list[int]:
    return [max(map(len, [*heading.split("\n"), *column])) for heading, column in zip(headings, cells, strict=True)]


def _total(headings: list[str], cells: list[list[str]]) -> int:
    widths = _widths(headings, cells)
    return sum(widths) + _GAP * (len(widths) - 1)


def _parts(widths: list[int], limit: int) -> Iterator[list[int]]:
    """Columns that fit beside the first, in groups; at least one in each."""
    part: list[int] = []
    for i in range(1, len(widths)):
        if part and sum(widths[j] + _GAP for j in [*part, i]) + widths[0] > limit:
            yield part
            part = []
        part.append(i)
    yield part


def _drawn(indices: list[int], headings: list[str], cells: list[list[str]], is_number: list[bool]) -> str:
    from io import StringIO

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for i in indices:
        table.add_column(Text(headings[i]), justify="right" if is_number[i] else "left", vertical="bottom", no_wrap=True)
    for row in zip(*(cells[i] for i in indices), strict=True):
        table.add_row(*map(Text, row))
    console = Console(file=StringIO(), width=1_000_000, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())

"""Options on networks and data that several functions and commands take, each declared once with its help."""

from __future__ import annotations

import math
from collections.abc import Collection
from os import PathLike
from typing import Annotated

from annotated_doc import Doc
from annotated_types import Ge, Le

from probes.errors import UsageError
from repanalysis._checks import MOST_PROCESSES
from repanalysis.specs import Names, Read

__all__ = [
    "ColoursOption", "DeviceOption", "IgnoreLabelsOption", "LabelsOption", "LimitOption", "Size", "SizeOption", "SplitOption",
    "TargetsOption", "WeightsOption", "WorkersOption",
]  # fmt: skip

Size = int | str | tuple[int, ...]


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them.

    Raises
    ------
    UsageError
        If one of them is none.

    Examples
    --------
    >>> numbers("0.5,0.4")
    (0.5, 0.4)
    """
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise UsageError(f"{text!r} is not a list of numbers; write them like 0.5,0.5,0.5.")
    return values


WeightsOption = Annotated[
    str | PathLike[str] | None, Doc("Safetensors or torch file; 'random' for the untrained network."), Read(str)
]
SplitOption = Annotated[str | None, Doc("Split of the data.")]
LimitOption = Annotated[int | None, Ge(1), Doc("Random subset of so many samples.")]
SizeOption = Annotated[
    Size | None,
    Doc("Side of the images (length of a signal or text), or a sample's shape, 3x16x112x112; if not the model's own."),
    Read(str),
]
ColoursOption = Annotated[
    tuple[float, ...] | None, Doc("Numbers per colour, such as 0.5,0.5,0.5; if not the model's own."), Read(numbers)
]
DeviceOption = Annotated[str | None, Doc("Such as cuda or cpu; default the GPU where there is one.")]
WorkersOption = Annotated[int, Ge(0), Le(MOST_PROCESSES), Doc("Processes that load samples.")]
LABELS = Doc("Labels in a file, FILE or FILE:COLUMN: npy, npz, csv, jsonl, or text with one a line."), Read(str)
TARGETS = Doc("Continuous targets in a file, likewise; several columns as FILE:A,B."), Read(str)
LabelsOption = Annotated[str | None, *LABELS]
TargetsOption = Annotated[str | None, *TARGETS]
IgnoreLabelsOption = Annotated[
    Collection[int],
    Doc("A label that means none, besides -1 and -100. Repeat it."),
    Read(tuple, list[int]),
    Names("--ignore-label"),
]

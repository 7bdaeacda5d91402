"""Write docs/architectures.md: the architectures for which recorded rows were compared with plain hooks, and their axes.

    python docs/make_architectures.py            all of them, some ten minutes
    python docs/make_architectures.py NAME ...   only these; the other rows stay

Tests compare every row with this script's output.
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path

PAGE = Path(__file__).with_name("architectures.md")
sys.path.insert(0, str(PAGE.parents[1]))

from tests.conformance.comparing import Report, compare, summary  # noqa: E402  # the repository is no package
from tests.conformance.zoo import ARCHITECTURES  # noqa: E402

HEAD = """# Architectures

This page is written by `python docs/make_architectures.py`; do not edit it.

Every module call of a forward pass (leaves, containers, every part of a nested output) was recorded twice: by
`probes.capture(model, loader, layers="*", pool="mean")`, and by plain forward hooks that keep whole outputs, which plain numpy
then pools along the axes stated in `tests/conformance/zoo`. For every layer counted here both give the same rows, up to
rounding. Networks are small, weights random. Layers that have no row per sample are skipped, with the reason.

The stated axes do not come from the code under test. The tests check them on the network: if one sample is exchanged, only its
slices may change; with more samples or a larger input, exactly the axes of samples or of positions grow; and a module has as
many channels as its weight.

One letter stands for one axis of a module's output: `B` samples; `T` tokens and `H`, `W`, `D` positions or time, which are
pooled; `C` channels, `G` heads or groups and `U` units of a linear layer over tokens, which are not. `+T` begins with prefix
tokens, which are not pooled. `!`: the number of positions does not grow with the input.

| network | layers compared, by axes | skipped | description |
| --- | --- | --- | --- |
"""


def row(name: str, report: Report) -> str:
    """A network's line of the table."""
    words, skipped = summary(report)
    return f"| {name} | {len(report.compared)}: {words} | {skipped} | {ARCHITECTURES[name].note} |\n"


def main(names: list[str]) -> None:
    """Compare the architectures of these names (default all), and write the page."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    old = PAGE.read_text(encoding="utf-8").splitlines(keepends=True) if PAGE.exists() else []
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in old if line.startswith("| ")}
    for name in names or ARCHITECTURES:
        report = compare(ARCHITECTURES[name])
        for layer, problem in report.problems.items():
            sys.stderr.write(f"{name}, {layer}: {problem}\n")
        rows[name] = row(name, report)
        PAGE.write_text(HEAD + "".join(rows[name] for name in ARCHITECTURES if name in rows), encoding="utf-8")
    sys.stdout.write(f"{PAGE}: {len(rows.keys() & ARCHITECTURES.keys())} architectures.\n")


if __name__ == "__main__":
    main(sys.argv[1:])

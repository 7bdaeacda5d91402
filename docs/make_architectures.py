"""Write docs/architectures.md: for which architectures kept rows were compared with plain hooks, under which axes.

    python docs/make_architectures.py            all of them, some ten minutes
    python docs/make_architectures.py NAME ...   only these; the other rows stay

Tests hold each row to what this would write.
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

For each network every module call of a forward pass (leaves and containers, and every part of a nested output) was recorded
twice: by `probes.capture(model, loader, layers="*", pool="mean")`, and by plain forward hooks whose whole outputs were pooled by
plain numpy, under axes that are stated in `tests/conformance/zoo`. The rows agree to rounding for every layer that is counted
here. Weights are random, networks small. What is left out has no row per sample, for the reason that stands here.

The statements do not come from the code under test, and are themselves held against what the network does: exchange one
sample, and only its slices may change; give another number of samples, another size of input, and the axes that grow are those
of samples and of places; a module's channels are as many as its own weight has.

One letter stands for each axis of a module's output: `B` samples, `C` channels and `G` heads or groups (kept), `T` tokens, `H`, `W`,
`D` places, `T` time too (pooled). `+T` begins with prefix tokens, which are not pooled; `!` places whose number does not grow with
the input.

| network | layers compared, by axes | left out | |
| --- | --- | --- | --- |
"""


def row(name: str, report: Report) -> str:
    """A network's line of the table."""
    words, left_out = summary(report)
    return f"| {name} | {len(report.compared)}: {words} | {left_out} | {ARCHITECTURES[name].note} |\n"


def main(names: list[str]) -> None:
    """Compare the architectures of these names (default all), and write the page."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    old = PAGE.read_text(encoding="utf-8").splitlines(keepends=True) if PAGE.exists() else []
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in old if ": " in line.split(" | ")[0]}
    for name in names or ARCHITECTURES:
        report = compare(ARCHITECTURES[name])
        for layer, problem in report.problems.items():
            sys.stderr.write(f"{name}, {layer}: {problem}\n")
        rows[name] = row(name, report)
    PAGE.write_text(HEAD + "".join(rows[name] for name in ARCHITECTURES if name in rows), encoding="utf-8")
    sys.stdout.write(f"{PAGE}: {len(rows)} architectures.\n")


if __name__ == "__main__":
    main(sys.argv[1:])

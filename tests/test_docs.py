"""Pages that are written from the code are what the code would write now."""

from __future__ import annotations

import runpy
from pathlib import Path

from repanalysis.metrics import names

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_of_metrics_is_current() -> None:
    made = runpy.run_path(str(DOCS / "make_metrics.py"))
    assert (DOCS / "metrics.md").read_text(encoding="utf-8") == made["page"](), "run python docs/make_metrics.py"


def test_the_table_of_labels_is_what_happens() -> None:
    made = runpy.run_path(str(DOCS / "make_inputs.py"))
    text = (DOCS / "inputs.md").read_text(encoding="utf-8")
    assert text == made["page"](text), "run python docs/make_inputs.py"


def test_every_metric_is_on_the_page_with_all_that_was_promised() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    for name in names():
        part = text.split(f"### `{name}`")[1].split("\n### ")[0]
        assert part.count("$$") == 2
        for word in ("Unchanged by", "Parameters", "Standard error", "Bias, cost", "Source"):
            assert f"**{word}:**" in part, f"{name} lacks {word}"

"""Pages generated from the code are up to date."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from repanalysis.metrics import names

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_of_metrics_is_current() -> None:
    generator = runpy.run_path(str(DOCS / "make_metrics.py"))
    assert (DOCS / "metrics.md").read_text(encoding="utf-8") == generator["page"](), "run python docs/make_metrics.py"


def test_the_table_of_labels_is_current() -> None:
    generator = runpy.run_path(str(DOCS / "make_inputs.py"))
    text = (DOCS / "inputs.md").read_text(encoding="utf-8")
    assert text == generator["page"](text), "run python docs/make_inputs.py"


def test_every_metric_is_on_the_page_with_all_sections() -> None:
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    for name in names():
        part = text.split(f"### `{name}`")[1].split("\n### ")[0]
        assert part.count("$$") == 2
        for word in ("Unchanged by", "Parameters", "Standard error", "Bias, cost", "Source"):
            assert f"**{word}:**" in part, f"{name} lacks {word}"


def test_code_in_the_page_on_plugins_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "extending.md").read_text(encoding="utf-8"), re.DOTALL)
    metric, calls, check, perturbation, plot = blocks
    for name, code in (("my_metrics", metric), ("my_parts", perturbation), ("my_plots", plot)):
        (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    code = f"""{check}
import numpy as np
import torch
import matplotlib
matplotlib.use("agg")
from probes import from_arrays
from repanalysis import analyze, metrics, plots
from repanalysis.perturbations import perturbations

x = np.random.default_rng(0).normal(size=(60, 4))
source = from_arrays({{"a": x, "b": 2 * x}}, labels=np.arange(60) % 3)
table = analyze(source, "py:my_metrics:largest_gap,power=2,fisher_ratio")
assert table.frame["value"].notna().all() and table.frame["se"].notna().any()
from my_metrics import largest_gap
store = source
{calls}assert metrics.get("largest_gap", power=2.0)
(darker,) = perturbations("py:my_parts:Darker,share=0.25")
assert torch.equal(darker(torch.ones(1, 1, 2, 2), [0]), torch.full((1, 1, 2, 2), 0.75))
assert plots.own("py:my_plots:last_layer", table).axes
"""
    subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], check=True, cwd=tmp_path)


ROOT = DOCS.parent
TEXTS = [path for folder in ("probes", "repanalysis", "tests", "docs", "benchmarks") for path in (ROOT / folder).rglob("*")
         if path.suffix in (".py", ".md") and path.name != "test_docs.py"]  # fmt: skip


def test_no_document_outside_the_repository_is_cited() -> None:
    outside = re.compile(r"specification of (stability|separation|rate|filter|max)|\bspecification,? section", re.IGNORECASE)
    for path in [*TEXTS, ROOT / "README.md"]:
        assert not outside.search(path.read_text(encoding="utf-8")), path


def test_pages_and_headings_that_code_cites_exist() -> None:
    cited = re.compile(r"docs/(\w+\.md)(?:,\s+([A-Z][\w ]+?)(?=[).;:\n]|$))?")
    for path in TEXTS:
        for page, heading in cited.findall(path.read_text(encoding="utf-8")):
            assert (DOCS / page).exists(), f"{path} cites docs/{page}"
            if heading and path.suffix == ".py":
                text = (DOCS / page).read_text(encoding="utf-8")
                assert f"## {heading}\n" in text, f"{path} cites docs/{page}, {heading}"

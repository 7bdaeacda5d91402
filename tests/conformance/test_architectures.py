"""Recorded rows of entire architectures agree with plain hooks and plain numpy, and omitted outputs have no row per sample.

`zoo` has the architectures and statements about their axes, `comparing` compares both sides, and docs/architectures.md
reports the result; each test checks its row of that page. Most are slow.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests.conformance.comparing import compare
from tests.conformance.zoo import ARCHITECTURES

DOCS = Path(__file__).parents[2] / "docs"
OTHER_POOLS = [
    "small: sequence first", "small: channels last", "small: recurrent", "small: square tokens", "timm: convnext",
    "timm: vision_transformer", "torchvision: swin", "transformers: clip",
]  # fmt: skip
PARAMETERS = [
    pytest.param(name, marks=() if architecture.fast else pytest.mark.slow) for name, architecture in ARCHITECTURES.items()
]


@pytest.mark.filterwarnings("ignore")  # networks of other packages give unrelated warnings
@pytest.mark.parametrize("name", PARAMETERS)
def test_rows_agree_with_plain_hooks(name: str) -> None:
    report = compare(ARCHITECTURES[name])
    assert not report.problems
    page = (DOCS / "architectures.md").read_text(encoding="utf-8")
    row = runpy.run_path(str(DOCS / "make_architectures.py"))["row"]
    assert row(name, report) in page, "run python docs/make_architectures.py"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pool", ["none", "tokens", "cls", "flatten"])
@pytest.mark.parametrize("name", OTHER_POOLS)
def test_other_pools_keep_the_documented_values(name: str, pool: str) -> None:
    report = compare(ARCHITECTURES[name], pool)
    assert report.compared
    assert not report.problems


def test_every_family_of_timm_is_tested() -> None:
    timm = pytest.importorskip("timm")
    assert {f"timm: {module}" for module in timm.list_modules()} <= ARCHITECTURES.keys()

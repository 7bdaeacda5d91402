"""Kept rows of whole architectures are what plain hooks and plain numpy give, and what is left out has no rows.

`zoo` holds the architectures and what is stated about their axes, `comparing` holds both sides against each other, and
docs/architectures.md tells the result; each test checks its row of that page. Most are slow.
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


@pytest.mark.filterwarnings("ignore")  # networks that others wrote warn of this and that
@pytest.mark.parametrize("name", PARAMETERS)
def test_rows_are_those_of_plain_hooks(name: str) -> None:
    report = compare(ARCHITECTURES[name])
    assert not report.problems
    page = (DOCS / "architectures.md").read_text(encoding="utf-8")
    row = runpy.run_path(str(DOCS / "make_architectures.py"))["row"]
    assert row(name, report) in page, "run python docs/make_architectures.py"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("pool", ["none", "tokens", "cls", "flatten"])
@pytest.mark.parametrize("name", OTHER_POOLS)
def test_other_pools_keep_what_they_say(name: str, pool: str) -> None:
    report = compare(ARCHITECTURES[name], pool)
    assert report.compared
    assert not report.problems


def test_every_family_of_timm_is_there() -> None:
    timm = pytest.importorskip("timm")
    assert {f"timm: {module}" for module in timm.list_modules()} <= ARCHITECTURES.keys()

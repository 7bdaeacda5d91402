"""The shape of the tree is a promise: floors, one-way flow, mirrored tests, documented names."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted(
    path for package in ("probes", "repanalysis") for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py"
)
# A file imports from lower floors, and from its own floor within the same folder.
FLOORS = {
    "probes.errors": 0, "probes.ids": 0, "probes.batch": 0, "probes.patterns": 0, "probes.printable": 0,
    "repanalysis._checks": 0, "repanalysis._options": 0, "probes.options": 0, "probes.whole": 0,
    "probes": 1,
    "repanalysis.statistics": 2, "repanalysis.table": 2,
    "repanalysis.metrics": 3, "repanalysis.theory": 3, "repanalysis.perturbations": 3,
    "repanalysis.head_rows": 4, "repanalysis.inputs.labels": 4,
    "repanalysis.subset": 4, "repanalysis.uncertainty": 4, "repanalysis.states": 4, "repanalysis.engine": 4,
    "repanalysis.matching": 4, "repanalysis.similarity": 4, "repanalysis.heads": 4, "repanalysis.filters": 4,
    "repanalysis.pruning": 4,
    "repanalysis.pruning.networks": 6, "repanalysis.filter_laws": 4, "repanalysis.stability": 4, "repanalysis.filter_energy": 4,
    "repanalysis.models": 5, "repanalysis.weights": 5, "repanalysis.inputs": 5, "repanalysis.plots": 5,
    "repanalysis.networks": 5,
    "repanalysis.epochs": 6, "repanalysis.extraction": 6, "repanalysis.training": 6, "repanalysis.stability_runs": 6,
    "repanalysis.noise_study": 6, "repanalysis.demo": 6,
    "repanalysis.cli": 6,
}  # fmt: skip


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def floor(module: str) -> int:
    while module not in FLOORS:
        assert "." in module, f"{module} stands on no floor; give it one here"
        module = module.rpartition(".")[0]
    return FLOORS[module]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" if node.module == "repanalysis" else node.module for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {module for module in found if module.split(".")[0] in ("probes", "repanalysis")}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_imports_only_from_its_own_floor_or_lower_ones(path: Path) -> None:
    mine = name_of(path)
    for other in imports(path):
        assert floor(other) <= floor(mine), f"{mine} imports {other}, which stands above it"
        assert not (mine.startswith("probes") and other.startswith("repanalysis")), "probes knows nothing of repanalysis"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_file_has_a_test_that_mirrors_it(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    folder = Path("tests", *(parts[:-1] if parts[0] == "probes" else parts[1:-1]))
    if path.stem.startswith("_"):
        return  # tested through those who use it
    assert (ROOT / folder / f"test_{path.stem}.py").exists(), f"{folder}/test_{path.stem}.py is missing"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_public_names_exist_and_are_documented(path: Path) -> None:
    module = importlib.import_module(name_of(path))
    assert (module.__doc__ or "").strip(), "a file opens with what it is about"
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            assert (inspect.getdoc(value) or "").strip(), f"{name} has no docstring"


@pytest.mark.parametrize("code", ["import probes, repanalysis; probes.Store", "import repanalysis.cli"])
def test_reading_and_starting_import_no_torch(code: str) -> None:
    check = f"import sys; {code}; assert not {{'torch', 'timm', 'matplotlib'}} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_no_file_without_an_idea_of_its_own() -> None:
    for package in ("probes", "repanalysis"):
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            assert not {"utils", "helpers", "common", "misc"} & set(module.name.split("."))

"""The structure of the code: layered imports without cycles, mirrored tests, documented names."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("probes", "repanalysis")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "__init__.py")
# A room is a file or a folder with its contents. It imports only from lower floors; there are no cycles inside a folder.
FLOORS = [
    "probes.errors probes.printable",
    "probes.ids probes.specs probes.provenance probes.labels probes.options probes.atomic_files",
    "probes.batch",
    "probes.patterns",
    "probes.export",
    "probes.source",
    "probes.arrays probes.relabelled probes.storage probes.loading",
    "probes.features probes.capturing",
    "probes.opening probes.checking probes.comparing probes.planning probes.recording",
    "probes",
    "repanalysis._checks",
    "repanalysis.specs repanalysis.plugins repanalysis.table",
    "repanalysis.statistics",
    "repanalysis.heads repanalysis.perturbations",
    "repanalysis.metrics",
    "repanalysis.theory repanalysis.testing",
    "repanalysis.networks",
    "repanalysis.inputs",
    "repanalysis.training",
    "repanalysis.analyses",
    "repanalysis.extraction repanalysis.plots",
    "repanalysis.studies",
    "repanalysis.cli",
    "repanalysis",
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}


def room(module: str) -> str:
    """The first two parts of a module's name."""
    return ".".join(module.split(".")[:2])


def imports(path: Path) -> set[str]:
    """Modules of this repository that a file imports, also inside functions, except those only for annotations."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    targets = set()
    for node in (node for node in ast.walk(tree) if id(node) not in annotations):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            targets |= {name if name in NAMES else node.module for name in names}
        elif isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
    return targets & NAMES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_imports_only_from_lower_floors(path: Path) -> None:
    own_room = room(name_of(path))
    assert own_room in FLOOR, f"{own_room} stands on no floor; give it one here"
    for module in imports(path):
        assert FLOOR[room(module)] < FLOOR[own_room] or room(module) == own_room, (
            f"{own_room} imports {module}, which is not below it"
        )
        assert not (own_room.startswith("probes") and module.startswith("repanalysis")), "probes knows nothing of repanalysis"


def test_imports_have_no_cycles() -> None:
    """Neither between files nor between the files and folders inside a folder."""
    for depth in range(2, 6):
        below: dict[str, set[str]] = {}
        for path in MODULES:
            parts = name_of(path).split(".")
            for module in imports(path):
                imported = module.split(".")
                if parts[: depth - 1] == imported[: depth - 1] and parts[:depth] != imported[:depth]:
                    below.setdefault(".".join(parts[:depth]), set()).add(".".join(imported[:depth]))
        tuple(TopologicalSorter(below).static_order())  # raises CycleError, which names the cycle


# Packages that a folder's code must never load.
WITHOUT = {"probes.storage": {"torch"}, "probes.capturing": {"h5py"}, "probes.loading": {"h5py"}, "probes.features": {"torch"}}


@pytest.mark.parametrize("folder", WITHOUT)
def test_reading_imports_no_torch_and_capturing_no_hdf5(folder: str) -> None:
    modules = [name_of(path) for path in MODULES if name_of(path).startswith(folder)]
    code = f"import sys, importlib; [importlib.import_module(name) for name in {modules}]"
    check = f"{code}; assert not {WITHOUT[folder]} & set(sys.modules), 'heavy import'"
    subprocess.run([sys.executable, "-c", check], check=True)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_has_the_name_of_an_exported_function(package: str) -> None:
    """Once imported, such a module replaces the function of the same name in the package."""
    for module in sorted(
        name for name in NAMES if name.split(".")[0] == package and not name.rpartition(".")[2].startswith("_")
    ):
        if exported := getattr(importlib.import_module(module), "__all__", None):
            clashes = {name for name in exported if f"{module}.{name}" in NAMES}
            assert all(inspect.ismodule(getattr(importlib.import_module(module), name)) for name in clashes), clashes


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_defined_in_one_file(package: str) -> None:
    module = importlib.import_module(package)
    stub = ast.parse((ROOT / package / "__init__.pyi").read_text(encoding="utf-8"))
    listed = sorted(alias.asname for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names)  # type: ignore[type-var]
    assert sorted(module.__all__) == dir(module) == listed
    assert all(hasattr(module, name) for name in listed)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_file_has_a_test_that_mirrors_it(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    folder = Path("tests", *(parts[:-1] if parts[0] == "probes" else parts[1:-1]))
    if path.stem.startswith("_"):
        return  # tested through its callers
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


def test_no_file_has_a_generic_name() -> None:
    for package in PACKAGES:
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}."):
            assert not {"utils", "helpers", "common", "misc"} & set(module.name.split("."))

"""User-defined metrics, perturbations, networks and plots: by module, file, entry point and notebook cell."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from probes.errors import UsageError
from repanalysis import analyze, metrics
from repanalysis.metrics import _registry as registry
from repanalysis.perturbations import Perturbation, perturbations
from repanalysis.plugins import attribute_of, entry_points, load_plugin, origin_of
from repanalysis.table import Table
from tests.cli.running import refused, run, write_acts

METRIC = """
from repanalysis.metrics import Value, metric
from repanalysis.statistics import ClassGeometry, ClassMoments

FACTOR = 2.0


def helper(value: float) -> float:
    return FACTOR * value


@metric(needs=ClassMoments(), invariant=["rotation", "sign"], min_classes=1)
def twice_the_trace(moments: ClassGeometry, *, power: float = 1.0) -> Value:
    \"\"\"Twice the trace of the within-class covariance.\"\"\"
    return Value(helper(moments.traces()[0]) ** power)


def undecorated(moments: ClassGeometry) -> float:
    return 0.0
"""
OTHERS = """
from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
from torch import nn

from repanalysis.perturbations import Perturbation


@dataclass(frozen=True)
class Darker(Perturbation):
    share: float = 0.5
    name: ClassVar[str] = "darker"
    strength_field: ClassVar[str] = "share"

    def apply(self, images, ids):
        return images * (1 - self.share)


def network(width: int = 4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())


def draw(table):
    figure, ax = plt.subplots()
    ax.plot(table.frame["value"])
    return ax


def no_figure(table):
    return 3
"""


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    """Unregister what a test registers."""
    before = set(sys.modules)
    kinds = list(Perturbation.kinds)
    yield
    Perturbation.kinds[:] = kinds
    for name in set(registry._METRICS) - set(registry._files()):
        del registry._METRICS[name]
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and "pytest-of" in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_metrics.py").write_text(METRIC)
    (tmp_path / "my_parts.py").write_text(OTHERS)
    write_acts(tmp_path / "acts.h5")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def values_of(table: Table) -> list[float]:
    return table.frame["value"].tolist()


def test_a_metric_is_loaded_from_a_module(folder: Path) -> None:
    table = analyze("acts.h5", "py:my_metrics:twice_the_trace,power=2,fisher_ratio")
    assert table.frame["metric"].unique().tolist() == ["twice_the_trace", "fisher_ratio"]
    assert table.frame["variant"].iloc[0] == "power=2.0"
    code = table.provenance["acts"]["code"]["twice_the_trace"]
    assert code.startswith("my_metrics:twice_the_trace sha256 ")
    assert "twice_the_trace" in metrics.names()
    assert values_of(analyze("acts.h5", "twice_the_trace")) == values_of(analyze("acts.h5", "py:my_metrics:twice_the_trace"))


@pytest.mark.parametrize("way", ["py:my_metrics:twice_the_trace", "twice_the_trace"])
def test_plugins_are_sent_to_processes_that_can_not_import_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    load_plugin(folder / "my_metrics.py")
    expected = values_of(analyze("acts.h5", way))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
    monkeypatch.chdir("/")
    context = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        assert values_of(analyze(folder / "acts.h5", "twice_the_trace", executor=executor)) == expected


def test_a_metric_of_a_notebook_cell_is_sent_to_other_processes(folder: Path) -> None:
    """The module of a cell is `__main__`, which a spawned process can not import."""
    cell = (
        METRIC
        + """
if __name__ == "__main__":
    from repanalysis import analyze

    serial = analyze("acts.h5", "twice_the_trace").frame["value"].tolist()
    assert analyze("acts.h5", "twice_the_trace", workers=2).frame["value"].tolist() == serial
    print("same")
"""
    )
    result = subprocess.run([sys.executable, "-c", cell], capture_output=True, text=True, check=False)
    assert result.stdout == "same\n", result.stderr


def test_plugins_that_can_not_be_pickled_have_one_sentence_errors(folder: Path) -> None:
    text = METRIC.replace("FACTOR = 2.0", "import threading\nLOCK = threading.Lock()").replace(
        "FACTOR * value", "LOCK and value"
    )
    (folder / "locked_metrics.py").write_text(text.replace("twice_the_trace", "locked"))
    with pytest.raises(UsageError, match=r"locked_metrics:locked can't go to other processes \(.*lock.*leave workers out"):
        analyze("acts.h5", "py:locked_metrics:locked", workers=1)
    assert analyze("acts.h5", "locked").frame["value"].notna().all()


def test_the_command_line_accepts_modules_and_files(folder: Path) -> None:
    by_module = run("analyze", "acts.h5", "-m", "py:my_metrics:twice_the_trace", "-o", "a.csv")
    assert by_module.exit_code == 0, by_module.output
    del registry._METRICS["twice_the_trace"], sys.modules["my_metrics"]
    sys.path.remove(str(folder))
    (folder / "elsewhere").mkdir()
    (folder / "my_metrics.py").rename(folder / "elsewhere" / "my_metrics.py")
    by_file = run(
        "analyze", "acts.h5", "-m", "twice_the_trace", "--plugin", "elsewhere/my_metrics.py", "-o", "b.csv", "--workers", 1
    )
    assert by_file.exit_code == 0, by_file.output
    assert values_of(Table.load("a.csv")) == values_of(Table.load("b.csv"))


def test_a_perturbation_and_a_network_are_loaded_from_a_module(folder: Path) -> None:
    (family,) = perturbations("py:my_parts:Darker,share=0.25")
    assert (family.label, family.strength) == ("darker", 0.25)
    assert [perturbation.strength for perturbation in perturbations("darker:0.1..0.4/2")] == pytest.approx([0.1, 0.4])
    words = ("stability", "py:my_parts:network", "--data", "digits", "--size", "1x8x8", "--limit", "20")
    result = run(*words, "-p", "py:my_parts:Darker,share=0.5", "-o", "s.csv")
    assert result.exit_code == 0, result.output
    assert set(Table.load("s.csv").frame["perturbation"]) == {"darker", ""}
    assert "is not a perturbation" in refused(*words, "-p", "py:my_parts:network", "-o", "t.csv", code=2)


def test_a_plot_is_loaded_from_a_module(folder: Path) -> None:
    run("analyze", "acts.h5", "-m", "fisher_ratio", "-o", "a.csv")
    result = run("plot", "a.csv", "--kind", "py:my_parts:draw", "-o", "own.svg")
    assert result.exit_code == 0, result.output
    assert (folder / "own.svg").stat().st_size > 1000
    assert "returned a int" in refused("plot", "a.csv", "--kind", "py:my_parts:no_figure", "-o", "b.svg", code=2)
    assert "There is no plot 'depht'" in refused("plot", "a.csv", "--kind", "depht", "-o", "b.svg", code=2)


def test_entry_points_of_an_installed_package_are_loaded(folder: Path) -> None:
    """An installed package is a folder of metadata beside its modules."""
    info = folder / "strangers_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[repanalysis.metrics]\ntwice_the_trace = my_metrics:twice_the_trace\n"
        "[repanalysis.perturbations]\ndarker = my_parts:Darker\n"
        "[repanalysis.networks]\nstrangers = my_parts:network\n"
        "[repanalysis.plots]\nlines = my_parts:draw\n"
    )
    entry_points.cache_clear()
    try:
        assert "twice_the_trace" in metrics.names()
        assert "my_metrics" not in sys.modules  # listing names imports nothing
        assert run("analyze", "acts.h5", "-m", "twice_the_trace:power=2", "-o", "a.csv").exit_code == 0
        assert [perturbation.strength for perturbation in perturbations("darker:0.5")] == [0.5]
        result = run("layers", "strangers:width=7", "--size", "1x8x8")
        assert result.exit_code == 0, result.output
        assert "7" in result.stdout
        assert "Did you mean 'width'" in refused("layers", "strangers:wdith=7", "--size", "1x8x8", code=2)
        assert run("plot", "a.csv", "--kind", "lines", "-o", "own.svg").exit_code == 0
    finally:
        entry_points.cache_clear()


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a-b.py", "", "whose name is an identifier"),
        ("a.txt", "", "whose name is an identifier"),
        ("json.py", "", "has the name of another module, json"),
        ("broken_plugin.py", "1 / 0", "fails: ZeroDivisionError: division by zero"),
        ("wrong_plugin.py", "def f(:", "fails: SyntaxError"),
    ],
)
def test_invalid_plugins_have_one_sentence_errors(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UsageError, match=sentence):
        load_plugin(tmp_path / name)
    assert Path(name).stem not in sys.modules or name == "json.py"


def test_a_plugin_module_is_run_once(tmp_path: Path) -> None:
    (tmp_path / "counting_plugin.py").write_text("from pathlib import Path\nPath(__file__ + '.ran').touch(exist_ok=False)\n")
    load_plugin(tmp_path / "counting_plugin.py")
    load_plugin(tmp_path / "counting_plugin.py")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("nowhere_at_all:f", "There is no module 'nowhere_at_all'"), ("math:pie", "Did you mean 'pi'"), ("math", "names no part")],
)
def test_unknown_parts_of_a_module_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        attribute_of(text)


def test_a_function_without_the_decorator_is_not_a_metric(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"is not a metric: decorate the function with @metric\(needs=...\)"):
        metrics.get("py:my_metrics:undecorated")


def test_only_user_code_has_an_origin_with_a_hash(folder: Path) -> None:
    assert metrics.get("fisher_ratio").origin == ""
    assert origin_of(analyze) == ""
    first = metrics.get("py:my_metrics:twice_the_trace").origin
    assert first == metrics.get("twice_the_trace", power=3.0).origin
    assert origin_of(print).endswith("sha256 unknown")

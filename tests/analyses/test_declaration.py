"""Provenance that `@analysis` adds to a result: the analysis, every parameter, versions, time."""

from __future__ import annotations

import json
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

import repanalysis
from probes import Batch, LeftOutWarning, from_arrays
from repanalysis.analyses.declaration import Result, analysis, as_plain, stamp
from repanalysis.heads.clusters import ClusterOptions
from repanalysis.metrics import get
from repanalysis.perturbations import Shift
from repanalysis.table import Table


@analysis
def example_analysis(
    source: object, *, theta: float = 0.3, classes: tuple[int, ...] = (), progress: bool | None = None
) -> Table:
    """One row of a run."""
    return Table.from_rows([{"run": "a", "value": theta}], {"a": {"source": "x"}})


def test_a_table_gets_analysis_parameters_versions_and_time() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    provenance = example_analysis(np.zeros((3, 2)), classes=(1, 2), progress=False).provenance["a"]
    assert provenance["source"] == "x"
    assert provenance["analysis"] == "example_analysis"
    assert provenance["parameters"] == {"source": "ndarray of shape (3, 2)", "theta": 0.3, "classes": [1, 2]}
    assert provenance["versions"]["numpy"] == np.__version__
    assert before <= datetime.fromisoformat(provenance["time"]) <= datetime.now(UTC)
    assert "command" not in provenance


def test_the_table_of_a_result_with_artifacts_gets_provenance() -> None:
    @analysis
    def outer_analysis(k: int) -> Result[int]:
        return Result(example_analysis(None), {"k": k})

    table, artifacts = outer_analysis(3)
    assert artifacts == {"k": 3}
    assert table.provenance["a"]["analysis"] == "outer_analysis"  # the outermost analysis, which repeats the result
    assert table.provenance["a"]["parameters"] == {"k": 3}


def test_the_decorated_function_has_name_docstring_and_signature_of_the_original() -> None:
    assert example_analysis.__name__ == "example_analysis"
    assert example_analysis.__doc__ == "One row of a run."
    with pytest.raises(TypeError):
        example_analysis()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (0.5, 0.5),
        ("a", "a"),
        (Path("a/b"), "a/b"),
        ([1, "b"], [1, "b"]),
        ({"a": (1, None)}, {"a": [1, None]}),
        ([], []),
        (np.zeros(3), "ndarray of shape (3,)"),
        (torch.zeros(2, 3), "Tensor of shape (2, 3)"),
        (torch.nn.ReLU(), "ReLU"),
        (get("rate_reduction", eps_sq=0.1), "rate_reduction:eps_sq=0.1"),
        ([Shift(pixels=2.0)], ["shift"]),
        (ClusterOptions(0.5), {"theta": 0.5, "order": "label", "gauge": "center"}),
        ([Batch(np.arange(2), {"a": np.zeros((2, 1))})], "1 of type Batch"),
        (range(3), "range"),
        (list(range(101)), "101 of type int"),
        (from_arrays({"a": np.zeros((2, 1))}), "the arrays"),
    ],
)
def test_parameters_are_converted_to_json_types(value: object, plain: object) -> None:
    assert as_plain(value) == plain
    assert json.loads(json.dumps(stamp("x", {"value": value})))["parameters"]["value"] == plain


def sources_with_nan() -> tuple[object, object]:
    """Two sources, each with a layer that holds NaN."""
    x = np.random.default_rng(0).normal(size=(40, 3))
    bad = np.where(np.arange(40)[:, None] == 7, np.nan, x)
    pair = [from_arrays({"a": x, "b": bad}, labels=np.arange(40) % 2, ids=np.arange(40) + start) for start in (0, 100)]
    return pair[0], pair[1]


@pytest.mark.parametrize("name", ["analyze", "compare", "filters", "stability"])
def test_a_warning_names_the_line_that_called_the_analysis(name: str) -> None:
    first, second = sources_with_nan()
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2), torch.nn.Identity())
    with torch.no_grad():
        net[1].weight[:] = float("inf")
    images = [torch.rand(4, 1, 2, 2)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if name == "analyze":
            repanalysis.analyze(first, "fisher_ratio", progress=False)
        elif name == "compare":
            repanalysis.compare(first, progress=False)
        elif name == "filters":
            repanalysis.filters(first, second, bootstrap=0, progress=False)
        else:
            repanalysis.stability(net, images, [Shift(pixels=1.0)], progress=False)
    (filename,) = {warning.filename for warning in caught if issubclass(warning.category, LeftOutWarning)}
    assert filename == __file__

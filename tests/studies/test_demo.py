"""The demo: its documented results, from a single run."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest

import probes
from probes import UsageError
from repanalysis.studies.demo import FILES, Demo, run_demo
from repanalysis.table import Table


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return run_demo(tmp_path_factory.mktemp("demo") / "out")


def test_the_demo_reaches_97_percent_and_writes_its_files(demo: Demo) -> None:
    assert demo.accuracy >= 0.97
    assert [file.name for file in demo.files] == list(FILES)
    assert all(file.stat().st_size > 1000 for file in demo.files)
    results = next(file for file in demo.files if file.suffix == ".csv")
    assert Table.load(results).frame.equals(demo.table.frame)
    assert matplotlib.image.imread(str(demo.files[-1])).shape[1] > 1200


def test_training_increases_separation_at_the_last_hidden_layers(demo: Demo) -> None:
    for metric in ("fisher_ratio", "rate_reduction"):
        for layer in ("relu4", "fc1", "relu5"):
            rows = demo.table.select(metric=metric, variant="", layer=layer).frame.set_index("run")["value"]
            assert rows["trained"] > 3 * rows["untrained"], f"{metric} at {layer}"


def test_both_files_contain_the_held_out_half_and_their_provenance(demo: Demo) -> None:
    untrained, trained = (probes.open(file) for file in demo.files[:2])
    assert untrained.ids.tolist() == trained.ids.tolist()
    assert len(untrained) == 899
    assert untrained.attrs["weights_sha256"] != trained.attrs["weights_sha256"]
    assert demo.table.provenance["trained"]["recorded"]["weights_sha256"] == trained.attrs["weights_sha256"]


def test_a_second_demo_does_not_overwrite_the_first(demo: Demo) -> None:
    with pytest.raises(UsageError, match="exists already; nothing was written"):
        run_demo(Path(demo.files[0]).parent)

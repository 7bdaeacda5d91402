"""analyze: the same table from every kind of source; errors and warnings; parallel execution."""

from __future__ import annotations

import math
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import probes
from probes import Batch, DataError, IncompleteError, LeftOutWarning, UsageError
from probes.arrays import Arrays
from probes.storage.writer import create
from repanalysis import Table, analyze, metrics
from repanalysis.statistics import ClassMoments, Rows, Statistic

Classes = Callable[..., tuple[np.ndarray, np.ndarray]]
Batches = Callable[..., list[Batch]]


@pytest.fixture
def data(classes: Classes) -> tuple[dict[str, np.ndarray], np.ndarray]:
    x, y = classes(400, 6, 4)
    return {"conv": x.astype("f4"), "relu": np.maximum(x, 0), "map": x.reshape(400, 3, 2)}, y


def write(path: Path, batches: list[Batch]) -> Path:
    with create(path, attrs={"model": "m"}) as writer:
        for batch in batches:
            writer.append(batch)
    return path


def values(table: Table) -> np.ndarray:
    return table.frame["value"].to_numpy()


def test_every_metric_of_every_layer_equals_the_metric_of_the_arrays(
    data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches
) -> None:
    layers, y = data
    table = analyze(batches(layers, y, 64))
    for name, x in layers.items():
        for metric in (
            metric_class
            for metric_class in map(metrics.get, metrics.names())
            if not (metric_class.needs_head or metric_class.needs_targets)
        ):
            maps = {"shape": x.shape[1:] if x.ndim > 2 else ()} if "shape" in metric.parameters else {}
            shaped = metrics.get(metric.name, **maps)
            expected = shaped(shaped.needs.of(x.reshape(400, -1), y))
            for variant, value in expected.items():
                row = table.select(layer=name, metric=metric.name, variant=variant).frame
                assert len(row) == 1
                assert row["value"].item() == pytest.approx(float(value), rel=1e-9, nan_ok=True)
                assert row["n"].item() == 400
    assert table.frame["layer"].unique().tolist() == ["conv", "relu", "map"]
    assert table.frame["depth"].unique().tolist() == pytest.approx([1 / 3, 2 / 3, 1])


def test_every_kind_of_source_gives_the_same_values(
    data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches, tmp_path: Path
) -> None:
    layers, y = data
    parts = batches(layers, y, 37)
    path = write(tmp_path / "acts.h5", parts)
    (tmp_path / "shards").mkdir()
    shards = [write(tmp_path / "shards" / f"{i}.h5", part) for i, part in enumerate((parts[:4], parts[4:]))]
    expected = values(analyze(parts))
    sources = [
        path,
        str(path),
        probes.open(path),
        tmp_path / "shards",
        shards,
        probes.open(shards),
        iter(parts),
        (b for b in parts),
    ]
    for source in sources:
        np.testing.assert_allclose(values(analyze(source)), expected, rtol=1e-10)


def test_run_name_and_provenance_come_from_the_file(
    data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches, tmp_path: Path
) -> None:
    path = write(tmp_path / "night.h5", batches(*data, 64, split="val"))
    table = analyze(path, ["fisher_ratio", "rate_reduction:eps_sq=0.1"], layers="re:c.*")
    assert table.frame["run"].unique().tolist() == ["night"]
    assert table.frame["model"].unique().tolist() == ["m"]
    assert table.frame["split"].unique().tolist() == ["val"]
    assert table.frame["variant"].tolist() == ["", "trace", "pinv", "eps_sq=0.1"]
    facts = table.provenance["night"]
    assert facts["source"] == str(path)
    assert facts["metrics"]["rate_reduction"] == {"eps_sq": 0.1, "normalization": "frobenius"}
    assert facts["layers"]["conv"]["d"] == 6
    assert facts["recorded"]["format_version"] == 3
    assert facts["analysis"] == "analyze"
    assert facts["parameters"]["metrics"] == ["fisher_ratio", "rate_reduction:eps_sq=0.1"]
    assert facts["parameters"]["layers"] == "re:c.*"
    assert facts["parameters"]["groups"] == 10
    assert facts["versions"]["numpy"] == np.__version__
    assert "progress" not in facts["parameters"]


def test_a_shared_statistic_is_computed_once(
    data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Statistic] = []
    update = ClassMoments.update_groups

    def counted(self: ClassMoments, *arguments: object) -> object:
        calls.append(self)
        return update(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ClassMoments, "update_groups", counted)
    smooth = [name for name in metrics.names() if metrics.get(name).has_jackknife_se]
    analyze(batches({"conv": data[0]["conv"]}, data[1], 400), smooth)
    assert calls == [ClassMoments()]
    calls.clear()
    analyze(batches({"conv": data[0]["conv"]}, data[1], 400), "class_mean_separation,rate_reduction:normalization=sphere")
    assert set(calls) == {ClassMoments(scatter="none"), ClassMoments(normalize="sphere")}


def test_a_layer_too_wide_for_the_budget_has_the_metrics_that_fit(
    data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    layers = {"narrow": data[0]["conv"], "wide": rng.normal(size=(400, 300))}
    path = write(tmp_path / "x.h5", batches(layers, data[1], 64))
    smooth = [name for name in metrics.names() if metrics.get(name).has_jackknife_se]
    with pytest.warns(LeftOutWarning, match="1 of 2 layers could not be analyzed, 'wide': d = 300 needs"):
        table = analyze(path, smooth, state_budget=200_000, groups=0)
    assert set(table.failures) == {"wide"}
    with pytest.raises(DataError, match="Layer 'wide' can't be analyzed: d = 300 needs"):
        analyze(path, smooth, state_budget=200_000, groups=0, strict=True)
    wide = table.select(layer="wide").frame
    refused = wide[wide["note"].str.contains("more than the budget")]
    assert set(refused["metric"]) == {name for name in metrics.names() if metrics.get(name).needs == ClassMoments()}
    assert refused["value"].isna().all()
    assert wide[wide["metric"] == "class_mean_separation"]["value"].notna().all()
    assert not table.select(layer="narrow").frame["note"].str.contains("budget").any()


def test_unlabelled_data_have_the_metrics_that_need_no_labels(
    data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches, tmp_path: Path
) -> None:
    for source in (batches(data[0], None, 64), write(tmp_path / "x.h5", batches(data[0], None, 64))):
        table = analyze(source, "coding_rate")
        assert table.frame["value"].notna().all()
        with pytest.raises(DataError, match="The activations have no labels; needed by fisher_ratio.* do without: coding_rate"):
            analyze(source, "coding_rate,fisher_ratio")


def test_a_single_class_is_refused_by_metrics_that_compare_classes(
    data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches, tmp_path: Path
) -> None:
    y = np.full(400, 3)
    for source in (batches(data[0], y, 64), write(tmp_path / "x.h5", batches(data[0], y, 64))):
        with pytest.raises(DataError, match=r"All samples are of one class \(3\), and .*fisher_ratio.* compare classes"):
            analyze(source)
        assert analyze(source, "coding_rate,coding_rate_classes").frame["value"].notna().all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_the_error_of_a_non_finite_value_names_layer_and_sample(
    bad: float, data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches
) -> None:
    layers, y = data
    layers["relu"][321, 2] = bad
    with pytest.raises(DataError, match=re.escape(f"Layer 'relu' holds {bad} at sample id 321. Leave the layer out")):
        analyze(batches(layers, y, 64), strict=True)
    assert analyze(batches(layers, y, 64), layers="!relu").frame["layer"].unique().tolist() == ["conv", "map"]


@pytest.mark.parametrize(
    "source", ["stream", "file", "null", "splits", "shards", pytest.param("workers", marks=pytest.mark.slow)]
)
def test_a_non_finite_layer_leaves_other_layers_unchanged(
    source: str, data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches, tmp_path: Path
) -> None:
    """Regression: one layer with inf stopped the run, and the values of all other layers were lost."""
    layers, y = data
    bad = {**layers, "relu": layers["relu"].copy()}
    bad["relu"][[321, 390], 2] = np.inf, np.nan
    options = {"null": {"null": 2}, "splits": {"by_split": True}, "workers": {"workers": 2}}.get(source, {})

    def opened(name: str, x: dict[str, np.ndarray]) -> object:
        parts = batches(x, y, 64, split="test")
        if source == "stream":
            return parts
        paths = [write(tmp_path / f"{name}{i}.h5", part) for i, part in enumerate((parts[:3], parts[3:]))]
        return paths if source == "shards" else write(tmp_path / f"{name}.h5", parts)

    with pytest.warns(LeftOutWarning, match="1 of 3 layers could not be analyzed, 'relu': holds inf at sample id 321"):
        table = analyze(opened("bad", bad), SMOOTH, **options)  # type: ignore[arg-type]
    reason = "holds inf at sample id 321, the first of 2 such samples of 400"
    assert table.failures == {"relu": reason}
    reference = analyze(opened("good", layers), SMOOTH, **options)  # type: ignore[arg-type]
    for name in ("conv", "map"):
        np.testing.assert_array_equal(values(table.select(layer=name)), values(reference.select(layer=name)))
    rows, expected = (source.select(layer="relu", perturbation="").frame for source in (table, reference))
    assert rows["value"].isna().all()
    assert set(rows["note"]) == {reason}
    assert (rows["n"] == 400).all()
    columns = ["layer", "order", "depth", "metric", "variant", "split"]
    assert sorted(map(tuple, rows[columns].to_numpy())) == sorted(map(tuple, expected[columns].to_numpy()))


def test_a_damaged_layer_leaves_other_layers_unchanged(
    data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches, tmp_path: Path
) -> None:
    layers, y = data
    layers["wide"] = np.random.default_rng(0).normal(size=(400, 200))
    path = write(tmp_path / "x.h5", batches(layers, y, 400))
    content = bytearray(path.read_bytes())
    middle = content.find(layers["wide"][200].tobytes())
    content[middle] ^= 1
    path.write_bytes(content)
    with pytest.warns(LeftOutWarning, match="'wide': .*x.h5 is damaged"):
        table = analyze(path, "class_mean_separation")
    assert table.select(layer="conv").frame["value"].notna().all()
    with pytest.raises(OSError, match="damaged"):
        analyze(path, "class_mean_separation", strict=True)
    with pytest.raises(OSError, match="damaged"):  # no layer could be read, so there is no result
        analyze(path, "class_mean_separation", layers="wide")


@pytest.mark.parametrize("stream", [True, False])
def test_a_metric_that_raises_at_one_layer_leaves_other_layers_unchanged(
    stream: bool,
    data: tuple[dict[str, np.ndarray], np.ndarray],
    batches: Batches,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from repanalysis.analyses.geometry.states import LayerStates

    computed = LayerStates.values

    def failing(self: LayerStates) -> object:
        if self.info.name == "relu":
            raise np.linalg.LinAlgError("no convergence.")
        return computed(self)

    monkeypatch.setattr(LayerStates, "values", failing)
    source = batches(*data, 64) if stream else write(tmp_path / "x.h5", batches(*data, 64))
    with pytest.warns(LeftOutWarning, match="'relu': LinAlgError: no convergence"):
        table = analyze(source, "class_mean_separation")
    assert table.select(layer="relu").frame["note"].unique().tolist() == ["LinAlgError: no convergence"]
    assert table.select(layer="map").frame["value"].notna().all()
    assert values(table.select(layer="relu")).shape == values(table.select(layer="map")).shape


def test_a_layer_without_any_defined_value_is_a_failure(batches: Batches) -> None:
    x = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.warns(LeftOutWarning, match="1 of 2 layers could not be analyzed, 'flat': no metric is defined there"):
        table = analyze(batches({"x": x, "flat": np.ones((40, 3))}, np.arange(40) % 2, 40), "participation_ratio")
    assert set(table.failures) == {"flat"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"metrics": "fischer_ratio"}, "Unknown metric 'fischer_ratio'. Did you mean 'fisher_ratio'?"),
        ({"metrics": "rate_reduction:eps=0.1"}, "Unknown parameter of rate_reduction 'eps'. Did you mean 'eps_sq'?"),
        ({"metrics": "rate_reduction:eps_sq=-1"}, "eps_sq is -1.0; it must be a finite number above 0"),
        ({"metrics": "rate_reduction:eps_sq=x"}, "eps_sq of rate_reduction is 'x'; it must be a number"),
        ({"metrics": "rate_reduction:0.1"}, "is not a parameter; write name:key=value"),
        ({"metrics": ""}, "Unknown metric ''"),
        ({"layers": "cov"}, "No layer of the batches matches 'cov'. Did you mean 'conv'?"),
    ],
)
def test_unknown_names_and_parameters_are_refused(
    options: dict[str, str], sentence: str, data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches
) -> None:
    with pytest.raises(UsageError) as caught:
        analyze(batches(*data, 64), **options)  # type: ignore[arg-type]
    assert sentence in str(caught.value)


def test_no_samples_and_changing_layers_are_refused(data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches) -> None:
    with pytest.raises(DataError, match="There were no samples to analyze"):
        analyze([])
    layers, y = data

    def changing() -> Iterator[Batch]:
        yield batches(layers, y, 400)[0]
        yield Batch(np.arange(400, 402), {"conv": np.zeros((2, 6))}, np.arange(2))

    with pytest.raises(DataError, match=r"The batches do not all hold the same layers \(map, relu\)"):
        analyze(changing())


def test_an_incomplete_file_is_analysed_only_if_asked(
    data: tuple[dict[str, np.ndarray], np.ndarray], batches: Batches, tmp_path: Path
) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(ZeroDivisionError), create(path) as writer:
        for batch in batches(*data, 100)[:3]:
            writer.append(batch)
        raise ZeroDivisionError
    with pytest.raises(probes.IncompleteError, match="stopped after 300 samples"):
        analyze(path)
    assert set(analyze(path, partial=True).frame["n"]) == {300}


def test_a_live_model_needs_no_file(tmp_path: Path) -> None:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
    steps = [(torch.randn(30, 4), torch.arange(30) % 3) for _ in range(5)]
    live = analyze(probes.capture(model, steps))
    np.testing.assert_allclose(values(live), values(analyze(probes.record(model, steps, tmp_path / "x.h5"))), rtol=1e-10)


def write_two_layers(path: Path, classes: Classes) -> Path:
    """A file of two layers, two splits and named classes."""
    x, y = classes(400, 6, 4)
    layers = {"a": x.astype("f4"), "b": np.maximum(x, 0)}
    with create(path, class_names=["cat", "dog", "car", "bus"]) as writer:
        for start in range(0, 400, 64):
            rows = slice(start, min(400, start + 64))
            ids = np.arange(400)[rows]
            split = np.where(ids % 3 == 0, "test", "train")
            batch = Batch(ids=ids, layers={name: value[rows] for name, value in layers.items()}, labels=y[rows], split=split)
            writer.append(batch)
    return path


SMOOTH = "fisher_ratio,nc1,rate_reduction"


def test_splits_classes_and_superclasses_equal_the_metric_of_selected_arrays(classes: Classes, tmp_path: Path) -> None:
    x, y = classes(400, 6, 4)
    path, test = write_two_layers(tmp_path / "x.h5", classes), np.arange(400) % 3 == 0
    cases: list[tuple[dict[str, object], np.ndarray, np.ndarray]] = [
        ({"split": "test"}, test, y),
        ({"classes": ["cat", "car"]}, np.isin(y, [0, 2]), y),
        ({"superclasses": {"animal": ["cat", "dog"], "vehicle": ["bus"]}}, y != 2, np.where(y < 2, 0, 1)),
        ({"split": "train", "classes": [1, 3]}, ~test & np.isin(y, [1, 3]), y),
    ]
    for options, rows, labels in cases:
        table = analyze(path, SMOOTH, layers="b", progress=False, **options)  # type: ignore[arg-type]
        expected = metrics.get("fisher_ratio")(ClassMoments().of(np.maximum(x, 0)[rows], labels[rows]))
        row = table.select(metric="fisher_ratio", variant="").frame
        assert row["value"].item() == pytest.approx(float(expected[""]), rel=1e-9)
        assert row["n"].item() == rows.sum()
    by_split = analyze(path, SMOOTH, by_split=True, progress=False)
    assert by_split.frame["split"].unique().tolist() == ["test", "train"]
    train_only = analyze(path, SMOOTH, split="train", progress=False)
    np.testing.assert_array_equal(values(by_split.select(split="train")), values(train_only))
    assert train_only.provenance["x"]["split"] == "train"


@pytest.mark.parametrize("kind", ["threads", "workers", "dask"])
def test_every_executor_gives_the_same_table(kind: str, classes: Classes, tmp_path: Path) -> None:
    path = write_two_layers(tmp_path / "x.h5", classes)
    expected = analyze(path, progress=False, null=2)
    if kind == "threads":
        with ThreadPoolExecutor(2) as executor:
            table = analyze(path, executor=executor, progress=False, null=2)
    elif kind == "workers":
        table = analyze(path, workers=2, progress=False, null=2)
    else:
        distributed = pytest.importorskip("distributed")
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=True) as cluster,
            distributed.Client(cluster) as client,
        ):
            table = analyze(path, executor=client.get_executor(), progress=False, null=2)
    for column in ("value", "se"):
        values, reference = table.frame[column].to_numpy(), expected.frame[column].to_numpy()
        np.testing.assert_allclose(values, reference, rtol=1e-10, atol=1e-12)
    names = ["layer", "metric", "variant", "note", "n"]
    assert table.frame[names].equals(expected.frame[names])


class LastFirst(Executor):
    """Collects `count` tasks, then runs them from last to first, with a pause after each."""

    def __init__(self, count: int) -> None:
        self.count, self.tasks = count, list[tuple[Future[Any], Callable[[], Any]]]()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.tasks.append((future, partial(fn, *args, **kwargs)))
        if len(self.tasks) == self.count:
            threading.Thread(target=self._run).start()
        return future

    def _run(self) -> None:
        for future, task in reversed(self.tasks):
            future.set_result(task())
            time.sleep(0.1)


def test_rows_are_in_order_of_layers_whatever_the_order_of_completion(classes: Classes) -> None:
    x, y = classes(60, 4, 3)
    source = probes.from_arrays(dict.fromkeys("abc", x), labels=y, split=np.where(np.arange(60) % 2, "s", "t"))
    table = analyze(source, "nc2_equinorm", by_split=True, executor=LastFirst(6), progress=False)
    frame = table.select(variant="").frame
    assert list(zip(frame["layer"], frame["split"], strict=True)) == [(layer, split) for layer in "abc" for split in "st"]
    (provenance,) = table.provenance.values()
    assert list(provenance["layers"]) == list("abc")


class Deadly(Arrays):
    """Activations with a layer that kills the reading process, once for every word in a file."""

    def __init__(self, arrays: Arrays, times: Path) -> None:
        super().__init__(arrays._whole, None, {}, "deadly")
        self.times = times

    def iter(self, layers: Sequence[str] | None = None, size: int | None = None) -> Iterator[Batch]:
        remaining = self.times.read_text().split()
        if layers == ["bad"] and remaining:
            self.times.write_text(" ".join(remaining[1:]))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().iter(layers, size)


@pytest.fixture
def deadly(tmp_path: Path) -> Deadly:
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    names = ["a", "bad", "b", "c", "d"]
    arrays = probes.from_arrays({name: rng.normal(size=(60, 3)) + labels[:, None] for name in names}, labels=labels)
    assert isinstance(arrays, Arrays)
    (tmp_path / "times").write_text("")
    return Deadly(arrays, tmp_path / "times")


@pytest.mark.parametrize("kind", ["workers", "dask"])
def test_a_layer_whose_process_was_killed_is_retried_once(deadly: Deadly, kind: str) -> None:
    expected = analyze(deadly, "fisher_ratio", groups=0, progress=False)
    with ExitStack() as stack:
        options: dict[str, Any] = {"workers": 2}
        if kind == "dask":
            distributed = pytest.importorskip("distributed")
            stack.enter_context(pytest.importorskip("dask").config.set({"distributed.scheduler.allowed-failures": 1}))
            cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", processes=True)
            client = stack.enter_context(distributed.Client(stack.enter_context(cluster)))
            options = {"executor": client.get_executor()}
        deadly.times.write_text("once")
        table = analyze(deadly, "fisher_ratio", groups=0, progress=False, **options)
        assert not deadly.times.read_text()
        np.testing.assert_allclose(values(table), values(expected), rtol=1e-12)
        assert table.frame["layer"].tolist() == expected.frame["layer"].tolist()
        deadly.times.write_text("whenever " * 20)
        died = "The process that analyzed 'bad' died whenever it was tried"
        with pytest.warns(LeftOutWarning, match=f"1 of 5 layers could not be analyzed, 'bad': {died}"):
            named = analyze(deadly, "fisher_ratio", groups=0, progress=False, **options)
        rows = named.select(layer="bad").frame
        assert rows["value"].isna().all()
        assert rows["note"].str.contains(died).all()
        others = [layer for layer in deadly.layers if layer != "bad"]
        np.testing.assert_allclose(values(named.select(layer=others)), values(expected.select(layer=others)), rtol=1e-12)
        deadly.times.write_text("whenever " * 20)
        with pytest.raises(IncompleteError, match=died) as error:
            analyze(deadly, "fisher_ratio", groups=0, progress=False, strict=True, **options)
    assert error.value.exit_code == 3


class KilledWorker(Exception):
    """Named like dask's exception."""


class Sharing(Executor):
    """Executor whose first task of each listed layer fails, as if layer "bad" had killed their shared worker."""

    def __init__(self, *layers: str) -> None:
        self.left = dict.fromkeys(layers, 1)

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Future[Any]:
        layer, future = args[1], Future[Any]()
        if layer == "bad" or self.left.pop(layer, 0):
            future.set_exception(KilledWorker(layer))
        else:
            future.set_result(function(*args, **options))
        return future


def test_a_layer_that_failed_with_a_shared_worker_is_retried_alone(deadly: Deadly) -> None:
    expected = analyze(deadly, "fisher_ratio", groups=0, progress=False)
    with pytest.warns(LeftOutWarning, match="1 of 5 layers could not be analyzed, 'bad'"):
        table = analyze(deadly, "fisher_ratio", groups=0, progress=False, executor=Sharing("a", "c"))
    others = [layer for layer in deadly.layers if layer != "bad"]
    np.testing.assert_array_equal(values(table.select(layer=others)), values(expected.select(layer=others)))


def test_permuted_labels_have_separate_rows_with_the_expected_mean(tmp_path: Path) -> None:
    """E[trace] = d (K-1) / (n - K - d - 1) for Gaussian samples with random labels; rate reduction is similar."""
    rng = np.random.default_rng(0)
    n, d, k = 2000, 8, 4
    x, y = rng.normal(size=(n, d)), np.arange(n) % k
    x[:, 0] += 3.0 * y
    batch = Batch(ids=np.arange(n), layers={"x": x}, labels=y)
    sphere = x - x.mean(axis=0)
    white = sphere @ np.linalg.inv(np.linalg.cholesky(np.cov(sphere.T))).T
    path = write(tmp_path / "x.h5", [batch])
    table = analyze(path, "fisher_ratio", null=20, progress=False)
    null_rows = table.select(perturbation="label permutation", variant="trace").frame
    assert null_rows["value"].item() == pytest.approx(
        d * (k - 1) / (n - k - d - 1), abs=4 * null_rows["se"].item() / math.sqrt(20)
    )
    assert null_rows["strength"].item() == 20
    assert "0 are as high, p = 0.048" in null_rows["note"].item()
    assert len(table.select(perturbation="").frame) == len(table.frame) / 2
    unit = white / np.linalg.norm(white, axis=1, keepdims=True)
    path = write(tmp_path / "y.h5", [Batch(ids=np.arange(n), layers={"x": unit}, labels=y)])
    null = analyze(path, "rate_reduction", null=20, progress=False).select(perturbation="label permutation").frame
    assert null["value"].item() == pytest.approx(d * (d - 1) * (k - 1) / (4 * n * (1 + 0.5) ** 2), rel=0.15)


def test_standard_errors_from_groups_and_from_rows_agree(classes: Classes, tmp_path: Path) -> None:
    x, y = classes(400, 6, 4)
    path = write(tmp_path / "x.h5", [Batch(ids=np.arange(400), layers={"x": x}, labels=y)])
    grouped = analyze(path, SMOOTH, progress=False)
    from_rows = analyze(path, SMOOTH, progress=False, state_budget=4 * 36 * 8 + 4000)  # moments fit, groups of moments do not
    assert grouped.frame["se"].gt(0).all()
    assert from_rows.frame["se"].isna().all()
    assert from_rows.frame["note"].str.contains("no standard error").all()
    names = [metric.name for metric in map(metrics.get, SMOOTH.split(","))]
    from repanalysis.analyses.geometry.states import Job, LayerStates, StatisticsPlan

    job = Job(tuple(map(metrics.get, names)))
    with probes.open(path) as store:
        states = LayerStates(store.info["x"], job, StatisticsPlan((Rows(),), {}), 6)
        for batch in store.iter(["x"]):
            states.update(batch)
    rows = list(states.rows())
    np.testing.assert_allclose([row["se"] for row in rows], grouped.frame["se"], rtol=1e-7)


def test_the_recorded_head_is_compared_with_layers_that_fit(classes: Classes, tmp_path: Path) -> None:
    x, y = classes(200, 6, 4)
    head = (np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32), np.zeros(4, np.float32))
    with create(tmp_path / "x.h5", head=head) as writer:
        writer.append(Batch(np.arange(len(x)), {"wide": x, "narrow": x[:, :3]}, y))
    path = tmp_path / "x.h5"
    table = analyze(path, progress=False, groups=0, null=1).frame
    nc3 = table[table["metric"] == "nc3_duality"]
    assert nc3["layer"].tolist() == ["wide", "wide"]
    named = analyze(path, "nc3_duality", progress=False, groups=0, head=head).frame
    assert nc3["value"].iloc[0] == named["value"].iloc[0]
    assert "takes 6 features" in named[named["layer"] == "narrow"]["note"].iloc[0]
    merged_classes = analyze(path, "nc3_duality", progress=False, superclasses={"a": [0, 1], "b": [2, 3]}).frame
    assert merged_classes["value"].isna().all()
    assert "none are recorded for these classes" in merged_classes["note"].iloc[0]


def test_a_recorded_head_of_other_classes_gives_nan_with_a_reason(classes: Classes, tmp_path: Path) -> None:
    x, y = classes(100, 6, 4)
    with create(tmp_path / "x.h5", head=(np.ones((1000, 6)), np.zeros(1000))) as writer:
        writer.append(Batch(np.arange(len(x)), {"wide": x}, y))
    rows = analyze(tmp_path / "x.h5", progress=False, groups=0).select(metric=["nc3_duality", "nc4_ncc_mismatch"]).frame
    assert rows["value"].isna().all()
    assert rows["note"].str.contains("the data have 4 classes and the head 1000 rows").all()
    assert set(rows["metric"]) == {"nc3_duality", "nc4_ncc_mismatch"}


def test_a_head_argument_is_compared_with_layers_that_fit(classes: Classes, tmp_path: Path) -> None:
    path = write_two_layers(tmp_path / "x.h5", classes)
    assert "nc3_duality" not in set(analyze(path, progress=False, groups=0).frame["metric"])
    head = (np.random.default_rng(0).normal(size=(4, 6)), np.zeros(4))
    table = analyze(path, progress=False, groups=0, head=head)
    assert table.select(metric=["nc3_duality", "nc4_ncc_mismatch"]).frame["value"].notna().all()
    assert table.provenance["x"]["metrics"]["nc3_duality"]["head"] == "weights of shape (4, 6)"
    with pytest.warns(UserWarning, match="No layer has the 9 features that the head takes"):
        analyze(path, progress=False, groups=0, head=(np.zeros((4, 9)), np.zeros(4)))
    with pytest.raises(UsageError, match="The head has weights"):
        analyze(path, head=(np.zeros((4, 6)), np.zeros(3)))


def test_options_that_need_a_second_pass_are_refused_for_a_stream(classes: Classes, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Batches come only once"):
        analyze(iter([]), null=3)


def test_an_infinite_value_has_its_reason_as_note(batches: Batches) -> None:
    x, y = np.repeat(np.eye(3), 4, axis=0), np.repeat(np.arange(3), 4)
    table = analyze(batches({"x": x}, y, 5), "fisher_ratio")
    row = table.select(variant="").frame
    assert math.isinf(row["value"].item())
    assert "separate perfectly" in row["note"].item()


def test_a_head_is_not_compared_with_positions_of_earlier_feature_maps(tmp_path: Path) -> None:
    import probes
    from repanalysis import analyze

    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.Conv2d(8, 32, 8), torch.nn.Flatten(), torch.nn.Linear(32, 3)
    )
    loader = [(torch.rand(60, 1, 8, 8), torch.arange(60) % 3, torch.arange(60))]
    with probes.record(net, loader, tmp_path / "a.h5", layers=["0", "1"], pool="grid:2", progress=False) as store:
        assert (store["0"].reshape(60, -1).shape[1], store["1"].reshape(60, -1).shape[1]) == (32, 32)
        named_metric = analyze(store, metrics="nc4_ncc_mismatch", groups=0, progress=False).frame.set_index("layer")
        default = analyze(store, groups=0, progress=False).select(metric="nc4_ncc_mismatch").frame
    assert np.isnan(named_metric["value"]["0"])
    assert named_metric["note"]["0"] == "the head takes 32 features, and these 32 are positions of 8x8x8 maps"
    assert np.isfinite(named_metric["value"]["1"])
    assert default["layer"].tolist() == ["1"]

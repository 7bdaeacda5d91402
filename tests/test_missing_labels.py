"""Samples without a label or target are omitted by metrics of labels or targets, and used by all others, on every path."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import probes
from probes import Batch, DataError, UsageError
from repanalysis import analyze, metrics

NAMES = ["fisher_ratio", "within_class_variance", "rate_reduction", "knn_accuracy", "ncc_accuracy", "effective_rank",
         "coding_rate", "spectrum", "intrinsic_dimension"]  # fmt: skip
UNLABELLED = {name for name in NAMES if not metrics.get(name).by_class}
N = 240


def data(width: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels of which a third is missing, and all labels."""
    rng = np.random.default_rng(4)
    all_labels = np.arange(N) % 4
    x = rng.normal(size=(N, width)) + rng.normal(size=(4, width))[all_labels]
    lacking = rng.permutation(N)[: N // 3]
    y = all_labels.copy()
    y[lacking] = -1
    return x, y, all_labels


def values(frame: pd.DataFrame, column: str = "value") -> dict[tuple[str, str], float]:
    return {(row.metric, row.variant): getattr(row, column) for row in frame.itertuples()}


def assert_same(values: dict[tuple[str, str], float], expected: dict[tuple[str, str], float], rtol: float = 1e-10) -> None:
    assert values.keys() == expected.keys()
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, rel=rtol, abs=1e-12, nan_ok=True), key


def of(names: set[str], values: dict[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    return {key: value for key, value in values.items() if key[0] in names}


@pytest.fixture(scope="module")
def workers() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


def batched(x: np.ndarray, y: np.ndarray, ids: np.ndarray) -> list[Batch]:
    order = np.argsort(y == -1, kind="stable")  # the first batches are fully labelled
    return [Batch(ids[part], {"fc": x[part]}, y[part]) for part in np.array_split(order, 5)]


@pytest.mark.parametrize("width", [6, 100], ids=["moments", "rows"])
def test_class_metrics_use_labelled_samples_and_others_use_all(
    width: int, tmp_path: Path, workers: ProcessPoolExecutor
) -> None:
    x, y, all_labels = data(width)
    ids, labelled_mask = np.arange(N) * 7 + 3, y >= 0
    labelled = analyze(
        probes.from_arrays({"fc": x[labelled_mask]}, labels=y[labelled_mask], ids=ids[labelled_mask]), NAMES
    ).frame
    all_samples = analyze(probes.from_arrays({"fc": x}, labels=all_labels, ids=ids), NAMES).frame
    with probes.create(tmp_path / "x.h5") as writer:
        for batch in batched(x, y, ids):
            writer.append(batch)
    paths: dict[str, Callable[[], pd.DataFrame]] = {
        "arrays": lambda: analyze(probes.from_arrays({"fc": x}, labels=y, ids=ids), NAMES).frame,
        "torch's number": lambda: (
            analyze(probes.from_arrays({"fc": x}, labels=np.where(labelled_mask, y, -100), ids=ids), NAMES).frame
        ),
        "another number": lambda: (
            analyze(
                probes.from_arrays({"fc": x}, labels=np.where(labelled_mask, y, 255), ids=ids), NAMES, ignore_labels=[255]
            ).frame
        ),
        "file": lambda: analyze(tmp_path / "x.h5", NAMES).frame,
        "workers": lambda: analyze(tmp_path / "x.h5", NAMES, executor=workers).frame,
        "stream": lambda: analyze(batched(x, y, ids), NAMES).frame,
        "labels of their own": lambda: analyze(probes.from_arrays({"fc": x}, ids=ids), NAMES, labels=y).frame,
    }
    for name_of_path, path in paths.items():
        frame = path()
        for column in ("value", "se", "n"):
            rtol = 1e-6 if column == "se" else 1e-9
            measured, expected = values(frame, column), values(labelled, column) | of(UNLABELLED, values(all_samples, column))
            assert_same(measured, expected, rtol)
        notes = values(frame, "note")
        for (name, variant), note in notes.items():
            noted = f"{N // 3} of {N} samples have no label" in note
            assert noted == (name not in UNLABELLED), f"{name_of_path}: {name} {variant}: {note}"


def test_permuted_labels_stay_with_the_labelled_samples() -> None:
    x, y, _ = data()
    labelled = y >= 0
    ids = np.arange(N)
    full = analyze(probes.from_arrays({"fc": x}, labels=y, ids=ids), ["ncc_accuracy", "fisher_ratio"], null=5).frame
    labelled_only = analyze(
        probes.from_arrays({"fc": x[labelled]}, labels=y[labelled], ids=ids[labelled]), ["ncc_accuracy", "fisher_ratio"], null=5
    ).frame
    for kind in ("", "label permutation"):
        assert_same(
            values(full[full.perturbation.fillna("") == kind]),
            values(labelled_only[labelled_only.perturbation.fillna("") == kind]),
        )


def test_a_missing_label_is_not_a_class() -> None:
    x, y, _ = data()
    source = probes.from_arrays({"fc": x}, labels=y)
    with pytest.raises(UsageError, match="No sample is of class -1; there are 0, 1, 2, 3"):
        analyze(source, "fisher_ratio", classes=[-1, 0])
    frame = analyze(source, "fisher_ratio", classes=[0, 1]).frame
    assert set(frame["n"]) == {int(np.isin(y, [0, 1]).sum())}


def test_no_labels_and_a_single_class_have_one_sentence_errors() -> None:
    x, y, _ = data()
    with pytest.raises(DataError, match="have only labels that mean none .-1, -100.; needed by fisher_ratio"):
        analyze([Batch(np.arange(N), {"fc": x}, np.full(N, -100))], "fisher_ratio")
    with pytest.raises(
        DataError, match=r"All samples are of one class \(1\) \(-1 means that a sample has none\), and fisher_ratio"
    ):
        analyze([Batch(np.arange(N), {"fc": x}, np.where(y > 0, 1, -1))], "fisher_ratio")


def targets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(N, 5))
    y = np.c_[x @ rng.normal(size=5) + 0.3 * rng.normal(size=N), rng.normal(size=N)]
    y[:30] = np.nan
    return x, y


def test_targets_give_the_same_values_on_every_path(tmp_path: Path, workers: ProcessPoolExecutor) -> None:
    x, y = targets()
    ids = np.arange(N) * 3
    metric = metrics.get("ridge_r2")
    complete = ~np.isnan(y).any(axis=1)
    expected = {
        ("ridge_r2", key): value for key, value in metric(metric.needs.of(x[complete], y[complete], ids[complete])).items()
    }
    batches = [Batch(ids[part], {"fc": x[part]}, targets=y[part]) for part in np.array_split(np.arange(N), 4)]
    with probes.create(tmp_path / "x.h5") as writer:
        for batch in batches:
            writer.append(batch)
    for part in (0, 1):
        with probes.create(tmp_path / "s" / f"shard-0000{part}-of-00002.h5", attrs={"shard": part, "shards": 2}) as writer:
            for batch in batches[2 * part : 2 * part + 2]:
                writer.append(batch)
    bare = probes.from_arrays({"fc": x}, ids=ids)
    np.save(tmp_path / "y.npy", y)
    paths: dict[str, Callable[[], pd.DataFrame]] = {
        "arrays": lambda: analyze(probes.from_arrays({"fc": x}, labels=y, ids=ids), "ridge_r2").frame,
        "file": lambda: analyze(tmp_path / "x.h5", "ridge_r2").frame,
        "shards": lambda: analyze(tmp_path / "s", "ridge_r2").frame,
        "merged": lambda: analyze(probes.merge(probes.open(tmp_path / "s"), tmp_path / "m.h5"), "ridge_r2").frame,
        "workers": lambda: analyze(tmp_path / "x.h5", "ridge_r2", executor=workers).frame,
        "stream": lambda: analyze(batches, "ridge_r2").frame,
        "targets of their own": lambda: analyze(bare, "ridge_r2", targets=y).frame,
        "in a file": lambda: analyze(bare, "ridge_r2", targets=tmp_path / "y.npy").frame,
    }
    for name, path in paths.items():
        frame = path()
        assert_same(values(frame), {key: float(value) for key, value in expected.items()})
        assert_same(values(frame, "se"), {key: value.se for key, value in expected.items()}, 1e-8)
        assert set(frame["n"]) == {N - 30}, name
        assert set(frame["note"]) == {f"30 of {N} samples have no target"}, name


def test_names_of_targets_are_variants_of_metrics() -> None:
    x, y = targets()
    source = probes.from_arrays({"fc": x}, targets=pd.DataFrame(y, columns=["age", "height"]))
    assert source.target_names == ("age", "height")
    assert analyze(source, "ridge_r2").frame["variant"].tolist() == ["", "train", "age", "height"]
    assert analyze(list(source.iter()), "ridge_r2").frame["variant"].tolist() == ["", "train", "age", "height"]


def test_permuted_targets_are_not_explained() -> None:
    x, y = targets()
    frame = analyze(probes.from_arrays({"fc": x}, targets=y[:, 0]), "ridge_r2", null=19).frame
    value, null = frame[frame["variant"] == ""].itertuples()
    assert value.value > 0.8
    assert null.value < 0.1
    assert (null.p, null.tail) == (0.05, "up")


def test_class_metrics_refuse_targets_and_target_metrics_require_them() -> None:
    x, y = targets()
    continuous = probes.from_arrays({"fc": x}, labels=y[:, 0])
    sentence = "The targets of the arrays are continuous; fisher_ratio, nc1 need classes: use ridge_r2, or bin them"
    for source in (continuous, list(continuous.iter())):
        with pytest.raises(
            DataError, match=sentence if source is continuous else sentence.replace("the arrays", "the batches")
        ):
            analyze(source, ["fisher_ratio", "nc1"])
        with pytest.warns(UserWarning, match=r"are continuous: \d+ metrics that compare classes are left out"):
            frame = analyze(source).frame
        assert {"ridge_r2", "spectrum"} <= set(frame["metric"])
        assert not {name for name in frame["metric"] if metrics.get(name).min_classes}
    with pytest.raises(DataError, match="has no continuous targets, which ridge_r2 needs; give them with --targets FILE"):
        analyze(probes.from_arrays({"fc": x}, labels=np.arange(N) % 2), "ridge_r2")


def test_labels_and_targets_can_be_combined() -> None:
    x, y = targets()
    source = probes.from_arrays({"fc": x}, labels=np.arange(N) % 3, targets=y[:, 0])
    frame = analyze(source).frame
    assert {"ridge_r2", "fisher_ratio", "spectrum"} <= set(frame["metric"])
    assert all(math.isfinite(value) for value in frame[frame["metric"] == "ridge_r2"]["value"])


def test_a_changing_number_of_targets_is_refused(tmp_path: Path) -> None:
    x, y = targets()
    writer = probes.create(tmp_path / "x.h5")
    writer.append(Batch(np.arange(5), {"fc": x[:5]}, targets=y[:5]))
    with pytest.raises(DataError, match=r"has targets of shape \(1,\), and \(2,\) came before"):
        writer.append(Batch(np.arange(5, 9), {"fc": x[5:9]}, targets=y[5:9, 0]))
    writer.close(complete=True)
    np.testing.assert_array_equal(probes.open(tmp_path / "x.h5").targets, y[:5])  # type: ignore[attr-defined]


def test_labels_of_batches_are_integers() -> None:
    batch = Batch(np.arange(2), {"fc": np.eye(2)})
    object.__setattr__(batch, "labels", np.array([0.5, 1.0]))  # bypasses the type check of the tests
    with pytest.raises(DataError, match="one integer a sample is needed.*continuous ones are targets="):
        batch.__post_init__()

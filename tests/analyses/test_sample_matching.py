"""Comparisons are refused unless equal ids are the same sample: similarities of unrelated images would be meaningless."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import probes
from probes.errors import ArrivalOrderWarning, DataError
from probes.source import Source
from repanalysis.analyses.sample_matching import shared_ids

N = 40
LABELS = np.random.default_rng(0).integers(0, 4, N)
NAMES = [f"{'abcd'[label]}/{i}.png" for i, label in enumerate(LABELS)]


NAMED: dict[str, Any] = {"ids": NAMES, "ids_from": "name"}
GIVEN: dict[str, Any] = {"ids_from": "given"}
OLD: dict[str, Any] = {"ids_from": "", "dataset": "digits"}


def file(path: Path, ids: Any = None, labels: Any = LABELS, split: str = "", **attrs: Any) -> Source:
    """A recording; by default its ids are positions in `npz:x.npz`."""
    class_names = attrs.pop("class_names", None)
    ids = np.arange(N) if ids is None else np.asarray(ids)
    file_attrs = {"dataset": "npz:x.npz", "ids_from": "index"} | attrs
    with probes.create(path, attrs=file_attrs, class_names=class_names) as writer:
        splits = np.full(len(ids), split) if split else None
        writer.append(probes.Batch(ids, {"x": np.ones((len(ids), 2))}, None if labels is None else np.asarray(labels), splits))
    return probes.open(path)


def pair(tmp_path: Path, first: dict[str, Any], second: dict[str, Any]) -> tuple[Source, Source]:
    return file(tmp_path / "a.h5", **first), file(tmp_path / "b.h5", **second)


ORDER = np.random.default_rng(1).permutation(N)
SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one data set, two networks": ({}, {}),
    "without labels": ({"labels": None}, {"labels": None}),
    "labels in one alone": ({}, {"labels": None}),
    "another order": ({}, {"ids": ORDER, "labels": LABELS[ORDER]}),
    "a part": ({}, {"ids": np.arange(9), "labels": LABELS[:9]}),
    "a split of it": ({}, {"ids": np.arange(9), "labels": LABELS[:9], "split": "train"}),
    "labels that are missing": ({}, {"labels": np.where(np.arange(N) % 5, LABELS, -1)}),
    "classes in another order": (
        {"class_names": list("abcd")}, {"class_names": list("dcba"), "labels": 3 - LABELS},
    ),
    "other names of the same classes": ({"class_names": list("abcd")}, {"class_names": ["ant", "bee", "cat", "dog"]}),
    "names on another machine": (
        NAMED | {"dataset": "imagefolder:/a/x"}, NAMED | {"dataset": "imagefolder:/b/c/x"},
    ),
    "an archive of the folder": (
        NAMED | {"dataset": "imagefolder:/a/x"}, NAMED | {"dataset": "imagefolder:x.tar.gz"},
    ),
    "ids that the loader gives": (GIVEN | {"dataset": "mine"}, GIVEN | {"dataset": "yours", "split": "a"}),
    "files of an older version": (OLD, OLD),
}  # fmt: skip


@pytest.mark.parametrize("kind", SAME)
def test_same_samples_are_compared_without_a_warning(kind: str, tmp_path: Path) -> None:
    a, b = pair(tmp_path, *SAME[kind])
    for first, second in ((a, b), (b, a)):
        ids = shared_ids(first, second)
        assert ids.tolist() == sorted(set(a.ids.tolist()) & set(b.ids.tolist()))


def test_arrays_in_memory_are_compared(tmp_path: Path) -> None:
    x = {"x": np.ones((N, 2))}
    np.savez(tmp_path / "one.npz", x=x["x"])
    np.savez(tmp_path / "two.npz", x=x["x"])
    assert len(shared_ids(probes.from_arrays(x), probes.from_arrays(x))) == N
    assert len(shared_ids(probes.open(tmp_path / "one.npz"), probes.open(tmp_path / "two.npz"))) == N
    reordered = probes.from_arrays(x, ids=range(N, 0, -1))
    assert shared_ids(reordered, reordered).tolist() == list(range(1, N + 1))


OTHER = np.where(np.arange(N) == 7, (LABELS + 1) % 4, LABELS)
SORTED = np.sort(LABELS)
REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a label that contradicts": (
        {}, {"labels": OTHER},
        rf"^1 of 40 samples of equal id have another label in .*b.h5 than in .*a.h5 \(7: {LABELS[7]} and {OTHER[7]}\):",
    ),
    "named labels": (
        {"class_names": list("abcd")}, {"class_names": list("abcd"), "labels": OTHER},
        rf"\(7: '{'abcd'[LABELS[7]]}' and '{'abcd'[OTHER[7]]}'\)",
    ),
    "shuffled without ids": ({"ids_from": "arrival"}, {"ids_from": "arrival", "labels": LABELS[ORDER]}, "have another label"),
    "positions in two data sets": (
        {"labels": None}, {"labels": None, "dataset": "npz:y.npz"},
        "share 40 sample ids, but they are positions in npz:x.npz and in npz:y.npz: equal ids may be .*--same-samples",
    ),
    "labels in one alone are no evidence": ({}, {"labels": None, "dataset": "npz:y.npz"}, "positions in npz:x.npz and in"),
    "labels in the order of classes are no evidence": (
        {"labels": SORTED}, {"labels": SORTED, "dataset": "npz:y.npz"}, "positions in npz:x.npz and in npz:y.npz",
    ),
    "one class is no evidence": (
        {"labels": np.zeros(N, int)}, {"labels": np.zeros(N, int), "dataset": "npz:y.npz"}, "positions in npz:x.npz",
    ),
    "two splits": (
        {"labels": None, "split": "train"}, {"labels": None, "split": "val"}, "positions in the splits 'train' and 'val'",
    ),
    "two splits, order of arrival": (
        {"labels": None, "split": "train", "ids_from": "arrival"}, {"labels": None, "split": "val", "ids_from": "arrival"},
        "positions in the splits 'train' and 'val'",
    ),
    "two splits, older files": (
        {"labels": None, "split": "train", "ids_from": ""}, {"labels": None, "split": "val", "ids_from": ""}, "splits 'train'",
    ),
    "names in two folders": (
        NAMED | {"dataset": "imagefolder:/x/train"},
        NAMED | {"dataset": "imagefolder:/x/val"},
        "names or keys in imagefolder:/x/train and in imagefolder:/x/val",
    ),
    "keys in two archives": (
        NAMED | {"ids_from": "key", "dataset": "imagefolder:/x/train.tar"},
        NAMED | {"ids_from": "key", "dataset": "imagefolder:/x/val.tar"},
        "names or keys in",
    ),
    "names and numbers": (
        NAMED, {}, "ids of .*a.h5 are names, and those of .*b.h5 are numbers, as in",
    ),
    "nothing in common": ({}, {"ids": np.arange(N) + 37}, "share 3 sample ids; at least 4 are needed. Extract both from"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_samples_that_may_be_different_are_refused(kind: str, tmp_path: Path) -> None:
    first, second, message = REFUSED[kind]
    a, b = pair(tmp_path, first, second)
    with pytest.raises(DataError, match=message):
        shared_ids(a, b)
    if kind in ("names and numbers", "nothing in common"):
        with pytest.raises(DataError, match=message):
            shared_ids(a, b, same_samples=True)
        return
    assert len(shared_ids(a, b, same_samples=True)) == N, "same_samples overrides the check"


WARNED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "two data sets, and labels that agree": ({}, {"dataset": "npz:/b/x.npz"}, "in npz:x.npz and .* Their labels agree"),
    "two splits, and labels that agree": ({"split": "fold 1"}, {"split": "fold 2"}, "'fold 1' and 'fold 2': .* labels agree"),
    "the order of arrival": (
        {"ids_from": "arrival"}, {"ids_from": "arrival"}, "ids of .*a.h5 and .*b.h5 are the order in which samples came",
    ),
    "the order of arrival in one": ({}, {"ids_from": "arrival", "labels": None}, "sample ids of [^ ]*b.h5 are the order"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WARNED)
def test_samples_that_are_probably_the_same_are_compared_with_a_warning(kind: str, tmp_path: Path) -> None:
    first, second, message = WARNED[kind]
    a, b = pair(tmp_path, first, second)
    with pytest.warns(ArrivalOrderWarning, match=message):
        assert len(shared_ids(a, b)) == N
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(shared_ids(a, a)) == N, "a file and itself"


def test_shards_are_matched_like_the_file(tmp_path: Path) -> None:
    single = file(tmp_path / "whole.h5", ids=NAMES, ids_from="name")
    for shard, rows in enumerate((slice(0, 17), slice(17, N))):
        file(tmp_path / f"{shard}.h5", ids=NAMES[rows], labels=LABELS[rows], ids_from="name")
    shards = probes.open([tmp_path / "0.h5", tmp_path / "1.h5"])
    assert shared_ids(single, shards).tolist() == sorted(NAMES)

"""Entire runs: data sets in place of loaders, workers that each yield all samples, repeated ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, get_worker_info

import probes

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3
NET = nn.Sequential(nn.Linear(3, 4))


class Stream(IterableDataset[tuple[Tensor, int]]):
    """Single samples, optionally divided among workers."""

    def __init__(self, x: Tensor = X, *, shared: bool = False) -> None:
        self.x, self.shared = x, shared

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        info = get_worker_info() if self.shared else None
        for i in range(0 if info is None else info.id, len(self.x), 1 if info is None else info.num_workers):
            yield self.x[i], i % 3


class Plain:
    """A data set without a base class."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return X[index].numpy(), int(Y[index])


class Numbered(Dataset[Any]):
    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> Any:
        return {"input": X[index], "label": Y[index], "id": 100 + index}


def rows(source: Any, **options: Any) -> tuple[np.ndarray, list[int], list[int]]:
    captured = list(probes.capture(NET, source, **options))
    labels = np.concatenate([batch.labels for batch in captured if batch.labels is not None])
    return (
        np.concatenate([batch.layers["0"] for batch in captured]),
        labels.tolist(),
        np.concatenate([b.ids for b in captured]).tolist(),
    )


@pytest.mark.parametrize("source", [TensorDataset(X, Y), Subset(TensorDataset(X, Y), range(20)), Plain(), Stream(), Numbered()])
def test_a_data_set_is_run_in_batches_in_order(source: Any) -> None:
    values, labels, ids = rows(source, batch_size=8)
    with torch.no_grad():
        expected = torch.cat([NET(x) for x in X.split(8)])
    np.testing.assert_array_equal(values, expected.numpy())
    assert labels == Y.tolist()
    assert ids == [i + 100 * isinstance(source, Numbered) for i in range(20)]


def test_streams_of_batches_are_accepted_and_ambiguous_streams_are_refused() -> None:
    class Batches(IterableDataset[Any]):
        def __init__(self, *items: Any) -> None:
            self.items = items

        def __iter__(self) -> Iterator[Any]:
            return iter(self.items)

    assert rows(Batches((X[:5], Y[:5]), (X[5:], Y[5:])), batch_size=3)[1] == Y.tolist()
    assert [len(batch) for batch in probes.capture(NET, Batches(*((x, 1) for x in X)), batch_size=9)] == [9, 9, 2]
    for item in (X[:5], {"input": X[0]}, (X[0], None)):
        with pytest.raises(probes.UsageError, match="The Batches may give samples or batches, and nothing says which"):
            list(probes.capture(NET, Batches(item, item)))
    assert not list(probes.capture(NET, Batches()))


def test_batches_have_64_samples_by_default() -> None:
    assert [len(batch) for batch in probes.capture(NET, TensorDataset(X.repeat(5, 1)))] == [64, 36]


def test_a_list_of_batches_is_not_a_data_set() -> None:
    assert [len(batch) for batch in probes.capture(NET, [X[:5], X[5:]])] == [5, 15]


def test_a_data_set_is_recorded_and_resumed(tmp_path: Path) -> None:
    class Stopping(Plain):
        def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
            if index == 17:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    complete = probes.record(NET, Plain(), tmp_path / "whole.h5", batch_size=8)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        probes.record(NET, Stopping(), tmp_path / "x.h5", batch_size=8)  # type: ignore[arg-type]
    store = probes.record(NET, Plain(), tmp_path / "x.h5", batch_size=8, resume=True)  # type: ignore[arg-type]
    np.testing.assert_array_equal(store["0"], complete["0"])
    assert store.labels is not None
    assert store.labels.tolist() == Y.tolist()


def test_resuming_refuses_a_repeated_id(tmp_path: Path) -> None:
    def batches(*starts: int) -> Iterator[Any]:
        for start in starts:
            if start < 0:
                raise KeyboardInterrupt
            yield X[:5], Y[:5], torch.arange(start, start + 5)

    with pytest.raises(KeyboardInterrupt):
        probes.record(NET, batches(0, 5, -1), tmp_path / "x.h5")
    with pytest.raises(probes.DataError, match="Sample id 4 comes a second time in the batch from row 10 on"):
        probes.record(NET, batches(0, 5, 4), tmp_path / "x.h5", resume=True)


def test_samples_of_different_shapes_have_one_sentence_errors() -> None:
    class Ragged(Plain):
        def __getitem__(self, index: int) -> Any:
            return torch.zeros(3, 5 + index, 5), 0

    with pytest.raises(
        probes.DataError, match="samples can't be stacked .*: give it a transform that makes tensors of one size"
    ):
        list(probes.capture(NET, Ragged()))  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [20, 3])
def test_workers_that_each_yield_all_samples_are_refused(n: int) -> None:
    with pytest.raises(probes.DataError, match="Each of the 2 workers gives all samples of the Stream: .*get_worker_info"):
        list(probes.capture(NET, DataLoader(Stream(X[:n]), 4, num_workers=2)))


def test_repeated_samples_in_shuffled_order_are_detected_at_the_end() -> None:
    """Workers that shuffle yield the same samples in different batches."""

    class Shuffled(Stream):
        def __iter__(self) -> Iterator[tuple[Tensor, int]]:
            info = get_worker_info()
            order = torch.randperm(20, generator=torch.Generator().manual_seed(info.id if info else 0))
            return ((self.x[i], int(i) % 3) for i in order)

    count = 0
    with pytest.raises(probes.DataError, match="Each of the 2 workers gives all samples"):
        for batch in probes.capture(NET, DataLoader(Shuffled(), 4, num_workers=2)):
            count += len(batch)
    assert count == 40


@pytest.mark.parametrize(
    ("x", "size"),
    [
        (X, 4),
        (X, 3),
        (X[:2], 1),
        (torch.zeros(20, 3), 4),
        (torch.cat([X[:7], X[:7]]), 4),
        (X[:10].repeat_interleave(2, 0)[:19], 4),
    ],
)
def test_workers_that_divide_the_samples_are_accepted(x: Tensor, size: int) -> None:
    captured = list(probes.capture(NET, DataLoader(Stream(x, shared=True), size, num_workers=2)))
    assert sum(map(len, captured)) == len(x)


def test_a_single_worker_yields_every_sample_once() -> None:
    assert rows(DataLoader(Stream(), 4, num_workers=1))[1] == Y.tolist()


@pytest.mark.parametrize("loader", [torch.zeros(6, 3), (torch.zeros(6, 3), torch.zeros(6, dtype=torch.long)), np.zeros((6, 3))])
def test_arrays_are_not_loaders(loader: Any) -> None:
    with pytest.raises(probes.UsageError, match="An array is not a loader of batches: give"):
        next(iter(probes.capture(nn.Linear(3, 2), loader)))

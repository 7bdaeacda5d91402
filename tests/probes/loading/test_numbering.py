"""Ids from loaders: the id names the recorded sample for every sampler, worker setup and collate function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    random_split,
)

import probes
from probes.errors import ArrivalOrderWarning, DataError, UsageError

N = 20
X = torch.arange(float(N))[:, None] * 10
DATA = TensorDataset(X, torch.arange(N) % 3)
NET = nn.Sequential(nn.Identity())
SEED = torch.Generator().manual_seed(0)


def recorded(loader: Iterable[Any] | Dataset[Any], **options: Any) -> dict[Any, float]:
    """The value of each sample, by its id."""
    batches = list(probes.capture(NET, loader, **options))
    ids = [sample for batch in batches for sample in batch.ids.tolist()]
    values = [float(value) for batch in batches for value in batch.layers["0"].reshape(-1)]
    return dict(zip(ids, values, strict=True))


def origin(loader: Iterable[Any] | Dataset[Any]) -> str:
    return next(iter(probes.capture(NET, loader))).ids_from


class Halves(BatchSampler):
    """A custom batch sampler that draws from both ends."""

    def __init__(self) -> None:
        super().__init__(SequentialSampler(DATA), 4, drop_last=False)

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, N // 2, 2):
            yield [start, start + 1, N - 1 - start, N - 2 - start]


WHOLE = {i: 10.0 * i for i in range(N)}
ORDERED = {
    "in order": lambda: DataLoader(DATA, 6),
    "shuffled": lambda: DataLoader(DATA, 6, shuffle=True),
    "shuffled, workers": lambda: DataLoader(DATA, 3, shuffle=True, num_workers=2),
    "shuffled, workers that stay": lambda: DataLoader(DATA, 3, shuffle=True, num_workers=2, persistent_workers=True),
    "a generator of one's own": lambda: DataLoader(DATA, 6, shuffle=True, generator=torch.Generator().manual_seed(3)),
    "a sampler": lambda: DataLoader(DATA, 6, sampler=SubsetRandomSampler(range(N))),
    "a list as sampler": lambda: DataLoader(DATA, 6, sampler=list(range(N))[::-1]),
    "numpy's integers": lambda: DataLoader(DATA, 6, sampler=np.arange(N)[::-1]),
    "tensors": lambda: DataLoader(DATA, 6, sampler=torch.arange(N).flip(0)),
    "negative positions": lambda: DataLoader(DATA, 6, sampler=range(-N, 0)),
    "a batch sampler": lambda: DataLoader(DATA, batch_sampler=Halves()),
    "a data set": lambda: DATA,
    "several": lambda: ConcatDataset([Subset(DATA, range(7)), Subset(DATA, range(7, N))]),
}


@pytest.mark.parametrize("kind", ORDERED)
def test_an_id_is_the_position_in_the_data_set(kind: str) -> None:
    loader = ORDERED[kind]()
    assert recorded(loader) == WHOLE
    assert recorded(loader) == WHOLE, "and again, in an order of its own"
    assert origin(loader) == "index"


def test_batches_are_those_of_the_loader() -> None:
    """Two loaders with generators in the same state."""
    loaders = [DataLoader(DATA, 6, shuffle=True, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    plain = [x for x, _ in loaders[0]]
    captured = [batch.layers["0"] for batch in probes.capture(NET, loaders[1])]
    assert all(np.array_equal(a, b) for a, b in zip(plain, captured, strict=True))
    loader = DataLoader(DATA, 6, num_workers=1, persistent_workers=True)
    iterator = iter(loader)
    assert recorded(loader) == WHOLE
    assert sum(len(x) for x, _ in iterator) == N, "an iteration that was under way is left alone"


def test_a_subset_keeps_the_ids_of_its_base() -> None:
    inner = Subset(DATA, range(5, 15))
    outer = Subset(inner, torch.tensor([9, 0, 4]))
    assert recorded(outer) == {14: 140.0, 5: 50.0, 9: 90.0}
    assert recorded(DataLoader(outer, 2, shuffle=True)) == {14: 140.0, 5: 50.0, 9: 90.0}
    first, second = random_split(DATA, [8, 12], generator=SEED)
    parts = [recorded(DataLoader(part, 5, shuffle=True)) for part in (first, second)]
    assert parts[0] | parts[1] == WHOLE
    assert len(parts[0]) + len(parts[1]) == N


def test_ids_in_distributed_processes_are_positions_in_the_data_set() -> None:
    samplers = [DistributedSampler(DATA, 4, rank, shuffle=True, seed=1) for rank in range(4)]
    parts = [recorded(DataLoader(DATA, 2, sampler=sampler)) for sampler in samplers]
    assert sum(map(len, parts)) == N
    assert {key: value for part in parts for key, value in part.items()} == WHOLE


def test_a_distributed_sampler_that_repeats_samples_is_refused_early() -> None:
    class Failing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError

    sampler = DistributedSampler(DATA, 3, 0)
    with pytest.raises(
        UsageError, match=r"repeats 1 of the 20 samples, so that 3 .*Subset\(data, range\(rank, len\(data\), 3\)"
    ):
        next(probes.capture(Failing(), DataLoader(DATA, 2, sampler=sampler)))
    sampler = DistributedSampler(DATA, 3, 0, drop_last=True)
    assert len(recorded(DataLoader(DATA, 2, sampler=sampler))) == 6
    parts = [recorded(Subset(DATA, range(rank, N, 3))) for rank in range(3)]
    assert {key: value for part in parts for key, value in part.items()} == WHOLE


def test_a_repeated_sample_is_refused() -> None:
    sampler = RandomSampler(DATA, replacement=True, num_samples=40, generator=torch.Generator().manual_seed(0))
    with pytest.raises(DataError, match="comes a second time .*Does the sampler draw with replacement"):
        recorded(DataLoader(DATA, 1, sampler=sampler))
    with pytest.raises(DataError, match="stands twice|comes a second time"):
        recorded(DataLoader(DATA, 40, sampler=sampler))


class Batches(Dataset[Any]):
    """A data set whose items are batches."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return DATA[5 * index : 5 * index + 5]


class Rows(Dataset[Any]):
    """A data set whose items are batches of one sample."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return DATA[index : index + 1]


@pytest.mark.parametrize("shuffle", [False, True])
def test_samples_in_items_that_are_batches_are_numbered(shuffle: bool) -> None:
    batches = recorded(DataLoader(Batches(), batch_size=None, shuffle=shuffle))
    assert batches == {f"{i // 5}/{i % 5}": 10.0 * i for i in range(N)}
    assert recorded(DataLoader(Rows(), batch_size=None, shuffle=shuffle)) == WHOLE


def test_keys_of_a_data_set_are_ids() -> None:
    class Keyed(Dataset[Any]):
        def __getitem__(self, key: str) -> Any:
            return X[int(key)], 0

    loader = DataLoader(Keyed(), 3, sampler=["7", "1", "12", "3"])
    assert recorded(loader) == {"7": 70.0, "1": 10.0, "12": 120.0, "3": 30.0}
    assert origin(loader) == "key"


def test_ids_in_the_samples_have_precedence() -> None:
    named = [(X[i], i % 3, f"class/{i}.png") for i in range(N)]
    loader = DataLoader(named, 6, shuffle=True)  # type: ignore[arg-type]  # a list is a data set
    assert recorded(loader) == {f"class/{i}.png": 10.0 * i for i in range(N)}
    assert origin(loader) == "given"

    class Archive(Dataset[Any]):
        def __len__(self) -> int:
            return N

        def __getitem__(self, index: int) -> Any:
            return {"input": X[index], "cls": 1, "__key__": f"{index:06}"}

    loader = DataLoader(Archive(), 6, shuffle=True)
    with pytest.warns(probes.errors.IgnoredWarning, match="does not take cls"):
        assert recorded(loader) == {f"{i:06}": 10.0 * i for i in range(N)}


def test_the_ids_attribute_of_a_data_set_is_used_next() -> None:
    class Known(TensorDataset):
        sample_ids = np.array([f"{i}.png" for i in range(N)])
        ids_from = "name"

    loader = DataLoader(Subset(Known(*DATA.tensors), [3, 1]), 2, shuffle=True)
    assert recorded(loader) == {"3.png": 30.0, "1.png": 10.0}
    assert origin(loader) == "name"


def stacked_by_size(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    samples.sort(key=lambda sample: -float(sample[0]))
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])


def dropping(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    samples = [sample for sample in samples if float(sample[0]) != 120]
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])


def plain(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_custom_collate_function_that_reorders_samples_warns(workers: int) -> None:
    assert recorded(DataLoader(DATA, 6, shuffle=True, collate_fn=plain, num_workers=workers)) == WHOLE
    with pytest.warns(ArrivalOrderWarning, match="its collate_fn changes the order of samples, or draws at random"):
        values = recorded(DataLoader(DATA, 6, collate_fn=stacked_by_size, num_workers=workers))
    assert list(values) == list(range(N)), "numbered in order of arrival"


def test_a_collate_function_that_drops_samples_is_refused() -> None:
    """The dropped sample is unknown, and the following samples would get ids of others."""
    with pytest.raises(DataError, match="not known which samples .* row 12 on holds: its collate_fn changes the order"):
        recorded(DataLoader(DATA, 6, collate_fn=dropping))
    with pytest.raises(DataError, match="not known which samples .* row 12 on holds: its sampler drew 6 samples"):
        recorded(DataLoader(DATA, 6, collate_fn=Known(dropping)))


class Known:
    """A collate function declared to keep the order of samples."""

    keeps_order = True

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, samples: Any) -> Any:
        return self.collate(samples)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(x, 0) for x in X])


class Own(DataLoader[Any]):
    def __iter__(self) -> Any:
        return reversed(list(super().__iter__()))


class Repeating(DataLoader[Any]):
    """As in timm: an iterator that is created once."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.iterator = super().__iter__()

    def __iter__(self) -> Any:
        yield from self.iterator


class Anything:
    def __iter__(self) -> Iterator[Any]:
        return iter(DataLoader(DATA, 6))


@pytest.mark.parametrize(
    ("loader", "why"),
    [
        (Stream, "the generator does not state which samples it yields"),
        (lambda: DataLoader(Stream(), 6), "the Stream does not state which samples it yields"),
        (lambda: iter(DataLoader(DATA, 6)), "the _SingleProcessDataLoaderIter does not state which samples it yields"),
        (lambda: (x for x in DataLoader(DATA, 6)), "the generator does not state which samples it yields"),
        (Anything, "the Anything does not state which samples it yields"),
        (lambda: Own(DATA, 6), "the Own has its own __iter__"),
        (lambda: Repeating(DATA, 6), "the Repeating has its own __iter__"),
        (lambda: DataLoader(DATA, 6, num_workers=1, in_order=False), r"its batches come in any order \(in_order=False\)"),
    ],
)
def test_loaders_without_known_positions_warn(loader: Any, why: str) -> None:
    with pytest.warns(ArrivalOrderWarning, match=f"The loader gives no ids, and {why}.*numbered in the order of arrival"):
        assert list(recorded(loader())) == list(range(N))
    with pytest.warns(ArrivalOrderWarning):
        assert origin(loader()) == "arrival"


def test_a_list_of_batches_has_an_order() -> None:
    assert recorded([(X[:7], None), (X[7:], None)]) == WHOLE
    assert origin([X]) == "index"


def test_positions_other_than_numbers_and_keys_are_refused() -> None:
    class Grid(Dataset[Any]):
        def __getitem__(self, position: tuple[int, int]) -> Any:
            return X[position[0] * 5 + position[1]]

    places = [(i, j) for i in range(4) for j in range(5)]
    with pytest.warns(ArrivalOrderWarning, match="its sampler gives no numbers or keys"):
        assert list(recorded(DataLoader(Grid(), 6, sampler=places))) == list(range(N))


def test_samples_of_a_distributed_sampler_need_a_position_or_an_id() -> None:
    sampler = DistributedSampler(DATA, 2, 1, shuffle=False)
    with pytest.raises(DataError, match="samples of a DistributedSampler can't be told apart"):
        recorded(DataLoader(DATA, 4, sampler=sampler, collate_fn=stacked_by_size))
    numbered = TensorDataset(X, torch.zeros(N, dtype=torch.long), torch.arange(N) + 100)
    assert list(recorded(DataLoader(numbered, 4, sampler=sampler))) == [100 + i for i in range(1, N, 2)]


def test_mixed_kinds_of_ids_are_refused() -> None:
    with pytest.raises(DataError, match="ids are integers and texts, by turns, at sample 2"):
        recorded([(X[:2], None, [1, 2]), (X[2:4], None, ["a", "b"])])


def test_shuffled_recordings_are_matched_by_id(tmp_path: Path) -> None:
    """Regression: with ids in order of arrival, two recordings of one network had a diagonal CKA of 0.001."""
    from repanalysis.analyses.similarity import compare

    rng = torch.Generator().manual_seed(4)
    data = TensorDataset(torch.randn(300, 5, generator=rng), torch.arange(300) % 3)
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh())
    for seed in (1, 2):
        loader = DataLoader(data, 64, shuffle=True, generator=torch.Generator().manual_seed(seed))
        probes.record(net, loader, tmp_path / f"{seed}.h5")
    with probes.open(tmp_path / "1.h5") as store:
        assert store.attrs["ids_from"] == "index"
        assert store.ids.tolist() != list(range(300))
    values = compare(tmp_path / "1.h5", tmp_path / "2.h5", "cka", groups=0).matrix().to_numpy()
    np.testing.assert_allclose(np.diag(values), 1, atol=1e-6)

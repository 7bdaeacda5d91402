"""record: the contents of the file, its state after a failure, and resuming."""

from __future__ import annotations

import errno
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import probes
from tests.probes.capturing.test_steps import loader, net


def test_record_returns_the_file_for_reading(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "deep" / "acts.h5"
    store = probes.record(model, loader(), path, pool="max", split="val", class_names=["a", "b", "c"], attrs={"run": 3})
    assert len(store) == 20
    assert store.layers == ["0", "1", "2", "3"]
    assert store.attrs["model"] == "Sequential"
    assert store.attrs["run"] == 3
    assert store.class_names == ["a", "b", "c"]
    captured = np.concatenate([batch.layers["1"] for batch in probes.capture(model, loader(), pool="max")])
    np.testing.assert_array_equal(store["1"], captured)


def test_the_head_is_written_to_the_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3, bias=False), nn.Softmax(dim=1))
    store = probes.record(model, loader(), tmp_path / "a.h5")
    weight, bias = store.head or pytest.fail("there is no head")
    np.testing.assert_array_equal(weight, model[3].weight.detach().numpy())
    np.testing.assert_array_equal(bias, np.zeros(3, np.float32))
    merged = probes.merge(probes.open([store.path]), tmp_path / "b.h5").head or pytest.fail("it was lost")
    np.testing.assert_array_equal(merged[0], weight)
    assert probes.record(model[:3].append(nn.BatchNorm1d(5)), loader(), tmp_path / "c.h5").head is None


def test_an_existing_file_is_refused_before_the_model_runs(tmp_path: Path) -> None:
    path = tmp_path / "acts.h5"
    path.write_text("precious")
    with pytest.raises(probes.UsageError, match="exists already; nothing was written"):
        probes.record(net(), (pytest.fail("the model ran") for _ in range(1)), path)
    assert path.read_text() == "precious"


def test_overwriting_starts_after_the_first_step(tmp_path: Path) -> None:
    path = tmp_path / "acts.h5"
    path.write_text("precious")
    with pytest.raises(RuntimeError):
        probes.record(net(), [torch.zeros(2, 5, 8, 8)], path, overwrite=True)
    assert path.read_text() == "precious"
    assert len(probes.record(net(), loader(), path, overwrite=True)) == 20


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_rows_recorded_before_a_failure_can_be_read(tmp_path: Path, error: type[BaseException]) -> None:
    model, path = net(), tmp_path / "acts.h5"

    def steps() -> object:
        yield torch.ones(4, 1, 8, 8)
        yield torch.ones(4, 1, 8, 8)
        raise error("stop")

    with pytest.raises(error) as caught:
        probes.record(model, steps(), path)  # type: ignore[arg-type]  # an iterator is an iterable
    (note,) = caught.value.__notes__
    assert note.startswith(f"8 samples are whole in {path}; go on with resume=True (--resume), or read them with probes.open(")
    with pytest.raises(probes.IncompleteError, match="its writing stopped after 8 samples"):
        probes.open(path)
    store = probes.open(path, partial=True)
    assert len(store) == 8
    assert len(store["3"]) == 8


def test_a_layer_of_varying_shape_is_removed_with_the_reason(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1))
    steps = [torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 9, 9), torch.zeros(2, 1, 8, 8)]
    with pytest.warns(probes.LeftOutWarning, match=r"its shape is \(3, 7, 7\) from sample 2 on, and was \(3, 6, 6\) before"):
        store = probes.record(model, steps, tmp_path / "acts.h5", pool="none")
    assert store.layers == ["1"]
    assert store["1"].shape == (6, 3, 1, 1)
    assert "pool it (mean, max)" in store.skipped["0"]
    with pytest.raises(probes.DataError, match="No layer of Sequential can be recorded"):
        probes.record(nn.Sequential(nn.Conv2d(1, 3, 3)), steps, tmp_path / "none.h5", pool="none")


def test_an_empty_loader_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(probes.DataError, match="The loader gave no batch"):
        probes.record(net(), [], tmp_path / "acts.h5")
    assert not list(tmp_path.iterdir())


def test_logs_have_no_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    probes.record(net(), loader(), tmp_path / "a.h5")
    assert log.getvalue() == ""
    probes.record(net(), loader(), tmp_path / "b.h5", progress=True)
    assert "20/20" in log.getvalue()


class Counting(TensorDataset):
    """Counts loaded samples."""

    loaded = 0

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        self.loaded += 1
        return super().__getitem__(index)


def stopping(batches: Iterable[object], after: int) -> Iterator[object]:
    """Batches until an interrupt."""
    for index, batch in enumerate(batches):
        if index == after:
            raise KeyboardInterrupt
        yield batch


def data(n: int = 40) -> Counting:
    return Counting(torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(n) % 3)


@pytest.mark.parametrize("after", [1, 3, 4])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_stopped_run_is_resumed_where_it_stopped(tmp_path: Path, after: int, workers: int) -> None:
    model, samples, path = net(), data(), tmp_path / "x.h5"
    complete = probes.record(model, DataLoader(samples, 8), tmp_path / "whole.h5", pool="none")
    with pytest.raises(KeyboardInterrupt):
        probes.record(model, stopping(DataLoader(samples, 8), after), path, pool="none")
    samples.loaded = 0
    store = probes.record(model, DataLoader(samples, 8, num_workers=workers), path, pool="none", resume=True)
    assert samples.loaded == (0 if workers else 40 - 8 * after), "what is in the file is not even loaded"
    assert store.complete
    assert store.info == complete.info
    for name in complete.layers:
        np.testing.assert_array_equal(store[name], complete[name])
    np.testing.assert_array_equal(store.ids, complete.ids)
    np.testing.assert_array_equal(store.labels, complete.labels)
    assert probes.record(model, DataLoader(samples, 8), path, pool="none", resume=True).complete, "nothing to do"


def test_resuming_without_a_file_starts_a_new_one(tmp_path: Path) -> None:
    assert len(probes.record(net(), loader(), tmp_path / "x.h5", resume=True)) == 20


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pool": "max"}, "pool: 'mean' in the file, 'max' now"),
        ({"layers": ["type:Linear"]}, "layers: 'leaf calls' in the file"),
        ({"dtype": "float16"}, "dtype: 'auto' in the file, 'float16' now"),
        ({"precision": "bfloat16"}, "precision: 'float32' in the file, 'bfloat16' now"),
        ({"attrs": {"dataset": "other"}}, "dataset: nothing in the file, 'other' now"),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_resuming_a_different_run_is_refused_with_the_difference(
    tmp_path: Path, changes: dict[str, object], sentence: str, complete: bool
) -> None:
    model, path = net(), tmp_path / "x.h5"
    if complete:
        probes.record(model, loader(), path)
    else:
        with pytest.raises(KeyboardInterrupt):
            probes.record(model, stopping(loader(), 1), path)
    before = path.read_bytes()
    with pytest.raises(probes.UsageError, match=re.escape(sentence)):
        probes.record(model, loader(), path, resume=True, **changes)  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_resuming_with_another_function_or_split_is_refused(tmp_path: Path) -> None:
    """Regression: neither was in the file, so resuming with another one mixed two runs in one file without an error."""
    model, path = net(), tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt):
        probes.record(model, stopping(loader(), 1), path, forward=lambda x: model(x) + 1, split="val")
    before = path.read_bytes()
    for change, sentence in (
        ({"forward": None}, "forward: 'tests.probes.test_recording."),
        ({"forward": lambda x: model(x) + 2}, "forward: 'tests.probes.test_recording."),
        ({"split": "test"}, "split: 'val' in the file, 'test' now"),
        ({"split": None}, "split: 'val' in the file, '' now"),
        ({"class_names": ["a", "b", "c"]}, "the classes: none in the file, a, b, c now"),
    ):
        options = {"forward": lambda x: model(x) + 1, "split": "val"} | change
        with pytest.raises(probes.UsageError, match=re.escape(sentence)):
            probes.record(model, loader(), path, resume=True, **options)  # type: ignore[arg-type]
    assert path.read_bytes() == before
    store = probes.record(model, loader(), path, resume=True, forward=lambda x: model(x) + 1, split="val")
    assert len(store) == 20


def test_resuming_with_another_batch_size_is_refused(tmp_path: Path) -> None:
    """Rows of the same samples in other batches differ by rounding from those of an uninterrupted run."""
    model, path, samples = net(), tmp_path / "x.h5", data()

    class Stopping(DataLoader):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[object]:  # type: ignore[override]
            return stopping(super().__iter__(), 1)

    with pytest.raises(KeyboardInterrupt):
        probes.record(model, Stopping(samples, 8), path)
    for changes in ({"loader": DataLoader(samples, 4)}, {"loader": samples, "batch_size": 4}):
        with pytest.raises(probes.UsageError, match="batch_size: 8 in the file, 4 now"):
            probes.record(model, path=path, resume=True, **changes)  # type: ignore[arg-type]
    assert len(probes.record(model, samples, path, batch_size=8, resume=True)) == 40


def test_attributes_that_contradict_the_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(probes.UsageError, match="attrs say seed = 3, and the run has seed = 0"):
        probes.record(net(), loader(), tmp_path / "x.h5", attrs={"seed": 3})
    assert not list(tmp_path.iterdir())


def test_resuming_with_other_labels_is_refused(tmp_path: Path) -> None:
    """Without ids only labels show that a loader yields its samples in another order."""
    model, path = net(), tmp_path / "x.h5"
    batches = [(x, y) for x, y in loader()]
    with pytest.raises(KeyboardInterrupt):
        probes.record(model, stopping(batches, 2), path)
    with pytest.raises(probes.DataError, match="The loader gives other samples than those in"):
        probes.record(model, [(x, (y + 1) % 3) for x, y in batches], path, resume=True)


def test_a_complete_file_is_kept_until_its_replacement_is_complete(tmp_path: Path) -> None:
    model, path, part = net(), tmp_path / "x.h5", tmp_path / "x.h5.part"
    probes.record(model, loader(), path)
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt) as caught:
        probes.record(model, stopping(loader(), 2), path, pool="max", overwrite=True)
    (note,) = caught.value.__notes__
    assert note.startswith(f"16 samples are whole in {part}; go on with resume=True")
    assert note.endswith(f"{path} is as it was")
    assert path.read_bytes() == before
    assert len(probes.open(part, partial=True)) == 16
    with pytest.raises(probes.UsageError, match=r"Its replacement x.h5.part is incomplete: --resume continues"):
        probes.record(model, loader(), path, pool="max")
    assert probes.record(model, loader(), path, resume=True).info["0"].pool == "mean", "the old file is this run's"
    with pytest.raises(probes.UsageError, match=r"x.h5.part was written by another run.*pool: 'max' in the file, 'cls' now"):
        probes.record(model, loader(), path, pool="cls", resume=True)
    assert path.read_bytes() == before
    store = probes.record(model, loader(), path, pool="max", resume=True)
    assert (len(store), store.info["0"].pool, store.path) == (20, "max", path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.h5"]


def test_an_interrupted_replacement_is_completed_on_resuming(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise OSError("killed")

    model, path = net(), tmp_path / "x.h5"
    probes.record(model, loader(), path)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="killed"):
        patched.setattr("probes.storage.writer.install", killed)
        probes.record(model, loader(), path, pool="max", overwrite=True)
    assert probes.open(path).attrs["pool"] == "mean"
    assert probes.record(model, loader(), path, pool="max", resume=True).attrs["pool"] == "max"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.h5"]


def test_a_link_is_kept(tmp_path: Path) -> None:
    model, real, link = net(), tmp_path / "deep" / "real.h5", tmp_path / "x.h5"
    real.parent.mkdir()
    probes.record(model, loader(), real)
    link.symlink_to(real)
    probes.record(model, loader(), link, pool="max", overwrite=True)
    assert link.is_symlink()
    assert probes.open(real).attrs["pool"] == "max"
    real.unlink()
    with pytest.raises(KeyboardInterrupt):
        probes.record(model, stopping(loader(), 1), link)
    assert len(probes.open(real, partial=True)) == len(probes.open(link, partial=True)) == 8


def test_special_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for target in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(probes.UsageError, match="is a (pipe|device); name a plain file"):
            probes.record(net(), loader(), target, overwrite=True)
        with pytest.raises(probes.UsageError, match="is a (pipe|device); name a plain file"):
            probes.record(net(), loader(), target, resume=True)
    with pytest.raises(probes.UsageError, match="is a folder"):
        probes.record(net(), loader(), tmp_path, overwrite=True)
    assert Path("/dev/null").is_char_device()


def test_resuming_with_other_weights_is_refused(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt):
        probes.record(model, stopping(loader(), 1), path)
    with torch.no_grad():
        model[0].weight += 1
    with pytest.raises(probes.UsageError, match="weights_sha256: '"):
        probes.record(model, loader(), path, resume=True)


def test_resuming_with_a_loader_in_another_order_is_refused(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "x.h5"
    batches = [(x, y, torch.arange(8 * step, 8 * step + len(x))) for step, (x, y) in enumerate(loader())]
    with pytest.raises(KeyboardInterrupt):
        probes.record(model, stopping(batches, 2), path)
    for changed in (batches[::-1], loader(size=5)):
        with pytest.raises(probes.DataError, match="The loader gives other samples than those in"):
            probes.record(model, changed, path, resume=True)
    assert len(probes.record(model, batches, path, resume=True)) == 20


def test_the_facts_of_a_run_are_in_the_file(tmp_path: Path) -> None:
    model = net()
    store = probes.record(
        model, loader(), tmp_path / "x.h5", pool=["0=project:7", "mean"], seed=5, layers=["?"], channels_last=True
    )
    assert store.attrs["pool"] == "0=project:7,seed=5; mean"
    assert store.attrs["layers"] == '["?"]'
    assert (store.attrs["channels_last"], store.attrs["precision"], store.attrs["device"]) == (1, "float32", "cpu")
    assert len(store.attrs["weights_sha256"]) == 64
    assert store.info["0"].pool == "project:7,seed=5"


def test_overflows_are_reported(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(1, 2, bias=False), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.fill_(1e5)
    with pytest.warns(
        probes.NonFiniteWarning, match=r"NaN or infinite values were recorded \(0: 6\): .* too large for the type"
    ):
        store = probes.record(model, [torch.ones(3, 1)], tmp_path / "x.h5", dtype="float16", layers="0")
    assert store.non_finite == {"0": 6}
    assert store["0"].dtype == np.float16


def test_a_full_disk_is_reported_with_the_number_of_committed_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probes.storage.writer._COMMIT_SECONDS", (0.0, 0.0))
    model, path, pwrite, writes_left = net(), tmp_path / "x.h5", os.pwrite, [40]

    def full(*arguments: object) -> int:
        writes_left[0] -= 1
        if writes_left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left on device") as caught:
            probes.record(model, DataLoader(data(400), 4), path)
    n = len(probes.open(path, partial=True))
    assert f"{n} samples are whole in {path}" in caught.value.__notes__[0]
    assert len(probes.record(model, DataLoader(data(400), 4), path, resume=True)) == 400


def test_new_samples_after_a_complete_file_are_reported(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "x.h5"
    probes.record(model, DataLoader(data(20), 8), path)
    assert len(probes.record(model, DataLoader(data(20), 8), path, resume=True)) == 20
    with pytest.raises(
        probes.IncompleteError, match=r"is complete, but 3 of the 23 samples that there are now .* \(20 first\)"
    ):
        probes.record(model, DataLoader(data(23), 8), path, resume=True)
    assert len(probes.record(model, Subset(data(40), range(5)), path, batch_size=8, resume=True)) == 20, "it has all of these"


def test_a_shuffled_run_is_resumed_only_in_the_same_order(tmp_path: Path) -> None:
    model, samples = net(), data()

    def shuffled(seed: int) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(samples, 8, shuffle=True, generator=torch.Generator().manual_seed(seed))

    class Stopping(Counting):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            if self.loaded == 20:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    complete = probes.record(model, shuffled(1), tmp_path / "whole.h5")
    assert complete.ids.tolist() != sorted(complete.ids.tolist()) == list(range(40))
    path = tmp_path / "x.h5"
    stopped = DataLoader(Stopping(*samples.tensors), 8, shuffle=True, generator=torch.Generator().manual_seed(1))
    with pytest.raises(KeyboardInterrupt):
        probes.record(model, stopped, path)
    assert probes.open(path, partial=True).ids.tolist() == complete.ids.tolist()[:16]
    with pytest.raises(probes.DataError, match="The loader gives other samples than those in"):
        probes.record(model, shuffled(2), path, resume=True)
    with pytest.raises(probes.DataError, match="The loader gives other samples than those in"):
        probes.record(model, DataLoader(samples, 8), path, resume=True)
    store = probes.record(model, shuffled(1), path, resume=True)
    assert store.ids.tolist() == complete.ids.tolist()
    for name in complete.layers:
        np.testing.assert_array_equal(store[name], complete[name])


@pytest.mark.parametrize("n", [0, 9, 16])
def test_a_loader_with_fewer_samples_than_the_file_is_refused(tmp_path: Path, n: int) -> None:
    model, path = net(), tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt):
        probes.record(model, stopping(DataLoader(data(), 8), 3), path)
    loaders: list[Any] = [DataLoader(data(n), 8), list(DataLoader(data(n), 8))]
    for fewer in loaders:
        with pytest.raises(probes.DataError, match="The loader gives other samples than those in"):
            probes.record(model, fewer, path, resume=True)
    assert not probes.open(path, partial=True).complete


def test_the_origin_of_ids_is_recorded(tmp_path: Path) -> None:
    model, batches = net(), list(loader())
    with pytest.warns(probes.errors.ArrivalOrderWarning):
        arrived = probes.record(model, iter(batches), tmp_path / "arrival.h5")
    with_ids = probes.record(
        model, [(x, y, [f"{row}.png" for row in range(len(x))]) for x, y in batches[:1]], tmp_path / "g.h5"
    )
    assert [store.attrs["ids_from"] for store in (arrived, with_ids)] == ["arrival", "given"]
    assert probes.record(model, loader(), tmp_path / "index.h5").attrs["ids_from"] == "index"
    assert next(with_ids.iter()).ids_from == "given"


def test_a_file_with_integer_ids_is_not_resumed_with_names(tmp_path: Path) -> None:
    """Such as a file that an older version started over a folder of images."""
    model, path = net(), tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt):
        probes.record(model, stopping(loader(), 1), path)

    class Named(TensorDataset):
        sample_ids = np.array([f"{row}.png" for row in range(20)])
        ids_from = "name"

    named = DataLoader(Named(*loader().dataset.tensors), 8)  # type: ignore[attr-defined]
    with pytest.raises(probes.DataError, match="have numbers, as in older files, those of the loader names"):
        probes.record(model, named, path, resume=True)
    assert probes.open(path, partial=True).ids.tolist() == list(range(8))


@pytest.mark.parametrize("data_set", [True, False])
def test_limited_batches_give_the_same_file_after_an_interruption(tmp_path: Path, data_set: bool) -> None:
    """The file is the same, written at once or in two runs, and complete."""
    net, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(50, 4)
    data = TensorDataset(x, torch.arange(50) % 3)
    batches: Any = data if data_set else DataLoader(data, batch_size=8)
    options: Any = {"max_batches": 4} | ({"batch_size": 8} if data_set else {})
    complete = probes.record(net, batches, tmp_path / "a.h5", **options)
    assert complete.ids.tolist() == list(range(32))
    assert complete.complete

    class Stop(Exception):
        """Raised in the third batch."""

    def stopping(module: nn.Module, args: Any) -> None:
        count[0] += 1
        if count[0] > 5:  # three passes measure axes
            raise Stop

    count = [0]
    handle = net.register_forward_pre_hook(stopping)
    with pytest.raises(Stop):
        probes.record(net, batches, tmp_path / "b.h5", **options)
    handle.remove()
    with probes.Store(tmp_path / "b.h5", partial=True) as part:
        assert 0 < len(part) < 32
    resumed = probes.record(net, batches, tmp_path / "b.h5", resume=True, **options)
    np.testing.assert_array_equal(resumed["0"], complete["0"])
    assert resumed.ids.tolist() == complete.ids.tolist()
    assert probes.record(net, batches, tmp_path / "b.h5", resume=True, **options).complete
    with pytest.raises(probes.UsageError, match="max_batches"):
        probes.record(net, batches, tmp_path / "b.h5", resume=True, **options | {"max_batches": 5})


def test_max_batches_counts_batches_of_unequal_size(tmp_path: Path) -> None:
    net, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(40, 4)
    parts = [x[:8], x[8:20], x[20:]]  # no batch size
    store = probes.record(net, parts, tmp_path / "a.h5", max_batches=2)
    assert len(store) == 20
    assert len(list(probes.capture(net, parts, max_batches=1))) == 1
    with pytest.raises(probes.UsageError, match="max_batches is -1"):
        probes.capture(net, parts, max_batches=-1)

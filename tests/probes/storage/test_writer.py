"""Writing by batches, resuming after a stop, and failing disks. Tests of reading are in test_store.py."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

import probes
import probes.storage.writer
from probes import Batch, DataError, LayerInfo
from probes.errors import UsageError
from probes.storage.columns import Column
from probes.storage.format import RESERVED_ATTRS
from probes.storage.store import Store
from probes.storage.writer import create, provenance_diff, resume

RNG = np.random.default_rng(0)
X, WIDE = RNG.normal(size=(60, 3)).astype("f4"), RNG.normal(size=(60, 2, 50)).astype("f8")

MAX = {
    "x": LayerInfo("x", 0, 0.5, ("sample", "channel"), "max"),
    "wide": LayerInfo("wide", 1, 1.0, ("sample", "channel", "axis2")),
}


def batch(start: int, stop: int, **changes: object) -> Batch:
    arguments: dict[str, object] = {
        "ids": np.arange(start, stop),
        "layers": {"x": X[start:stop], "wide": WIDE[start:stop]},
        "labels": np.arange(start, stop) % 3,
        "split": np.full(stop - start, "träin"),
    }
    return Batch(**(arguments | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("stops", [(10,), (7, 20, 21, 55), (0, 60)])
def test_a_file_written_in_pieces_equals_a_file_written_at_once(
    tmp_path: Path, compression: str, stops: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probes.storage.writer._CHUNK_BYTES", (500, 2000))
    single, pieces = tmp_path / "whole.h5", tmp_path / "pieces.h5"
    with create(single, compression=compression, expected=60) as writer:
        for start in range(0, 60, 5):
            writer.append(batch(start, start + 5))
    writer = create(pieces, compression=compression, expected=60)
    start = 0
    for stop in (*stops, 60):
        while start < stop:
            size = min(5, stop - start)
            writer.append(batch(start, start + size))
            start += size
        writer.close(complete=False)
        writer = resume(pieces, expected=60)
        assert writer.n_committed == start
    writer.close(complete=True)
    a, b = Store(single), Store(pieces)
    assert a.info == b.info
    for name in a.layers:
        np.testing.assert_array_equal(a[name], b[name])
    np.testing.assert_array_equal(a.ids, b.ids)
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.split, b.split)
    with h5py.File(single) as whole_file, h5py.File(pieces) as pieces_file:
        assert whole_file["layers/x/x"].chunks == pieces_file["layers/x/x"].chunks
        assert set(pieces_file.attrs) - set(whole_file.attrs) == {"resumed"}


def test_uncommitted_rows_are_not_in_the_file(tmp_path: Path) -> None:
    writer = create(tmp_path / "x.h5")
    writer.append(batch(0, 10))
    writer.commit()
    writer.append(batch(10, 20))
    writer._abort()  # like a kill
    assert len(Store(tmp_path / "x.h5", partial=True)) == 10
    with resume(tmp_path / "x.h5") as writer:
        writer.append(batch(10, 60))
    np.testing.assert_array_equal(Store(tmp_path / "x.h5")["x"], X)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"info": MAX}, "pool of layer 'x': 'none' in the file, 'max' now"),
        ({"layers": {"x": X[10:20]}}, "layer 'wide': is in the file, not now"),
        ({"layers": {"x": X[10:20], "wide": WIDE[10:20], "new": X[10:20]}}, "layer 'new': not in the file, is now"),
    ],
)
def test_other_layers_or_pools_are_refused_with_the_difference(
    tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    create(tmp_path / "x.h5").close(complete=False)
    with resume(tmp_path / "x.h5") as writer:
        writer.append(batch(0, 10))
        writer.close(complete=False)
    with (
        pytest.raises(probes.UsageError, match="can't be continued by this one") as caught,
        resume(tmp_path / "x.h5") as writer,
    ):
        writer.append(batch(10, 20, **changes))
    assert sentence in str(caught.value)
    assert len(Store(tmp_path / "x.h5", partial=True)) == 10


def test_another_model_or_data_is_refused_with_the_difference(tmp_path: Path) -> None:
    writer = create(
        tmp_path / "x.h5", attrs={"model": "a", "pool": "mean", "versions": {"torch": "1"}, "preprocessing": {"size": 3}}
    )
    writer.append(batch(0, 10))
    writer.close(complete=False)
    attributes = {"model": "a", "pool": "mean", "versions": {"torch": "2"}, "preprocessing": {"size": 3}}
    with pytest.raises(probes.UsageError, match="model: 'a' in the file, 'b' now"):
        resume(tmp_path / "x.h5", attrs=attributes | {"model": "b"})
    with pytest.raises(probes.UsageError, match="dataset: nothing in the file, 'digits' now"):
        resume(tmp_path / "x.h5", attrs=attributes | {"dataset": "digits"})
    with resume(tmp_path / "x.h5", attrs=attributes) as writer:
        writer.append(batch(10, 20))
    (step,) = json.loads(Store(tmp_path / "x.h5").attrs["resumed"])
    assert (step["at"], step["versions"]) == (10, '{"torch": "2"}')
    assert not provenance_diff(Store(tmp_path / "x.h5").attrs, attributes)


def test_a_complete_or_missing_file_is_not_resumed(tmp_path: Path) -> None:
    with create(tmp_path / "x.h5") as writer:
        writer.append(batch(0, 10))
    with pytest.raises(probes.FormatError, match="can't be continued"):
        resume(tmp_path / "x.h5")
    assert len(Store(tmp_path / "x.h5")) == 10
    with pytest.raises(FileNotFoundError):
        resume(tmp_path / "none.h5")


@pytest.mark.parametrize("room", [0, 1, 2, 5, 9])
def test_a_full_disk_leaves_the_last_commit(tmp_path: Path, room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full after `room` writes and stays full while the writer closes."""
    monkeypatch.setattr("probes.storage.writer._COMMIT_SECONDS", (0.0, 0.0))
    path = tmp_path / "x.h5"
    writer = create(path)
    writer.append(batch(0, 10))
    writes_left, pwrite = [room], os.pwrite

    def full(*arguments: object) -> int:
        writes_left[0] -= 1
        if writes_left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left on device"), writer:
            for start in range(10, 60, 10):
                writer.append(batch(start, start + 10))
    committed = writer.n_committed
    assert 10 <= committed < 60
    store = Store(path, partial=True)
    assert len(store) == committed
    np.testing.assert_array_equal(store["wide"], WIDE[:committed])
    store.close()
    with resume(path) as writer:
        writer.append(batch(committed, 60))
    np.testing.assert_array_equal(Store(path)["wide"], WIDE)


def test_a_closed_writer_refuses_batches(tmp_path: Path) -> None:
    with create(tmp_path / "x.h5") as writer:
        writer.append(batch(0, 10))
    with pytest.raises(OSError, match="is closed; 10 samples are whole in it"):
        writer.append(batch(10, 20))


def test_a_second_writer_of_a_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probes.storage.journal._LOCK_SECONDS", 0.2)
    with create(tmp_path / "x.h5") as writer:
        with pytest.raises(probes.UsageError, match="is being written"):
            create(tmp_path / "x.h5", overwrite=True)
        with pytest.raises(probes.UsageError, match="is being written"):
            resume(tmp_path / "x.h5")
        writer.append(batch(0, 10))
    assert len(Store(tmp_path / "x.h5")) == 10


def test_a_file_can_be_replaced_while_it_is_read(tmp_path: Path) -> None:
    for rows in (10, 20):
        with create(tmp_path / "x.h5", overwrite=True) as writer:
            writer.append(batch(0, rows))
        if rows == 10:
            old = Store(tmp_path / "x.h5")
    assert len(old["x"]) == 10
    assert len(Store(tmp_path / "x.h5")) == 20


def test_a_resumable_file_is_not_overwritten_without_request(tmp_path: Path) -> None:
    writer = create(tmp_path / "x.h5")
    writer.append(batch(0, 10))
    writer.close(complete=False)
    with pytest.raises(probes.UsageError, match="It is incomplete: --resume continues it"):
        create(tmp_path / "x.h5")


def test_non_finite_values_are_counted(tmp_path: Path) -> None:
    x = X[:10].copy()
    x[3, 1], x[4] = np.inf, np.nan
    with create(tmp_path / "x.h5") as writer:
        writer.append(batch(0, 10, layers={"x": x, "wide": WIDE[:10]}))
        writer.append(batch(10, 20))
    assert Store(tmp_path / "x.h5").non_finite == {"x": 4}


def test_a_layer_dropped_during_writing_is_removed(tmp_path: Path) -> None:
    writer = create(tmp_path / "x.h5")
    writer.append(batch(0, 10))
    writer.append(batch(10, 20, layers={"x": X[10:20]}, skipped={"wide": "its shape varies"}))
    writer.close(complete=False)
    with resume(tmp_path / "x.h5") as writer:
        writer.append(batch(20, 30))  # a resumed run still records it
        writer.append(batch(30, 40, layers={"x": X[30:40]}, skipped={"wide": "its shape varies"}))
    store = Store(tmp_path / "x.h5")
    assert (store.layers, store.skipped) == (["x"], {"wide": "its shape varies"})
    np.testing.assert_array_equal(store["x"], X[:40])
    with h5py.File(tmp_path / "x.h5") as raw:
        assert list(raw["layers"]) == ["x"]


def test_little_memory_is_used_for_a_commit(tmp_path: Path) -> None:
    """Rows are written directly to the file, also into chunks started before the last commit."""
    x = np.ones((1000, 256), "f4")
    with create(tmp_path / "x.h5") as writer:
        for start in range(0, 20_000, 1000):
            writer.append(Batch(ids=np.arange(start, start + 1000), layers={"x": x}))
            for column in writer._layers.values():
                column.flush_full_chunks()
            pending = sum(len(data) for _, data in writer._atomic._pending)
            assert pending < 100_000
            writer.commit()


def test_a_repeated_id_is_refused_also_after_resuming(tmp_path: Path) -> None:
    def batch(*ids: object) -> Batch:
        return Batch(np.array(ids), {"x": np.ones((len(ids), 2))})

    for first, second in (((1, 2), (3, 1)), (("a", "b"), ("c", "a"))):
        path = tmp_path / f"{first[0]}.h5"
        writer = probes.create(path)
        writer.append(batch(*first))
        with pytest.raises(DataError, match=f"Sample id {first[0]!r} is in .* already; ids must be unique"):
            writer.append(batch(*second))
        writer.close(complete=False)
        resumed = resume(path)
        with pytest.raises(DataError, match=f"Sample id {first[0]!r} is in .* already"):
            resumed.append(batch(*second))
        resumed.append(batch(second[0]))
        resumed.close(complete=True)
        assert probes.open(path).ids.tolist() == [*first, second[0]]


def test_mixed_kinds_of_ids_are_refused(tmp_path: Path) -> None:
    with probes.create(tmp_path / "x.h5") as writer:
        writer.append(Batch(np.array(["a"]), {"x": np.ones((1, 2))}))
        with pytest.raises(DataError, match="sample ids after sample 1 are integers, and were texts before"):
            writer.append(Batch(np.array([1]), {"x": np.ones((1, 2))}))
    assert probes.open(tmp_path / "x.h5").ids.tolist() == ["a"]


@pytest.mark.parametrize("commit", [False, True])
def test_a_removed_layer_is_not_counted_as_non_finite(tmp_path: Path, commit: bool) -> None:
    nan = np.full((10, 2, 50), np.nan)
    for name, non_finite in (("one.h5", {}), ("two.h5", {"x": np.where(X[:10] > 0, np.inf, X[:10])})):
        with create(tmp_path / name) as writer:
            writer.append(batch(0, 10, layers={"x": X[:10], "wide": nan} | non_finite))
            if commit:
                writer.commit()
            writer.append(batch(10, 20, layers={"x": X[10:20]}, skipped={"wide": "its shape varies"}))
        assert Store(tmp_path / name).layers == ["x"]
        expected = {"x": int((X[:10] > 0).sum())} if non_finite else {}
        assert Store(tmp_path / name).non_finite == expected


def test_a_layer_dropped_by_an_earlier_run_stays_out_when_another_is_dropped(tmp_path: Path) -> None:
    def three(start: int, stop: int, *names: str, **changes: object) -> Batch:
        arrays = {"x": X[start:stop], "wide": WIDE[start:stop], "y": -X[start:stop]}
        return batch(start, stop, layers={name: arrays[name] for name in names}, **changes)

    writer = create(tmp_path / "x.h5")
    writer.append(three(0, 10, "x", "wide", "y"))
    writer.append(three(10, 20, "x", "y", skipped={"wide": "its shape varies"}))
    writer.close(complete=False)
    with resume(tmp_path / "x.h5") as writer:
        writer.append(three(20, 30, "x", "wide", "y"))  # in this run its shape has not changed yet
        writer.append(three(30, 40, "x", "wide", skipped={"y": "it did not run"}))
        writer.append(three(40, 50, "x", "wide", skipped={"y": "it did not run"}))
    store = Store(tmp_path / "x.h5")
    assert store.layers == ["x"]
    assert store.skipped == {"wide": "its shape varies", "y": "it did not run"}
    np.testing.assert_array_equal(store["x"], X[:50])


def test_texts_survive_a_kill_with_uncommitted_rows(tmp_path: Path) -> None:
    """HDF5 frees overwritten texts, so uncommitted rows of a killed run must be removed before they are written again."""
    path = tmp_path / "x.h5"

    def named(start: int, stop: int, word: str) -> Batch:
        ids = np.array([f"{word} {i}" for i in range(start, stop)])
        return Batch(ids, {"x": X[start:stop]}, split=np.full(stop - start, word))

    writer = create(path)
    writer.append(named(0, 10, "first"))
    writer.commit()
    texts = [writer._columns[name] for name in ("id", "split")]
    assert [column.unwritten_ranges() for column in texts] == [[], []]
    before = {column.data.name: chunk_on_disk(path, column) for column in texts}
    writer.append(named(10, 30, "lost"))
    for column in texts:
        column.flush()
    writer._file.flush()
    assert {column.data.name: chunk_on_disk(path, column) for column in texts} == before
    writer._abort()
    with resume(path) as writer:
        writer.append(named(10, 60, "second"))
    store = Store(path)
    assert store.ids.tolist() == [f"{'first' if i < 10 else 'second'} {i}" for i in range(60)]
    assert store.split is not None
    assert store.split.tolist() == ["first"] * 10 + ["second"] * 50


def chunk_on_disk(path: Path, column: Column) -> bytes:
    chunk = column.data.id.get_chunk_info_by_coord((0,))
    return path.read_bytes()[chunk.byte_offset : chunk.byte_offset + chunk.size]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in sorted(RESERVED_ATTRS) for value in ("text", 99)),
        *(("shard", "text"), ("shard", True), ("shards", 2.5)),
    ],
)
def test_reserved_attributes_are_refused_before_anything_is_written(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"attribute {key} is the file's own; give yours another name"):
        probes.create(tmp_path / "acts.h5", attrs={key: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", ["n", "state", "created", "complete_", "layers", "my_shard", "class_names", "head", "ids"])
def test_any_other_attribute_is_read_back(tmp_path: Path, key: str) -> None:
    with probes.create(tmp_path / "acts.h5", attrs={key: "text"}) as writer:
        writer.append(Batch(np.arange(4), {"relu": np.ones((4, 2))}))
    with probes.open(tmp_path / "acts.h5") as store:
        assert store.attrs[key] == "text"
        np.testing.assert_array_equal(store["relu"], np.ones((4, 2)))

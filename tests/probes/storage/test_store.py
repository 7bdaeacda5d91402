"""Format v3: written data are read back by `probes`, h5py and xarray; foreign and damaged files are refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

import probes
from probes.storage.format import COMPRESSIONS
from probes.storage.store import Store, _check_rows
from probes.storage.writer import create
from tests.probes.forging import forged

Batches = Callable[..., list[probes.Batch]]
DATA = Path(__file__).parents[2] / "data"


@pytest.fixture
def file(tmp_path: Path, batches: Batches) -> Path:
    path = tmp_path / "acts.h5"
    rng = np.random.default_rng(0)
    layers = {"conv": rng.normal(size=(50, 3, 4, 5)).astype("f4"), "blocks.0.fc": rng.normal(size=(50, 7))}
    with create(path, attrs={"model": "m", "versions": {"a": "1"}, "seed": 3}, class_names=["ä", "b"]) as writer:
        for batch in batches(layers, np.arange(50) % 2, 8, split="train"):
            writer.append(batch)
    return path


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("expected", [None, 300])
def test_written_batches_are_read_back(
    tmp_path: Path, batches: Batches, compression: str, size: int, expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("probes.storage.writer._BUFFERED_BYTES", 4000)
    monkeypatch.setattr("probes.storage.writer._CHUNK_BYTES", (1000, 2000))
    rng = np.random.default_rng(0)
    layers = {"a": rng.normal(size=(300, 5)).astype("f4"), "b": rng.normal(size=(300, 2, 3)), "c": np.zeros((300, 1), "f2")}
    y = rng.integers(0, 9, 300)
    with create(tmp_path / "x.h5", compression=compression, expected=expected) as writer:
        for batch in batches(layers, y, size):
            writer.append(batch)
    store = Store(tmp_path / "x.h5")
    for name, array in layers.items():
        np.testing.assert_array_equal(store[name], array)
        assert store[name].dtype == array.dtype
    np.testing.assert_array_equal(store.labels, y)
    batches_read = list(store.iter(["b", "a"], size=17))
    np.testing.assert_array_equal(np.concatenate([batch.layers["b"] for batch in batches_read]), layers["b"])
    np.testing.assert_array_equal(np.concatenate([batch.ids for batch in batches_read]), np.arange(300))


def test_h5py_reads_the_documented_format(file: Path) -> None:
    with h5py.File(file) as raw:
        assert raw.attrs["format"] == "repanalysis-activations"
        assert (raw.attrs["format_version"], raw.attrs["complete"], raw.attrs["n_committed"]) == (3, 1, 50)
        assert raw["obs/id"].dims[0][0].name == "/sample"
        assert raw["layers/conv/x"].dims[0][0] == raw["sample"]
        assert [raw["layers/conv/x"].dims[axis][0].name for axis in (1, 2, 3)] == [
            f"/layers/conv/{dim}" for dim in ("channel", "axis2", "axis3")
        ]
        assert raw["layers/blocks.0.fc/x"].attrs["name"] == "blocks.0.fc"
        assert raw["obs/class_names"].asstr()[0] == "ä"


def test_xarray_opens_the_file_with_named_dimensions(file: Path) -> None:
    with xarray.open_dataset(file, engine="h5netcdf", group="layers/conv") as data:
        assert dict(data.sizes) == {"sample": 50, "channel": 3, "axis2": 4, "axis3": 5}
        assert data["x"].dims == ("sample", "channel", "axis2", "axis3")
        np.testing.assert_array_equal(data["x"], Store(file)["conv"])
    with xarray.open_dataset(file, engine="h5netcdf", group="obs") as data:
        assert data["label"].dims == ("sample",)
        assert data["split"].values[0] == "train"
        assert data["class_names"].values.tolist() == ["ä", "b"]
    with xarray.open_datatree(file, engine="h5netcdf") as tree:
        assert set(tree["layers"].children) == {"conv", "blocks.0.fc"}


@pytest.mark.parametrize(("d", "n"), [(16, 4000), (512, 30000), (200_000, 40), (4_000_000, 2)])
def test_chunks_of_large_layers_are_two_to_sixteen_megabytes(tmp_path: Path, d: int, n: int) -> None:
    with create(tmp_path / "x.h5", expected=n) as writer:
        writer.append(probes.Batch(ids=np.arange(2), layers={"x": np.zeros((2, d), np.float32)}))
    with h5py.File(tmp_path / "x.h5") as raw:
        rows, width = raw["layers/x/x"].chunks
    assert rows * width * 4 <= 16 << 20
    assert rows * width * 4 >= min(2 << 20, n * d * 4)


def test_a_file_of_version_1_can_be_read() -> None:
    store = Store(DATA / "v1.h5")
    store.check()
    assert store.layers == ["conv", "block.relu_1"]
    assert store.info["block.relu_1"].call_index == 1
    assert store.attrs["model"] == "frozen"
    np.testing.assert_array_equal(store["conv"], np.arange(6 * 2 * 3 * 3, dtype="f4").reshape(6, 2, 3, 3))
    np.testing.assert_array_equal(store["block.relu_1"], np.arange(6 * 4).reshape(6, 4) / 8)
    assert store.labels is not None
    assert store.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert store.ids.tolist() == [10, 11, 12, 13, 14, 15]
    assert store.split is not None
    assert store.split.tolist() == ["train"] * 3 + ["test"] * 3
    assert store.class_names == ["zero", "one", "two"]
    assert store.skipped == {"attn": "its output is a tuple, not a tensor"}


@pytest.mark.parametrize("version", [2, 3])
def test_a_file_of_version_2_or_3_can_be_read(version: int) -> None:
    store = Store(DATA / f"v{version}.h5")
    store.check()
    assert store.attrs["format_version"] == version
    assert store.layers == ["conv", "block.relu_1"]
    assert store.info["block.relu_1"].prefix_tokens == 1
    assert store.attrs["compression"] == "gzip"
    np.testing.assert_array_equal(store["conv"], np.arange(6 * 2 * 3 * 3, dtype="f4").reshape(6, 2, 3, 3))
    np.testing.assert_array_equal(store["block.relu_1"], np.arange(6 * 4).reshape(6, 4) / 8)
    assert store.labels is not None
    assert store.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert store.ids.tolist() == [10, 11, 12, 13, 14, 15]
    assert store.split is not None
    assert store.split.tolist() == ["train"] * 3 + ["test"] * 3
    assert store.class_names == ["zero", "one", "two"]
    assert store.non_finite == {}


def test_a_store_is_lazy_and_can_be_pickled(file: Path) -> None:
    store = Store(file)
    twin = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(twin["conv"], store["conv"])
    code = f"import probes, sys; print(probes.open({str(file)!r})['conv'].sum()); assert 'torch' not in sys.modules"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(result.stdout) == pytest.approx(float(store["conv"].sum()), rel=1e-6)
    store.close()
    assert store["conv"].shape == (50, 3, 4, 5)


@pytest.mark.parametrize("method", ["closed", "pickled"])
@pytest.mark.parametrize("seal", [True, False])
def test_a_store_detects_that_its_file_was_replaced(
    file: Path, tmp_path: Path, batches: Batches, method: str, *, seal: bool
) -> None:
    """Regression: it read rows of the new file under attributes of the old one."""
    if not seal:  # as in version 1
        file.write_bytes((DATA / "v1.h5").read_bytes())
    store = Store(file)
    layer = store.layers[0]
    if method == "closed":
        store.close()
    else:
        store = pickle.loads(pickle.dumps(store))
    with create(tmp_path / "other.h5", attrs={"model": "m"}) as writer:
        for batch in batches({layer: store[layer] + 1}, None, 8):
            writer.append(batch)
    store.close()
    (tmp_path / "other.h5").replace(file)
    for read in (lambda: store[layer], lambda: store.ids, lambda: next(store.iter()), lambda: store.shape(layer)):
        with pytest.raises(probes.FormatError, match="was replaced or written to since it was opened"):
            read()


def test_a_store_detects_that_writing_was_resumed(file: Path, batches: Batches, tmp_path: Path) -> None:
    layers = {"a": np.arange(40.0)[:, None]}
    writer = create(tmp_path / "x.h5")
    first, second, *_ = batches(layers, None, 10)
    writer.append(first)
    writer.close(complete=False)
    store = Store(tmp_path / "x.h5", partial=True)
    store.close()
    assert len(store["a"]) == 10
    store.close()
    with probes.resume(tmp_path / "x.h5") as writer:
        writer.append(second)
    with pytest.raises(probes.FormatError, match="or written to"):
        store["a"]


def test_an_unknown_layer_has_a_one_sentence_error(file: Path) -> None:
    with pytest.raises(probes.UsageError, match="has no layer 'cov'. Did you mean 'conv'?"):
        Store(file)["cov"]


def test_rows_after_the_commit_are_not_read(file: Path) -> None:
    with forged(file) as raw:
        raw.attrs["n_committed"] = 30
        raw.attrs["complete"] = 0
    with pytest.raises(probes.IncompleteError, match="stopped after 30 samples"):
        Store(file)
    store = Store(file, partial=True)
    assert len(store) == len(store["conv"]) == len(store.ids) == sum(map(len, store.iter(size=7))) == 30
    assert "incomplete" in repr(store)


def damaged() -> dict[str, Callable[[h5py.File], None]]:
    def link(raw: h5py.File) -> None:
        raw["obs/evil"] = h5py.ExternalLink("/etc/passwd", "/x")

    def soft(raw: h5py.File) -> None:
        raw["obs/evil"] = h5py.SoftLink("/layers/conv")

    def external(raw: h5py.File) -> None:
        raw.create_dataset("obs/evil/x", (4,), "u1", external=[("/etc/passwd", 0, 4)])

    def virtual(raw: h5py.File) -> None:
        layout = h5py.VirtualLayout((4,), "u1")
        layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
        raw.create_virtual_dataset("obs/evil", layout)

    def short(raw: h5py.File) -> None:
        raw["layers/conv/x"].resize(20, axis=0)

    def undescribed(raw: h5py.File) -> None:
        del raw["layers/conv/x"].attrs["order"]

    def no_layers(raw: h5py.File) -> None:
        del raw["layers"]

    def no_count(raw: h5py.File) -> None:
        del raw.attrs["n_committed"]

    def newer(raw: h5py.File) -> None:
        raw.attrs["format_version"] = 99

    def foreign(raw: h5py.File) -> None:
        raw.attrs["format"] = "something else"

    def unknown_filter(raw: h5py.File) -> None:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((4,))
        properties.set_filter(32008, h5py.h5z.FLAG_OPTIONAL, ())
        space = h5py.h5s.create_simple((4,))
        h5py.h5d.create(raw["obs"].id, b"evil", h5py.h5t.NATIVE_INT8, space, properties)

    def cycle(raw: h5py.File) -> None:
        raw["obs/evil"] = raw["layers"]

    def never_written(raw: h5py.File) -> None:
        raw["layers/conv/x"].resize(10**12, axis=0)
        for name in ("id", "label", "split"):
            raw[f"obs/{name}"].resize(10**12, axis=0)
        raw.attrs["n_committed"] = 10**12

    def enormous_chunks(raw: h5py.File) -> None:
        attrs = dict(raw["layers/conv/x"].attrs)
        del raw["layers/conv/x"]
        data = raw["layers/conv"].create_dataset(
            "x", (50, 1, 4, 256), "f4", chunks=(1 << 19, 1, 4, 256), maxshape=(None, 1, 4, 256), compression="gzip"
        )
        for name in ("name", "order", "depth", "pool", "module_type", "call_index", "source_shape", "dtype_source"):
            data.attrs[name] = attrs[name]
        data.attrs["dims"] = attrs["dims"]

    def text(raw: h5py.File) -> None:
        attrs = dict(raw["layers/conv/x"].attrs)
        del raw["layers/conv/x"]
        data = raw["layers/conv"].create_dataset("x", (50, 3, 4, 5), h5py.string_dtype())
        for name in ("name", "order", "depth", "pool", "module_type", "call_index", "source_shape", "dtype_source", "dims"):
            data.attrs[name] = attrs[name]

    def renamed(raw: h5py.File) -> None:
        raw.attrs["layer_info"] = raw.attrs["layer_info"].replace('"conv"', '"other"')

    def renamed_once(raw: h5py.File) -> None:
        raw["layers/conv/x"].attrs["name"] = "other"

    def undescribed_layer(raw: h5py.File) -> None:
        raw.create_dataset("layers/new/x", data=np.zeros((50, 3)))

    def more_rows(raw: h5py.File) -> None:
        raw["layers/conv/x"].resize(58, axis=0)
        raw["layers/conv/x"][50:] = 0

    def longer_axis(raw: h5py.File) -> None:
        raw["sample"].resize(58, axis=0)

    def other_axes(raw: h5py.File) -> None:
        raw.attrs["layer_info"] = raw.attrs["layer_info"].replace('"axis2", ', "")

    def column(name: str, values: np.ndarray) -> Callable[[h5py.File], None]:
        def replace(raw: h5py.File) -> None:
            del raw[f"obs/{name}"]
            raw[f"obs/{name}"] = values

        return replace

    def names(raw: h5py.File) -> None:
        del raw["obs/class_names"]
        raw.create_dataset("obs/class_names", data=["ä"], dtype=h5py.string_dtype())

    def attribute(name: str, value: object) -> Callable[[h5py.File], None]:
        return lambda raw: raw.attrs.__setitem__(name, value)

    def wrong_type_attribute(raw: h5py.File) -> None:
        raw["layers/conv/x"].attrs["order"] = "first"

    def invalid_json(raw: h5py.File) -> None:
        raw.attrs["left_out"] = "[1, 2]"

    return {
        "is refused: /obs/evil is a link": link,
        "/obs/evil is a link; activations": soft,
        "refused: the data of /obs/evil/x lies in another file": external,
        "the data of /obs/evil lies in another file": virtual,
        "/layers/conv/x has 20 rows, but the file has 50 samples": short,
        "layer 'conv' lacks its description": undescribed,
        "samples, but no ids or no layers": no_layers,
        "n_committed is None": no_count,
        "format version 99; this repanalysis reads 1 to 3: update it": newer,
        "is an HDF5 file, but not an activations file": foreign,
        "uses the unknown filter 32008": unknown_filter,
        "/obs/evil is there twice": cycle,
        "but not all of them were written": never_written,
        "have 2048 MB each": enormous_chunks,
        "its type is object": text,
        "layer 'conv' lacks its description or its data": renamed,
        "layer 'new' lacks its description": undescribed_layer,
        "layer 'conv' is described in two ways": renamed_once,
        "/layers/conv/x has 58 rows, but the file has 50 samples": more_rows,
        "the axis of samples has shape (58,)": longer_axis,
        "shape (50, 3, 4, 5) for the axes ('sample', 'channel', 'axis3')": other_axes,
        "/obs/label has shape (50,) and type float64": column("label", np.full(50, np.nan)),
        "/obs/label has shape (50, 2) and type int64": column("label", np.zeros((50, 2), np.int64)),
        "/obs/label has shape (50,) and type object": column("label", np.full(50, "ä", h5py.string_dtype())),
        "/obs/label has shape (50,) and type bool": column("label", np.zeros(50, bool)),
        "/obs/id has shape (50, 1)": column("id", np.arange(50)[:, None]),
        "/obs/id has shape (50,) and type float64": column("id", np.arange(50.0)),
        "/obs/id has shape (50,) and type complex128": column("id", np.arange(50, dtype=complex)),
        "/obs/id has no rows": column("id", np.array(3)),
        "/obs/id has 49 rows, but the file has 50 samples": column("id", np.arange(49)),
        "sample id 7 is repeated": column("id", np.where(np.arange(50) == 8, 7, np.arange(50))),
        "/obs/split has shape (50,) and type int64": column("split", np.arange(50)),
        "there is a label 1, and 1 class names": names,
        "/obs/class_names has shape (2,) and type int64": column("class_names", np.arange(2)),
        "the attribute model is of type ndarray": attribute("model", np.arange(3)),
        "the attribute shard is of type str": attribute("shard", "first"),
        "the attribute note is of type bytes": attribute("note", np.bytes_(b"hello")),
        "n_committed is 50.0": attribute("n_committed", 50.0),
        "an attribute has the wrong type": wrong_type_attribute,
        "not a mapping": invalid_json,
    }


@pytest.mark.parametrize("sentence", damaged())
def test_damaged_and_foreign_files_have_one_sentence_errors(file: Path, sentence: str) -> None:
    with forged(file) as raw:
        damaged()[sentence](raw)
    with pytest.raises(probes.FormatError) as caught:
        Store(file).check()
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(str(file))


def test_truncated_files_and_other_formats_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="There is no file"):
        Store(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(probes.FormatError, match="it is no HDF5 file"):
        Store(tmp_path / "text.h5")
    content = file.read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        probes.FormatError, match="is truncated or was changed after it was written: the seal at its end is missing"
    ):
        Store(tmp_path / "cut.h5")


def changes() -> Iterator[tuple[dict[str, object], str]]:
    a = np.zeros((2, 3), "f4")
    yield {"layers": {"a": a.astype("f8")}}, "Layer 'a' has shape .3,. and type float64 from sample 2 on"
    yield {"layers": {"a": np.zeros((2, 4), "f4")}}, "Layer 'a' has shape .4,. and type float32"
    yield {"layers": {"a": a, "b": a}}, "has other layers than the first one .b."
    yield {"labels": None}, "has other columns than the first one .label."


@pytest.mark.parametrize(("change", "sentence"), list(changes()))
def test_an_invalid_batch_is_refused_and_earlier_batches_are_kept(
    tmp_path: Path, change: dict[str, object], sentence: str
) -> None:
    arguments: dict[str, object] = {"layers": {"a": np.zeros((2, 3), "f4")}, "labels": np.arange(2)}
    with pytest.raises(probes.DataError, match=sentence), create(tmp_path / "x.h5") as writer:
        writer.append(probes.Batch(ids=np.arange(2), **arguments))  # type: ignore[arg-type]
        writer.append(probes.Batch(ids=np.arange(2, 4), **(arguments | change)))  # type: ignore[arg-type]
    store = Store(tmp_path / "x.h5", partial=True)
    assert (len(store), store.complete) == (2, False)


def test_names_with_special_meaning_in_hdf5_are_preserved(tmp_path: Path) -> None:
    names = ["a/b", "..", "50%", "ünï", "a b"]
    with create(tmp_path / "x.h5") as writer:
        writer.append(probes.Batch(ids=np.arange(2), layers={name: np.full((2, 1), i) for i, name in enumerate(names)}))
    store = Store(tmp_path / "x.h5")
    assert store.layers == names
    assert [int(store[name][0, 0]) for name in names] == list(range(5))


def test_a_layer_without_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(probes.DataError, match="it has no elements; leave it out"), create(tmp_path / "x.h5") as writer:
        writer.append(probes.Batch(ids=np.arange(2), layers={"x": np.zeros((2, 0))}))


def test_unknown_compression_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(probes.UsageError, match="Unknown compression 'gzp'. Did you mean 'gzip'?"):
        create(tmp_path / "x.h5", compression="gzp")
    with pytest.raises(probes.UsageError, match="is a folder"):
        create(tmp_path)


NAMES = [f"{'é' * (i % 3)}cat/{i}.png" for i in range(50)]


@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_text_ids_are_read_back(tmp_path: Path, compression: str) -> None:
    x = np.arange(100.0).reshape(50, 2)
    with probes.create(tmp_path / "x.h5", compression=compression, expected=50) as writer:
        for rows in (slice(0, 7), slice(7, 8), slice(8, 50)):
            writer.append(probes.Batch(np.array(NAMES[rows]), {"x": x[rows]}))
            writer.commit()
    store = probes.open(tmp_path / "x.h5")
    assert (store.ids.dtype.kind, store.ids.tolist()) == ("U", NAMES)
    assert [sample for batch in store.iter(size=9) for sample in batch.ids.tolist()] == NAMES
    with h5py.File(tmp_path / "x.h5") as raw:
        assert [text.decode() for text in raw["obs/id"][:]] == NAMES, "UTF-8, for every reader"


def test_ids_of_another_type_are_reported_as_damage(tmp_path: Path) -> None:
    with probes.create(tmp_path / "x.h5") as writer:
        writer.append(probes.Batch(np.arange(3), {"x": np.ones((3, 2))}))
    for values in (np.ones(3), np.zeros(3, [("a", "i4")])):
        with forged(tmp_path / "x.h5") as raw:
            del raw["obs/id"]
            raw["obs/id"] = values
        with pytest.raises(probes.FormatError, match=r"/obs/id has shape \(3,\) and type .*; one integer or text per sample"):
            _ = probes.open(tmp_path / "x.h5").ids


def test_a_stored_file_with_text_ids_is_read() -> None:
    names = ["train/cat/1.png", "train/cat/é.png", "train/dog/0001.png", "日本.jpg", "a b/%2F.png", r"\udcff.png"]
    store = Store(DATA / "v3_names.h5")
    assert (store.ids.tolist(), store.attrs["ids_from"], store.attrs["format_version"]) == (names, "name", 3)
    np.testing.assert_array_equal(store["conv"], np.arange(12, dtype="f4").reshape(6, 2))
    assert [batch.ids.tolist() for batch in store.iter(size=4)] == [names[:4], names[4:]]
    assert pickle.loads(pickle.dumps(store)).ids.tolist() == names


def test_a_chunk_has_at_most_a_gigabyte_or_a_single_row(tmp_path: Path) -> None:
    """Only declared: none of these chunks is written, so none uses disk space."""
    width = 1 << 27  # 512 MB a row
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, rows, columns, refused in (
            ("exactly", 2, width, False),
            ("more", 2, width + 1, True),
            ("single", 1, 2 * width + 1, False),
        ):
            data = file.create_dataset(name, (0, columns), "f4", maxshape=(None, columns), chunks=(rows, columns))
            if refused:
                with pytest.raises(probes.FormatError, match=f"is refused: the chunks of /{name} have 1024 MB each"):
                    _check_rows(Path("x.h5"), f"/{name}", data, 0, exact=True)
            else:
                _check_rows(Path("x.h5"), f"/{name}", data, 0, exact=True)

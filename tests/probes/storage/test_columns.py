"""Growing columns, and named axes shared by any number of data sets."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

import probes
from probes.storage.columns import Column, dimension, name_axes


@pytest.mark.parametrize("packing", [{}, {"compression": "gzip"}])
def test_rows_are_stored_in_order_and_full_chunks_are_compressed_once(tmp_path: Path, packing: dict[str, str]) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        column = Column(file.create_dataset("x", (0, 2), "i8", maxshape=(None, 2), chunks=(4, 2), **packing))
        values = np.arange(22).reshape(11, 2)
        for start, stop in ((0, 3), (3, 9), (9, 11)):
            column.append(values[start:stop])
            column.flush_full_chunks()
            assert len(column.data) == (stop - stop % 4 if packing else stop)
        column.flush()
        np.testing.assert_array_equal(column.data[:], values)


def test_axes_have_names_and_the_scale_keeps_no_reference_list(tmp_path: Path) -> None:
    """The reference list of an HDF5 scale is full after 4,080 data sets."""
    with h5py.File(tmp_path / "x.h5", "w") as file:
        sample, channel = dimension(file, "sample", 5, maxshape=None), dimension(file, "channel", 3)
        for name in ("a", "b"):
            name_axes(file.create_dataset(name, data=np.zeros((5, 3))), [sample, channel])
        assert [file["b"].dims[axis][0].name for axis in (0, 1)] == ["/sample", "/channel"]
        assert "REFERENCE_LIST" not in sample.attrs


def test_opening_a_file_reads_no_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: listing 4,080 layers took 15 s, mostly for reading the attributes of each."""
    layers = {f"layer{i}": np.full((3, 2), i, "f4") for i in range(30)}
    with probes.create(tmp_path / "x.h5") as writer:
        writer.append(probes.Batch(np.arange(3), layers))
    opened: list[str] = []
    real = probes.storage.store._own_dataset
    monkeypatch.setattr(
        "probes.storage.store._own_dataset", lambda file, name, path: opened.append(name) or real(file, name, path)
    )
    store = probes.Store(tmp_path / "x.h5")
    assert store.layers == list(layers)
    assert not [name for name in opened if name.startswith("layers")]
    np.testing.assert_array_equal(store["layer7"], layers["layer7"])
    assert [name for name in opened if name.startswith("layers")] == ["layers/layer7/x"]


@pytest.mark.slow
def test_a_file_may_have_twenty_thousand_layers(tmp_path: Path) -> None:
    layers = {f"block.{i}.relu": np.full((4, 2), i, "f4") for i in range(20_000)}
    with probes.create(tmp_path / "x.h5", expected=4) as writer:
        writer.append(probes.Batch(np.arange(4), layers))
    store = probes.Store(tmp_path / "x.h5")
    assert store.layers == list(layers)
    for batch in store.iter():
        assert [batch.layers[name][0, 0] for name in layers] == list(range(20_000))


def test_free_bytes_are_the_part_of_the_last_chunk_without_rows(tmp_path: Path) -> None:
    path, text = tmp_path / "x.h5", h5py.string_dtype()
    with h5py.File(path, "w") as file:
        options = {"maxshape": (None, 2), "chunks": (4, 2)}
        column = Column(file.create_dataset("x", (0, 2), "i8", **options))
        compressed = Column(file.create_dataset("packed", (0, 2), "i8", compression="gzip", **options))
        names = Column(file.create_dataset("names", (0, 2), text, **options))
        assert column.unwritten_ranges() == []
        for rows in range(1, 10):
            column.append(np.full((1, 2), rows))
            compressed.append(np.full((1, 2), rows))
            names.append(np.full((1, 2), f"name {rows}", dtype=object))
            for grown in (column, compressed, names):
                grown.flush()
            assert compressed.unwritten_ranges() == [], "it is packed anew"
            assert names.unwritten_ranges() == [], "HDF5 reads what it overwrites there"
            file.flush()
            if rows % 4 == 0:
                assert column.unwritten_ranges() == [], "the chunk is full"
                continue
            ((start, stop),) = column.unwritten_ranges()
            content = path.read_bytes()
            row = 2 * 8
            assert stop - start == (4 - rows % 4) * row
            assert content[start - row : start] == np.full(2, rows, "<i8").tobytes()
            assert content[start:stop] == bytes(stop - start)


def test_rows_of_another_shape_or_type_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        column = Column(file.create_dataset("x", (0, 2), "f4", maxshape=(None, 2), chunks=(4, 2)))
        column.check("conv", np.zeros((7, 2), "f4"), 3)
        for array in (np.zeros((7, 3), "f4"), np.zeros((7, 2), "f8")):
            with pytest.raises(probes.DataError) as caught:
                column.check("conv", array, 3)
            assert str(caught.value) == (
                f"Layer 'conv' has shape ({array.shape[1]},) and type {array.dtype} from sample 3 on, but (2,) and float32 "
                "before: pool it (mean, max) or leave it out."
            )


def test_a_scale_grows_only_on_request(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        assert dimension(file, "sample", 5, maxshape=None).maxshape == (None,)
        channel = dimension(file, "channel", 3)
        assert (channel.maxshape, channel.shape) == ((3,), (3,))
        netcdf = f"This is a netCDF dimension but not a netCDF variable.{3:10d}"  # as written by the netCDF C library
        assert channel.attrs["NAME"] == netcdf.encode()

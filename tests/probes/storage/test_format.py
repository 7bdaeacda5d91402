"""The format shared by writer and reader."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.parse import unquote

import h5py
import numpy as np
import pytest

from probes import UsageError
from probes.storage.format import COMPRESSIONS, FILTERS, encode_attr, filter_arguments, filters_of, group_of


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_compression_has_arguments_and_a_known_filter(compression: str) -> None:
    assert bool(filter_arguments(compression)) == (compression != "none")
    assert compression == "none" or compression in FILTERS.values()


def test_a_missing_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(UsageError, match=r"Compression 'lz4' needs hdf5plugin: pip install 'repanalysis\[compression\]'"):
        filter_arguments("lz4")


def test_names_of_layers_are_escaped_to_one_path_component() -> None:
    names = ["a/b", "a%2Fb", "a.b", "..", "a b", "é", "relu (1)", "x[0],y:=+1", "a;b", "#"]
    groups = [group_of(name) for name in names]
    assert len(set(groups)) == len(names)
    for name, group in zip(names, groups, strict=True):
        assert group.startswith("layers/")
        assert unquote(group.removeprefix("layers/")) == name
        assert group.count("/") == 1
        assert group.isascii()
    assert group_of("relu (1)[0],y:=+1") == "layers/relu (1)[0],y:=+1", "as it is"


@pytest.mark.parametrize("value", ["ä", 3, 0.5, True])
def test_texts_and_numbers_are_stored_natively(value: object) -> None:
    assert encode_attr(value) is value


def test_other_attributes_are_stored_as_json() -> None:
    for value in (None, {"ä": [1, 2]}, ["ö"], {}):
        text = encode_attr(value)
        assert isinstance(text, str)
        assert json.loads(text) == value
    assert encode_attr({"ä": 1}) == '{"ä": 1}', "text that people can read"


def test_an_unknown_compression_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"Unknown compression 'gzib'\..*'gzip'.* The compressions are none, lzf, gzip, lz4, zstd\."
    ):
        filter_arguments("gzib")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_compressed_columns_state_their_filter(tmp_path: Path, compression: str) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("x", data=np.arange(100.0), chunks=(10,), **filter_arguments(compression))
        filters = [FILTERS[code] for code in filters_of(data)]
    assert filters == ([] if compression == "none" else ["shuffle", compression])

"""What writer and reader agree on."""

from __future__ import annotations

import sys

import pytest

from probes import UsageError
from probes.storage.format import COMPRESSIONS, FILTERS, filter_arguments


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_compression_has_arguments_and_a_known_filter(compression: str) -> None:
    assert bool(filter_arguments(compression)) == (compression != "none")
    assert compression == "none" or compression in FILTERS.values()


def test_a_missing_plugin_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hdf5plugin", None)
    with pytest.raises(UsageError, match=r"Compression 'lz4' needs hdf5plugin: pip install 'repanalysis\[compression\]'"):
        filter_arguments("lz4")

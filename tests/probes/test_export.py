"""Exports for other programs have the data of the source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

import probes

MAPS, Y = np.random.default_rng(0).normal(size=(12, 3, 2, 2)).astype("f4"), np.arange(12) % 2


@pytest.fixture
def source(tmp_path: Path) -> probes.Source:
    info = {
        "conv": probes.LayerInfo("conv", 0, 0.5, ("sample", "channel", "height", "width"), "none", "Conv2d"),
        "fc": probes.LayerInfo("fc", 1, 1.0, ("sample", "channel"), "mean", "Linear"),
    }
    with probes.create(tmp_path / "x.h5", attrs={"model": "m"}, class_names=["cat", "dog"]) as writer:
        layers = {"conv": MAPS, "fc": MAPS[:, :, 0, 0].copy()}
        writer.append(probes.Batch(np.arange(12) + 5, layers, Y, np.full(12, "val"), info))
    return probes.open(tmp_path / "x.h5")


def test_export_to_xarray(source: probes.Source) -> None:
    data = source.to_xarray()
    assert data["conv"].dims == ("sample", "conv:channel", "conv:height", "conv:width")
    np.testing.assert_array_equal(data["conv"], MAPS)
    assert data["fc"].attrs["depth"] == 1.0
    assert data.attrs["model"] == "m"
    assert data["class_name"].values.tolist()[:2] == ["cat", "dog"]
    means = data["fc"].groupby("label").mean()
    np.testing.assert_allclose(means.sel(label=1), MAPS[Y == 1, :, 0, 0].mean(0), rtol=1e-6)
    assert list(source.to_xarray("fc")) == ["fc"]


def test_export_to_anndata(source: probes.Source) -> None:
    data = source.to_anndata("conv")
    assert data.shape == (12, 12)
    np.testing.assert_array_equal(data.X, MAPS.reshape(12, -1))
    assert data.obs["class_name"].tolist()[:2] == ["cat", "dog"]
    assert data.obs_names[0] == "5"
    assert data.uns["layer"]["pool"] == "none"
    with pytest.raises(probes.UsageError, match="has no layer 'cnv'. Did you mean 'conv'?"):
        source.to_anndata("cnv")


def test_anndata_can_be_written(source: probes.Source, tmp_path: Path) -> None:
    import anndata

    source.to_anndata("fc").write_h5ad(tmp_path / "x.h5ad")
    assert anndata.read_h5ad(tmp_path / "x.h5ad").uns["provenance"]["model"] == "m"


def test_export_to_safetensors(source: probes.Source, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    source.to_safetensors(path)
    tensors = load_file(path)
    np.testing.assert_array_equal(tensors["conv"], MAPS)
    np.testing.assert_array_equal(tensors["labels"], Y)
    np.testing.assert_array_equal(tensors["ids"], np.arange(12) + 5)
    with safe_open(path, "numpy") as file:
        header = file.metadata()
    assert header["model"] == "m"
    assert json.loads(header["layers"])["conv"]["module_type"] == "Conv2d"
    with pytest.raises(probes.UsageError, match="exists already"):
        source.to_safetensors(path)
    with pytest.raises(probes.UsageError, match="A layer is called 'ids'"):
        probes.from_arrays({"ids": MAPS}).to_safetensors(tmp_path / "y.safetensors")


def test_text_ids_are_exported(tmp_path: Path) -> None:
    names = [f"cat/{i}.png" for i in range(12)]
    source = probes.from_arrays({"x": MAPS[:, :, 0, 0]}, labels=Y, ids=names)
    assert source.to_xarray()["id"].values.tolist() == names
    assert source.to_anndata("x").obs_names.tolist() == names
    source.to_safetensors(tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "numpy") as file:
        assert json.loads(file.metadata()["ids"]) == names
        assert set(file.keys()) == {"x", "labels"}

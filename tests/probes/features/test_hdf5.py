"""HDF5 files of other programs and of exports: groups, conventions, sparse matrices, invalid files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix

import probes

MAPS, Y = np.random.default_rng(0).normal(size=(12, 3, 2, 2)).astype("f4"), np.arange(12) % 2


@pytest.fixture
def source(tmp_path: Path) -> probes.Source:
    info = {
        "z.conv": probes.LayerInfo(
            "z.conv", 0, 0.25, ("sample", "channel", "height", "width"), "grid:2", "Conv2d", 1, (3, 8, 8), "float16", 2,
            ("sample", "channel", "height", "width"), "measured", "excluded", 3.5,
        ),
        "fc": probes.LayerInfo("fc", 1, 1.0, ("sample", "channel"), "mean", "Linear"),
    }  # fmt: skip
    with probes.create(tmp_path / "acts.h5", attrs={"model": "m", "limit": 7}, class_names=["cat", "dog", "none"]) as writer:
        layers = {"z.conv": MAPS, "fc": MAPS[:, :, 0, 0].copy()}
        writer.append(probes.Batch(np.arange(12) * 3 + 5, layers, Y, np.array(["train", "val"])[Y], info))
    return probes.open(tmp_path / "acts.h5")


def exported(source: probes.Source, kind: str, path: Path) -> Path:
    if kind == "nc":
        source.to_xarray().to_netcdf(path, engine="h5netcdf")
    elif kind == "h5ad":
        source.to_anndata("z.conv").write_h5ad(path)
    else:
        source.to_safetensors(path)
    return path


@pytest.mark.parametrize("kind", ["nc", "h5ad", "safetensors"])
def test_an_export_is_read_back_unchanged(kind: str, source: probes.Source, tmp_path: Path) -> None:
    with probes.open(exported(source, kind, tmp_path / f"x.{kind}")) as reread:
        layers = ["z.conv"] if kind == "h5ad" else source.layers
        assert reread.layers == layers
        for layer in layers:
            assert reread.info[layer] == source.info[layer]
            assert reread.info[layer].averaged == source.info[layer].averaged
            np.testing.assert_array_equal(reread[layer], source[layer])
            assert reread[layer].dtype == source[layer].dtype
        assert reread.ids.tolist() == source.ids.tolist()
        assert (reread.labels == source.labels).all()  # type: ignore[union-attr]
        assert (reread.split == source.split).all()  # type: ignore[union-attr]
        assert reread.class_names == ["cat", "dog", "none"]
        assert reread.attrs["model"] == "m"
        assert str(reread.attrs["limit"]) == "7"


@pytest.mark.parametrize("kind", ["nc", "h5ad", "safetensors"])
@pytest.mark.parametrize("names", [(), ("age", "height")])
@pytest.mark.parametrize("labelled", [False, True])
def test_names_and_targets_are_read_back_from_an_export(
    kind: str, names: tuple[str, ...], *, labelled: bool, tmp_path: Path
) -> None:
    ids = np.array([f"cat/{i:02}é.png" for i in range(12)])
    targets = np.random.default_rng(1).normal(size=(12, 2))
    targets[3] = np.nan
    source = probes.from_arrays(
        {"z.conv": MAPS},
        ids=ids,
        labels=np.where(np.arange(12) < 2, -1, Y) if labelled else None,
        targets=pd.DataFrame(targets, columns=names) if names else targets,
    )
    with probes.open(exported(source, kind, tmp_path / f"x.{kind}")) as reread:
        assert reread.ids.tolist() == ids.tolist()
        np.testing.assert_array_equal(reread.targets, targets)  # type: ignore[arg-type]
        assert reread.target_names == (names or ("target_0", "target_1")) or (
            not names and reread.target_names in ((), ("0", "1"))
        )
        assert (reread.labels is None) == (not labelled)
        if labelled:
            np.testing.assert_array_equal(reread.labels, source.labels)  # type: ignore[arg-type]


def test_targets_are_read_beside_labels_of_another_name(tmp_path: Path) -> None:
    aims = np.linspace(0, 1, 12)
    np.savez(tmp_path / "x.npz", fc=MAPS, labels=Y, target=aims)
    source = probes.open(tmp_path / "x.npz")
    assert source.layers == ["fc"]
    assert source.labels is not None
    assert source.labels.tolist() == Y.tolist()
    np.testing.assert_array_equal(source.targets, aims[:, None])  # type: ignore[arg-type]


def test_data_sets_in_groups_are_in_the_order_of_the_file(tmp_path: Path) -> None:
    for track in (True, False):
        with h5py.File(tmp_path / f"{track}.h5", "w", track_order=track) as file:
            group = file.create_group("net", track_order=track)
            for name in ("b10", "b2", "a"):
                group[name] = MAPS
            file["target"] = Y
        opened = probes.open(tmp_path / f"{track}.h5")
        assert opened.layers == ([f"net/{name}" for name in (("b10", "b2", "a") if track else ("a", "b2", "b10"))])
        assert opened.attrs["layer_order"].startswith("as written" if track else "natural order")
        assert opened.labels is not None
        opened.close()


def test_class_names_replace_or_accompany_labels(tmp_path: Path) -> None:
    names = np.array(["dog", "cat"], dtype=object)[Y]
    for arrays, expected, of in (({"label": Y}, ["dog", "cat"], Y), ({}, ["cat", "dog"], 1 - Y)):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["a"] = MAPS
            file["class_name"] = names
            for name, array in arrays.items():
                file[name] = array
        with probes.open(tmp_path / "x.h5") as opened:
            assert opened.class_names == expected
            assert (opened.labels == of).all()


def test_a_sparse_matrix_is_read_by_rows_and_one_by_columns_is_refused(tmp_path: Path) -> None:
    import anndata

    dense = MAPS.reshape(12, -1) * (MAPS.reshape(12, -1) > 0.5)
    for name, matrix in (("csr", csr_matrix(dense)), ("csc", csc_matrix(dense))):
        anndata.AnnData(X=matrix, layers={"raw": dense}).write_h5ad(tmp_path / f"{name}.h5ad")
    with probes.open(tmp_path / "csr.h5ad") as opened:
        np.testing.assert_array_equal(opened["X"], dense)
        np.testing.assert_array_equal(np.concatenate([batch.layers["X"] for batch in opened.iter(["X"], 5)]), dense)
    with pytest.warns(probes.IgnoredWarning, match=r"'X' left out, since it is stored by columns \(csc_matrix\)"):
        probes.open(tmp_path / "csc.h5ad").close()


@pytest.mark.parametrize("column", [pd.Categorical(["b", "a"] * 6), ["b", "a"] * 6, np.arange(12) % 2, [True, False] * 6])
def test_columns_of_obs_of_any_type_are_labels(column: Any, tmp_path: Path) -> None:
    import anndata

    anndata.AnnData(X=MAPS[:, :, 0, 0], obs=pd.DataFrame({"label": column}, index=[str(i) for i in range(12)])).write_h5ad(
        tmp_path / "x.h5ad"
    )
    with probes.open(tmp_path / "x.h5ad") as opened:
        assert opened.labels is not None
        assert len(set(opened.labels.tolist())) == 2
        assert opened.labels[0] != opened.labels[1]


def test_links_and_other_special_data_sets_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "pandas.h5", "w") as file:
        file.create_group("frame").attrs["pandas_type"] = "frame"
    with pytest.raises(probes.FormatError, match="is a store of pandas; read it with pandas.read_hdf"):
        probes.open(tmp_path / "pandas.h5")
    with h5py.File(tmp_path / "packed.nc", "w") as file:
        file["a"] = MAPS
        file["b"] = np.ones((12, 2), np.int16)
        file["b"].attrs["scale_factor"] = 0.1
    with pytest.warns(probes.IgnoredWarning, match="'b' left out, since its numbers are packed"):
        probes.open(tmp_path / "packed.nc").close()
    layout = h5py.VirtualLayout((12, 2), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "packed.nc", "a", (12, 2))
    with h5py.File(tmp_path / "virtual.h5", "w") as file:
        file.create_virtual_dataset("x", layout)
    with pytest.raises(probes.FormatError, match="the data of /x lies in another file"):
        probes.open(tmp_path / "virtual.h5")

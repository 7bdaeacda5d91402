"""Files of features as written by common tools: two layers of 12 samples, with labels, in every format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file

N = 12
RNG = np.random.default_rng(0)
EARLY, LATE = RNG.normal(size=(N, 3)).astype("f4"), RNG.normal(size=(N, 2, 2)).astype("f4")
LABELS = np.arange(N) % 3


def npy(path: Path) -> None:
    np.save(path, EARLY)


def folder(path: Path) -> None:
    path.mkdir()
    for name, array in (("layer10", LATE), ("layer2", EARLY), ("labels", LABELS)):
        np.save(path / f"{name}.npy", array)


def npz(path: Path) -> None:
    np.savez(path, layer2=EARLY, layer10=LATE, labels=LABELS)


def torch_file(path: Path) -> None:
    layers = {"layer2": torch.from_numpy(EARLY), "layer10": torch.from_numpy(LATE)}
    torch.save({"layers": layers, "labels": torch.from_numpy(LABELS), "epoch": 3}, path)


def safetensors(path: Path) -> None:
    save_file({"layer10": LATE, "layer2": EARLY, "labels": LABELS}, path)


def csv(path: Path) -> None:
    pd.DataFrame(EARLY, columns=["a", "b", "c"]).assign(label=LABELS).to_csv(path, sep="\t" if path.suffix == ".tsv" else ",")


def savetxt(path: Path) -> None:
    np.savetxt(path, EARLY)


def parquet(path: Path) -> None:
    pd.DataFrame({"embedding": list(EARLY), "label": [f"class {label}" for label in LABELS]}).to_parquet(path)


def netcdf(path: Path) -> None:
    import xarray

    layers = {"layer2": (("sample", "d2"), EARLY), "layer10": (("sample", "a", "b"), LATE)}
    xarray.Dataset(layers, {"label": ("sample", LABELS)}).to_netcdf(path, engine="h5netcdf")


def plain_h5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["net/layer10"], file["net/layer2"], file["labels"] = LATE, EARLY, LABELS


def h5ad(path: Path) -> None:
    import anndata

    obs = pd.DataFrame({"label": pd.Categorical([f"class {label}" for label in LABELS])}, index=[str(i + 5) for i in range(N)])
    anndata.AnnData(X=EARLY, obs=obs, obsm={"X_pca": EARLY[:, :2].copy()}).write_h5ad(path)


KINDS: dict[str, Callable[[Path], None]] = {
    "x.npy": npy, "folder": folder, "x.npz": npz, "x.pt": torch_file, "x.pth": torch_file, "x.safetensors": safetensors,
    "x.csv": csv, "x.tsv": csv, "x.txt": savetxt, "x.parquet": parquet, "x.nc": netcdf, "x.h5": plain_h5, "x.h5ad": h5ad,
}  # fmt: skip

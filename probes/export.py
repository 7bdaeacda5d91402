"""Activations for other programs: xarray, anndata, safetensors. Everything exported is read into memory.

The description of a layer (names of axes, pool, order and depth) is in the attributes (xarray, anndata) or in the
header (safetensors).
"""

from __future__ import annotations

import json
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.atomic_files import replacing
from probes.batch import LayerInfo
from probes.errors import UsageError
from probes.ids import are_texts
from probes.patterns import Patterns, select

if TYPE_CHECKING:
    import anndata
    import xarray

    from probes.source import Source

__all__ = ["to_anndata", "to_safetensors", "to_xarray"]


def to_xarray(source: Source, layers: Patterns = None) -> xarray.Dataset:
    """Layers as variables of one dataset over the dimension `sample`.

    Parameters
    ----------
    source : Source
        Activations.
    layers : str or sequence of str, optional
        Patterns; default all.

    Returns
    -------
    xarray.Dataset
        Variables named after the layers; coordinates `id`, `label`, `class_name`, `split`, `target` along `sample`. The other
        dimensions have the names `LAYER:channel` and so on, since layers have different widths.

    Raises
    ------
    UsageError
        If xarray is not installed, or a pattern matches nothing.
    """
    try:
        import xarray
    except ImportError as error:
        raise UsageError("to_xarray needs xarray: pip install 'repanalysis[export]'.") from error
    variables = {}
    for name in select(layers, source.info, source.name):
        info = source.info[name]
        variables[name] = (("sample", *(f"{name}:{dim}" for dim in info.dims[1:])), source[name], _described(info))
    coordinates: dict[str, Any] = {"id": ("sample", source.ids)}
    if (labels := source.labels) is not None:
        coordinates["label"] = ("sample", labels)
        if source.class_names is not None:
            coordinates["class_name"] = ("sample", np.append(source.class_names, "")[np.maximum(labels, -1)])
    if (targets := source.targets) is not None:
        coordinates["target"] = (("sample", "target_name"), targets)
        coordinates["target_name"] = list(source.target_names or map(str, range(targets.shape[1])))
    if (split := source.split) is not None:
        coordinates["split"] = ("sample", split)
    return xarray.Dataset(variables, coordinates, dict(source.attrs) | _class_names(source))


def to_anndata(source: Source, layer: str) -> anndata.AnnData:
    """One layer as an annotated matrix: samples are observations, features are variables.

    Parameters
    ----------
    source : Source
        Activations.
    layer : str
        A layer's name.

    Returns
    -------
    anndata.AnnData
        `X` of shape (n, features), with label, class_name, targets and split in `obs`, and the provenance in `uns`.

    Raises
    ------
    UsageError
        If anndata is not installed, or there is no such layer.
    """
    try:
        import anndata
    except ImportError as error:
        raise UsageError("to_anndata needs anndata: pip install 'repanalysis[export]'.") from error
    import pandas as pd

    x = source[layer]
    frame = pd.DataFrame(index=pd.Index(source.ids.astype(str), name="id"))
    uns: dict[str, Any] = {}
    if (labels := source.labels) is not None:
        frame["label"] = labels
        if source.class_names is not None:
            categories = np.array([*source.class_names, None], object)
            frame["class_name"] = pd.Categorical(categories[np.maximum(labels, -1)])
    if (targets := source.targets) is not None:
        names = list(source.target_names) or [f"target_{column}" for column in range(targets.shape[1])]
        if clashes := sorted({*names} & {"label", "class_name", "split"}):
            raise UsageError(f"A target is called {clashes[0]!r}, as what stands beside it is; rename it.")
        frame = frame.assign(**{name: targets[:, column] for column, name in enumerate(names)})
        uns["target_names"] = json.dumps(names)
    if (split := source.split) is not None:
        frame["split"] = pd.Categorical(split)
    flat = x.reshape(len(x), -1)
    variables = pd.DataFrame(index=pd.Index([str(feature) for feature in range(flat.shape[1])], name="feature"))
    described = _described(source.info[layer]) | {"shape": json.dumps(x.shape[1:])}
    uns |= {"layer": described, "provenance": dict(source.attrs), **_class_names(source)}
    return anndata.AnnData(X=flat, obs=frame, var=variables, uns=uns)


def to_safetensors(source: Source, path: str | PathLike[str], layers: Patterns = None) -> None:
    """Layers, `ids`, `labels`, `targets` and `split` (an index into the header's `splits`) as tensors of one safetensors file.

    Text ids are in its header, as JSON.

    Parameters
    ----------
    source : Source
        Activations.
    path : path-like
        File to write; it must not exist.
    layers : str or sequence of str, optional
        Patterns; default all.

    Raises
    ------
    UsageError
        If the file exists, a pattern matches nothing, or a layer has the name `ids`, `labels`, `targets` or `split`.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if path.exists():
        raise UsageError(f"{path} exists already; nothing was written. Give another name.")
    selected = select(layers, source.info, source.name)
    tensors = {name: np.ascontiguousarray(source[name]) for name in selected}
    ids = source.ids
    columns = {"ids": None if are_texts(ids) else ids, "labels": source.labels, "targets": source.targets}
    extra = {name: column for name, column in columns.items() if column is not None}
    splits: list[str] = []
    if source.split is not None:
        names, extra["split"] = np.unique(source.split, return_inverse=True)
        splits = [str(name) for name in names]
    if clash := sorted(tensors.keys() & extra.keys()):
        raise UsageError(f"A layer is called {clash[0]!r}, which is what the file calls the samples'; leave it out.")
    header = {key: value if isinstance(value, str) else json.dumps(value) for key, value in source.attrs.items()}
    if are_texts(ids):
        header["ids"] = json.dumps(ids.tolist())
    header["layers"] = json.dumps({name: _described(source.info[name]) for name in selected})
    header |= _class_names(source) | ({"target_names": json.dumps(source.target_names)} if source.target_names else {})
    if splits:
        header["splits"] = json.dumps(splits)
    with replacing(path) as draft:
        save_file(tensors | extra, draft, metadata=header)


def _class_names(source: Source) -> dict[str, str]:
    """Names of all classes, including those without samples."""
    return {} if source.class_names is None else {"class_names": json.dumps(source.class_names)}


def _described(info: LayerInfo) -> dict[str, Any]:
    """A layer's description in types of all formats."""
    return {key: json.dumps(value) if isinstance(value, tuple) else value for key, value in asdict(info).items()}

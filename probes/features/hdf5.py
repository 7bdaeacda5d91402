"""`.h5`, `.hdf5`, `.nc` and `.h5ad` files of other programs or of `probes.export`: read with h5py, a few rows at a time.

    plain HDF5    every data set, named by its path, with `/` between groups
    netCDF-4      every variable except dimensions without coordinates; labels, ids and splits are coordinates (xarray)
    AnnData       X, layers/NAME and obsm/NAME; labels, ids and splits are columns of obs

Links and data sets that refer to another file are refused, as in a file of activations.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from probes.errors import FormatError, ReportedError, reason_of
from probes.features.layout import Content, info_of
from probes.features.rows import ReadRows, Rows, SparseRows
from probes.labels import label_key
from probes.storage.store import _refuse_foreign

__all__ = ["read_hdf5"]


_OF_A_RECORDING = ("format", "format_version", "n_committed", "complete", "seal")  # attributes of the exported recording


def read_hdf5(path: Path) -> tuple[Content, h5py.File]:
    """The content of a file, and the open file.

    Raises
    ------
    FormatError
        If it is damaged, or refers to another file.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "it ends before its data does" if "truncated" in str(error) else reason_of(error)
        raise FormatError(f"{path} can't be read as an HDF5 file ({reason}); copy it again.") from error
    try:
        _refuse_foreign(file, path)
        content = _of_anndata(file, path) if file.attrs.get("encoding-type") == "anndata" else _of_groups(file, path)
    except ReportedError:
        file.close()
        raise
    except Exception as error:
        file.close()
        raise FormatError(f"{path} can't be read ({reason_of(error)}).") from error
    return content, file


def _of_groups(file: h5py.File, path: Path) -> Content:
    """Data sets of a plain or netCDF-4 file."""
    arrays: dict[str, Rows] = {}
    columns: dict[str, Any] = {}
    info = {}
    skipped: dict[str, str] = {}
    ordered = _is_ordered(file["/"])
    for name, data in _datasets(file, path):
        if data.attrs.get("CLASS") == b"DIMENSION_SCALE" and name != "target_name":
            continue  # a dimension without coordinates
        if "scale_factor" in data.attrs or "add_offset" in data.attrs:
            skipped[name] = "its numbers are packed (scale_factor, add_offset); write them as they are"
        elif data.shape is None or data.shape == ():
            continue
        else:
            arrays[name] = _rows(data)
        if {"dims", "pool", "order", "depth"} <= data.attrs.keys():
            info[name] = info_of(dict(data.attrs), str(path))
    attrs = _plain_attrs(file.attrs)
    if "class_names" in attrs:
        columns["class_names"] = json.loads(str(attrs.pop("class_names")))
    if "class_name" in arrays:
        _name_classes(columns, arrays, arrays.pop("class_name")[:], path)
    return Content(arrays, columns, info, attrs, ordered, skipped)


def _name_classes(columns: dict[str, Any], arrays: Mapping[str, Rows], sample_names: Any, path: Path) -> None:
    """Add class names from the class name of every sample; without labels, these names are the labels."""
    key = label_key((name for name in arrays if name not in ("target", "targets")), where=str(path), advice="")
    if key is None:
        columns["labels"] = sample_names
    elif "class_names" not in columns:
        labels = np.asarray(arrays[key][:])
        if labels.dtype.kind in "iu" and len(labels):
            name_of = dict(zip(labels.tolist(), sample_names.tolist(), strict=True))
            columns["class_names"] = [name_of.get(label, str(label)) for label in range(int(labels.max()) + 1)]


def _datasets(group: h5py.Group, path: Path, prefix: str = "") -> Iterator[tuple[str, h5py.Dataset]]:
    if "pandas_type" in group.attrs:
        raise FormatError(f"{path} is a store of pandas; read it with pandas.read_hdf, and write it with to_parquet.")
    for name, node in group.items():
        if isinstance(node, h5py.Group):
            yield from _datasets(node, path, f"{prefix}{name}/")
        elif isinstance(node, h5py.Dataset):
            yield prefix + name, node


def _is_ordered(group: h5py.Group) -> bool:
    """Whether a group and all groups in it store the order of creation, in which h5py then lists their entries."""
    tracked = bool(group.id.get_create_plist().get_link_creation_order())
    return tracked and all(_is_ordered(node) for node in group.values() if isinstance(node, h5py.Group))


def _rows(data: h5py.Dataset) -> Rows:
    """Rows of a data set, decoded if it holds text."""
    if h5py.check_string_dtype(data.dtype) is not None:
        return ReadRows(data.shape, np.dtype(np.str_), lambda rows: np.asarray(data.asstr()[rows], dtype=np.str_))
    return data  # type: ignore[no-any-return]


def _plain_attrs(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes that are a single text or number."""
    plain: dict[str, Any] = {}
    for key, value in attrs.items():
        item = value.item() if isinstance(value, np.generic | np.ndarray) and np.size(value) == 1 else value
        if isinstance(item, str | int | float) and not key.startswith("_") and key not in _OF_A_RECORDING:
            plain[key] = item
    return plain


def _of_anndata(file: h5py.File, path: Path) -> Content:
    """Content of an AnnData file."""
    arrays: dict[str, Rows] = {}
    skipped: dict[str, str] = {}
    uns = file.get("uns", {})
    described = {key: _value(item) for key, item in uns["layer"].items()} if "layer" in uns else {}
    info = {}
    parts = {"X": file["X"]} if "X" in file else {}
    parts |= {f"{group}/{name}": item for group in ("layers", "obsm") for name, item in file.get(group, {}).items()}
    for name, node in parts.items():
        rows, reason = _matrix(node)
        if rows is None:
            skipped[name] = reason
        elif name == "X" and "name" in described:
            shape = tuple(json.loads(described.pop("shape", "[]")))
            layer = info_of(described, str(path))
            arrays[layer.name], info[layer.name] = _shaped(rows, shape), layer
        else:
            arrays[name] = rows
    obs = file["obs"]
    columns: dict[str, Any] = {"ids": _column(obs[obs.attrs["_index"]])}
    annotations = {name: _column(node) for name, node in obs.items() if name != obs.attrs["_index"]}
    for key in ("class_names", "target_names"):
        if key in uns:
            columns[key] = json.loads(_value(uns[key]))
    if "target_names" in columns:
        columns["targets"] = np.stack([annotations.pop(name) for name in columns["target_names"]], axis=1)
    if "class_name" in annotations:
        _name_classes(columns, annotations, annotations.pop("class_name"), path)
    if (labels := label_key(annotations, where=str(path), advice="")) is not None:
        columns["labels"] = annotations[labels]
    if "split" in annotations:
        columns["split"] = annotations["split"]
    attrs = {key: _value(item) for key, item in uns.get("provenance", {}).items() if isinstance(item, h5py.Dataset)}
    return Content(arrays, columns, info, attrs, ordered=False, skipped=skipped)


def _shaped(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """Rows reshaped to the shape that they had before flattening."""
    if not shape or shape == rows.shape[1:] or int(np.prod(shape)) != rows.shape[1]:
        return rows
    return ReadRows(
        (rows.shape[0], *shape), rows.dtype, lambda part: (values := np.asarray(rows[part])).reshape(len(values), *shape)
    )


def _matrix(node: Any) -> tuple[Rows | None, str]:
    """The rows of a matrix in an AnnData file, or None and the reason why it can't be read."""
    kind = node.attrs.get("encoding-type", "")
    if isinstance(node, h5py.Dataset):
        return (None, "it is empty") if node.shape in (None, ()) else (_rows(node), "")
    if kind == "csr_matrix":
        shape = tuple(int(size) for size in node.attrs["shape"])
        return SparseRows(shape, node["data"], node["indices"], node["indptr"]), ""
    if kind == "csc_matrix":
        return None, "it is stored by columns (csc_matrix); store it by rows: X.tocsr()"
    return None, f"it is a {kind or 'group'}, no matrix"


def _value(node: Any) -> Any:
    """The value of a scalar data set."""
    value = node[()]
    return value.decode() if isinstance(value, bytes) else value.item() if isinstance(value, np.generic) else value


def _column(node: Any) -> NDArray[Any]:
    """A column of obs: plain, categorical or nullable."""
    if isinstance(node, h5py.Group):
        if "categories" in node:
            categories, codes = _column(node["categories"]), np.asarray(node["codes"][()])
            column: NDArray[Any] = categories.astype(object)[codes] if len(categories) else np.full(len(codes), None)
            if (codes < 0).any():
                column[codes < 0] = None
                return column
            return column.astype(categories.dtype)
        values = _column(node["values"]).astype(object)
        values[np.asarray(node["mask"][()], bool)] = None
        return values
    return np.asarray(_rows(node)[:])

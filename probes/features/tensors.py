"""Saved tensors in `.safetensors`, `.pt` and `.pth`, mapped into memory.

Files of torch are read by its weights-only loader, which runs no code in the file. They may hold a tensor or a dictionary of
tensors; keys of nested dictionaries are joined with `/`. A list of tensors is refused, since it may hold layers or batches.
Reading safetensors does not need torch.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from probes.errors import DataError, FormatError
from probes.features.layout import Content, info_of
from probes.features.rows import ReadRows, Rows

__all__ = ["read_safetensors", "read_torch"]

_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U64": "<u8", "U32": "<u4",
    "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_TEXT_COLUMNS = ("ids", "split")  # which `probes.export` stores in the header


def read_safetensors(path: Path) -> Content:
    """Tensors by name, with the labels and descriptions that `probes.export` stores in the header."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:  # checks the header
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise FormatError(f"{path} can't be read as a safetensors file; it is none, or was cut off.") from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    arrays: dict[str, Rows] = {}
    skipped: dict[str, str] = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        shape, (start, _) = tuple(entry["shape"]), entry["data_offsets"]
        if entry["dtype"] == "BF16":
            arrays[name] = _bfloat16(_mapped(path, np.dtype("<u2"), 8 + length + start, shape))
        elif entry["dtype"] in _TYPES:
            arrays[name] = _mapped(path, np.dtype(_TYPES[entry["dtype"]]), 8 + length + start, shape)
        else:
            skipped[name] = f"its type {entry['dtype']} is not read; save it as float32"
    attrs: dict[str, Any] = {}
    columns: dict[str, Any] = {}
    described: dict[str, Any] = {}
    for key, text in metadata.items():
        if key in ("layers", "class_names", "splits", "target_names") or (key in _TEXT_COLUMNS and text.startswith("[")):
            value = _parsed(path, key, text)
            if key == "layers":
                described = value if isinstance(value, dict) else {}
            else:
                columns[key] = value
        else:
            attrs[key] = text
    if "splits" in columns and "split" in arrays:
        columns["split"] = np.asarray(columns.pop("splits"), dtype=np.str_)[arrays["split"][:]]
    columns.pop("splits", None)
    info = {name: info_of(fields, str(path)) for name, fields in described.items() if name in arrays}
    return Content(arrays, columns, info, attrs, ordered=False, skipped=skipped)


def _parsed(path: Path, key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise FormatError(f"{path} holds {key} that are no JSON in its header.") from error


def _mapped(path: Path, dtype: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> Any:
    if not shape or 0 in shape:
        return np.zeros(shape, dtype)
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape)


def _bfloat16(bits: NDArray[np.uint16]) -> Rows:
    """bfloat16 numbers as float32, of which `bits` are the upper 16 bits."""
    return ReadRows(bits.shape, "bfloat16", lambda rows: (np.asarray(bits[rows], np.uint32) << np.uint32(16)).view(np.float32))


def read_torch(path: Path) -> Content:
    """A tensor, or a dictionary of tensors."""
    import torch

    loaded = _loaded(path)
    arrays: dict[str, Rows] = {}
    attrs: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for name, value in _leaves(loaded):
        if name in arrays or name in attrs or name in skipped:
            raise DataError(f"{path} holds two entries called {name!r}; give each its own name.")
        if isinstance(value, torch.Tensor):
            rows, reason = _rows_of(value)
            if rows is not None:
                arrays[name] = rows
            else:
                skipped[name] = reason
        elif isinstance(value, list | tuple) and value and all(isinstance(item, str | int | float) for item in value):
            arrays[name] = np.asarray(value)
        elif isinstance(value, list | tuple) and value:
            raise DataError(
                f"{path} holds a {type(value).__name__} called {name!r}, whose parts may be layers or batches: save a "
                f"dictionary of tensors, and join batches with torch.cat first."
            )
        elif isinstance(value, str | int | float):
            attrs[name] = value
        else:
            skipped[name] = f"it is a {type(value).__name__}, no tensor"
    return Content(arrays, attrs=attrs, skipped=skipped)


def _loaded(path: Path) -> Mapping[Any, Any]:
    """The tensors that the weights-only loader returns, as a dictionary."""
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about sparse tensors
            try:
                loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            except RuntimeError:  # files of older versions can't be mapped
                loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's message advises unsafe loading
        raise FormatError(
            f"{path} can't be read as a file of tensors: it was cut off, or holds Python objects (arrays of numpy among them), "
            f"which only unpickling reads. Save tensors alone: torch.save({{'layer': tensor, 'labels': labels}}, path)."
        ) from error
    if isinstance(loaded, torch.Tensor):
        loaded = {"features": loaded}
    if not isinstance(loaded, Mapping):
        raise DataError(
            f"{path} holds a {type(loaded).__name__}, whose parts may be layers or batches. Save a dictionary: "
            f"torch.save({{'layer': tensor, 'labels': labels}}, path); join batches with torch.cat first."
        )
    return loaded


def _leaves(value: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries by their keys joined with `/`."""
    for key, item in value.items():
        if isinstance(item, Mapping) and item:
            yield from _leaves(item, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", item


def _rows_of(tensor: Any) -> tuple[Rows | None, str]:
    """The rows of a tensor, or None and the reason why it can't be read."""
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized:
        return (
            None,
            f"it is {'quantized' if tensor.is_quantized else 'sparse'}; save it dense, with .to_dense() or .dequantize()",
        )
    plain = tensor.detach()
    unknown_to_numpy = (
        not plain.is_complex()
        and plain.is_floating_point()
        and plain.dtype not in (torch.float16, torch.float32, torch.float64)
    )
    if unknown_to_numpy:  # bfloat16 and the 8-bit types
        return ReadRows(
            tuple(plain.shape), str(plain.dtype).removeprefix("torch."), lambda rows: plain[rows].float().numpy()
        ), ""
    plain = plain.resolve_conj().resolve_neg()
    return plain.numpy(), ""

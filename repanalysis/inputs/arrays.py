"""`npz:FILE`: arrays that numpy saved, as images, tokens or numbers."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from probes.errors import FormatError, UsageError, did_you_mean
from probes.ids import as_ids
from probes.labels import Annotations, annotated, class_order, label_key, label_keys, split_of
from repanalysis.inputs.samples import Data, Pictures, Rows, Transform, as_tokens

__all__ = ["npz"]

_SAMPLES = ("x", "images", "image", "data", "inputs", "input")
_INTEGERS = ("tokens", "numbers")
_COLOURS = (1, 3, 4)


def npz(
    spec: str,
    text: str,
    split: str | None,
    transform: Transform | None,
    colours: int,
    *,
    tokens: bool,
    ignore: Collection[int] | None = (),
) -> Data:
    """Arrays x and y of a file, or x_train, y_train, x_test, ..."""
    name, comma, option = text.rpartition(",integers=")
    path = Path(name if comma else text)
    if comma and option not in _INTEGERS:
        raise UsageError(
            f"Integers can't be {option!r}.{did_you_mean(option, _INTEGERS)} Write integers=tokens or integers=numbers."
        )
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            key, own = _keys(file.files, split, path, labels=ignore is not None)
            x = file[key]
            labels = None if own is None else file[own]
            texts = [] if labels is None or labels.dtype.kind not in "US" else [file[name] for name in _all_labels(file.files)]
    except (ValueError, OSError, EOFError, BadZipFile, zlib.error, NotImplementedError) as error:
        if isinstance(error, UsageError):
            raise
        raise FormatError(f"{path} can't be read as an npz file of plain arrays ({error}).") from error
    if labels is not None and len(labels) != len(x):
        raise FormatError(f"{path} has {len(x)} samples and {len(labels)} labels; each sample needs one.")
    annotations = Annotations()
    if labels is not None:
        named = labels.dtype.kind in "US"
        classes = class_order(name for part in texts for name in part.astype(str).ravel().tolist() if name) if named else None
        annotations = annotated(labels, what=f"The labels {own} of {path}", class_names=classes, ignore=ignore or ())
    if annotations.note:
        warnings.warn(annotations.note, stacklevel=3)
    x, kind = _arrays(x, f"{key} of {path}", option if comma else "tokens" if tokens else "")
    rows = np.arange(len(x))
    ids = rows if split is None else as_ids([f"{split}/{row}" for row in range(len(x))])  # the splits hold different samples
    if kind == "images" and transform is not None:
        data = Data(spec, Pictures(x, colours), ids, annotations.labels, annotations.class_names, split, transform, rows)
    else:
        own_transform = as_tokens if kind == "tokens" else None
        data = Data(spec, Rows(x), ids, annotations.labels, annotations.class_names, split, own_transform, rows)
    return replace(data, targets=annotations.targets, labels_from=own or "")


def _keys(names: Sequence[str], split: str | None, path: Path, *, labels: bool) -> tuple[str, str | None]:
    """Names of the arrays with the samples of a split and their labels."""
    ending = "" if split is None else f"_{split}"
    splits = {name: of for name in names if (of := split_of(name, _SAMPLES)) is not None}
    own = split_of(f"x{ending}", _SAMPLES)
    keys = [name for name, of in splits.items() if of == own]
    if f"x{ending}" in names:
        keys = [f"x{ending}"]
    if not keys:
        split_names = sorted({of for of in splits.values() if of})
        choice = f" It has the splits {', '.join(split_names)}: choose one with --split." if split_names else ""
        raise UsageError(f"{path} has no array 'x{ending}'.{choice}")
    if len(keys) > 1:
        raise UsageError(f"{path} has {' and '.join(map(repr, keys[:3]))}, and each may hold the samples; leave one.")
    return keys[0], label_key(label_keys(names, split), where=str(path)) if labels else None


def _all_labels(names: Sequence[str]) -> list[str]:
    """The labels of all splits, so that texts have the same class numbers in every split."""
    return [name for name in names if split_of(name, ("y", "label", "labels", "target", "targets", "class", "cls")) is not None]


def _arrays(x: NDArray[Any], name: str, integers: str) -> tuple[NDArray[Any], Literal["images", "tokens", "numbers"]]:
    """Stored samples in the form of `as_tensor` and `as_tokens`, and their kind.

    Parameters
    ----------
    x : (n, ...) array
        Samples as stored.
    name : str
        For messages.
    integers : {"tokens", "numbers", ""}
        Meaning of integers; "" if it is not given.
    """
    if x.dtype.kind not in "iubf":
        raise FormatError(f"{name} holds {x.dtype}; numbers are needed.")
    pixels = x.dtype == np.uint8 and x.ndim in (3, 4, 5)
    if x.dtype.kind in "iu" and integers == "tokens" and not (pixels and x.ndim > 3):
        return x, "tokens"
    if integers == "numbers" or x.dtype.kind in "bf":
        return x.astype(np.float32) if x.dtype == np.uint8 else x, "numbers"
    if x.dtype == np.uint8 and not pixels:
        raise UsageError(
            f"{name} holds 8-bit numbers in shape {x.shape}, which are not images; write npz:FILE,integers=tokens for token "
            f"ids, or integers=numbers for numbers as they are."
        )
    if not pixels:
        warnings.warn(
            f"{name} holds {x.dtype}, and the network gets float32; npz:FILE,integers=tokens keeps integers, and "
            f"integers=numbers says that this is meant.",
            UserWarning,
            stacklevel=4,
        )
        return x, "numbers"
    if x.ndim == 3:
        return x, "images"
    axes = [axis for axis in ((1, 3) if x.ndim == 4 else (1, 2, 4)) if x.shape[axis] in _COLOURS]
    if len(axes) != 1:
        raise UsageError(
            f"{name} has the shape {x.shape}, in which {len(axes)} axes may be the colours; store it as float32, colours first."
        )
    return (np.moveaxis(x, axes[0], -1), "images") if x.ndim == 4 else (np.moveaxis(x, axes[0], 1), "numbers")

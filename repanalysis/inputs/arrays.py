"""`npz:FILE`: arrays that numpy saved, as images, tokens or numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probes.errors import FormatError, UsageError, did_you_mean
from probes.ids import as_ids
from repanalysis.inputs.samples import Data, Pictures, Rows, Transform, as_tokens

__all__ = ["npz"]

_INTEGERS = ("tokens", "numbers")
_COLOURS = (1, 3, 4)


def npz(spec: str, text: str, split: str | None, transform: Transform | None, colours: int, *, tokens: bool) -> Data:
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
            names = set(file.files)
            ending = "" if split is None else f"_{split}"
            if f"x{ending}" not in names:
                splits = sorted(name[2:] for name in names if name.startswith("x_"))
                choice = f" It has the splits {', '.join(splits)}: choose one with --split." if splits else ""
                raise UsageError(f"{path} has no array 'x{ending}'.{choice}")
            x = file[f"x{ending}"]
            labels = file[f"y{ending}"].reshape(-1) if f"y{ending}" in names else None
            texts = [file[name] for name in sorted(names) if name == "y" or name.startswith("y_")]
    except (ValueError, OSError) as error:
        if isinstance(error, UsageError):
            raise
        raise FormatError(f"{path} can't be read as an npz file of plain arrays ({error}).") from error
    if labels is not None and len(labels) != len(x):
        raise FormatError(f"{path} has {len(x)} samples and {len(labels)} labels; each sample needs one.")
    classes = None
    if labels is not None and labels.dtype.kind in "US":
        classes = sorted({str(label) for part in texts for label in part.reshape(-1).astype(str)})  # the same in every split
        labels = np.searchsorted(classes, labels.astype(str))
    elif labels is not None and (labels.dtype.kind not in "iubf" or not np.array_equal(labels, np.trunc(labels))):
        raise FormatError(f"The labels y{ending} of {path} are no classes; store one integer per sample, or leave them out.")
    labels = None if labels is None else labels.astype(np.int64)
    x, kind = _arrays(x, f"x{ending} of {path}", option if comma else "tokens" if tokens else "")
    rows = np.arange(len(x))
    ids = rows if split is None else as_ids([f"{split}/{row}" for row in range(len(x))])  # the splits hold different samples
    if kind == "images" and transform is not None:
        return Data(spec, Pictures(x, colours), ids, labels, classes, split, transform, rows)
    return Data(spec, Rows(x), ids, labels, classes, split, as_tokens if kind == "tokens" else None, rows)


def _arrays(x: NDArray[Any], name: str, integers: str) -> tuple[NDArray[Any], Literal["images", "tokens", "numbers"]]:
    """Stored samples as `as_tensor` and `as_tokens` take them, and what they are.

    Parameters
    ----------
    x : (n, ...) array
        As stored.
    name : str
        For messages.
    integers : {"tokens", "numbers", ""}
        What integers are; "" if nobody says it.
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
            f"{name} holds 8-bit numbers in shape {x.shape}, which are no images; write npz:FILE,integers=tokens for token "
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

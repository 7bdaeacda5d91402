"""`CaptureOptions`: every option of `capture` and `record` that decides what a file holds, and how a file names it.

The signatures of `capture` and `record` declare the options; a test holds that each of them is a field here, or is listed there
as one that changes nothing. A file that is continued must have the same ones, and `verify` runs the network with them again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from probes.errors import FormatError

__all__ = ["CaptureOptions"]

_LEAVES = "leaf calls"


@dataclass(frozen=True)
class CaptureOptions:
    """What of a network is kept, and how it is run; each field an attribute of the file.

    Attributes
    ----------
    layers : tuple of str or None
        Patterns; None for every leaf call.
    pool : str
        Pools by pattern, `"layer4*=none; mean"`, with the seeds of projections.
    ops : bool
        Whether operations that are no modules are layers.
    prefix_tokens : int or None
        As stated; None where it is measured.
    dtype : str
        Type that is kept.
    seed : int
        Of projections.
    split : str
        Name of the split that all samples belong to; empty where there is none.
    precision : str
        What the network computes in.
    channels_last : bool
        Memory of the images.
    axes : str
        Axes as stated, `"blocks.*=TBC"`.
    forward : str
        What ran in place of the model, see `probes.capturing.network.description_of`; empty where the model itself ran.
    batch_size : int
        Samples of a forward pass, which change results by rounding; 0 where the loader does not say it.

    Examples
    --------
    >>> options = CaptureOptions(layers=("relu?",), prefix_tokens=1)
    >>> options.to_attrs()["layers"], options.to_attrs()["prefix_tokens"]
    ('["relu?"]', 1)
    >>> CaptureOptions.from_attrs(options.to_attrs()) == options
    True
    """

    layers: tuple[str, ...] | None = None
    pool: str = "mean"
    ops: bool = False
    prefix_tokens: int | None = None
    dtype: str = "auto"
    seed: int = 0
    split: str = ""
    precision: str = "float32"
    channels_last: bool = False
    axes: str = ""
    forward: str = ""
    batch_size: int = 0

    def to_attrs(self) -> dict[str, str | int]:
        """The options as attributes of a file."""
        attrs = {field.name: getattr(self, field.name) for field in fields(self)}
        attrs |= {name: int(value) for name, value in attrs.items() if isinstance(value, bool)}
        attrs["layers"] = _LEAVES if self.layers is None else json.dumps(self.layers, ensure_ascii=False)
        attrs["prefix_tokens"] = "auto" if self.prefix_tokens is None else self.prefix_tokens
        return attrs

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> Self:
        """The options that a file names; what older files do not name was not an option then.

        Raises
        ------
        FormatError
            If an attribute is not of the type that it must have.
        """
        given = {field.name: attrs[field.name] for field in fields(cls) if field.name in attrs}
        for name in ("ops", "channels_last"):
            if name in given and given[name] in (0, 1):
                given[name] = bool(given[name])
        if "layers" in given:
            given["layers"] = None if given["layers"] == _LEAVES else _patterns(given["layers"])
        if given.get("prefix_tokens") == "auto":
            given["prefix_tokens"] = None
        defaults = cls()
        for name, value in given.items():
            kind = {"layers": tuple, "prefix_tokens": int}.get(name, type(getattr(defaults, name)))
            if type(value) is not kind and value is not getattr(defaults, name):
                raise FormatError(f"The file's attribute {name} is {value!r}, which is none of its values.")
        return cls(**given)

    def arguments(self) -> dict[str, Any]:
        """Arguments of `capture` and `record`, but for `forward`, which a file names and does not hold."""
        return {
            "layers": self.layers, "pool": self.pool.split("; "), "ops": self.ops, "prefix_tokens": self.prefix_tokens,
            "dtype": self.dtype, "seed": self.seed, "split": self.split or None, "precision": self.precision,
            "channels_last": self.channels_last, "axes": self.axes.split("; ") if self.axes else None,
            "batch_size": self.batch_size or 64,
        }  # fmt: skip


def _patterns(text: Any) -> tuple[str, ...]:
    """Patterns as older files name them, too: JSON, or one as it is."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        value = text
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise FormatError(f"The file's attribute layers is {text!r}, which names no layers.")
    return tuple(patterns)

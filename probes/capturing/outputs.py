"""Flattening of module outputs: nested tuples, lists, mappings and dataclasses."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["parts_of"]


def parts_of(output: object, key: str = "") -> Iterator[tuple[str, object]]:
    """The leaves of a nested output and their dotted keys; tuples, lists, mappings and dataclasses are flattened.

    Examples
    --------
    >>> list(parts_of({"a": 1, "b": (2, [3])}))
    [('a', 1), ('b.0', 2), ('b.1.0', 3)]
    """
    items: Iterable[tuple[Any, object]]
    if isinstance(output, Mapping):
        items = output.items()
    elif is_dataclass(output) and not isinstance(output, type):
        items = ((part.name, getattr(output, part.name)) for part in fields(output))
    elif isinstance(output, list | tuple):
        items = enumerate(output)
    else:
        yield key, output
        return
    for inner, value in items:
        yield from parts_of(value, f"{key}.{inner}" if key else str(inner))

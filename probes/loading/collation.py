"""Does a collate function keep the order of samples? Sequences are often sorted by length, and some functions draw at random.

One that is not torch's is called a second time, with the first sample moved to the end: what keeps the order of samples then
gives the same rows, the first of them at the end.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import xxhash
from torch.utils.data import default_collate
from torch.utils.data._utils.collate import default_convert

from probes.loading.inputs import as_tensors, tensors_in
from probes.loading.loaders import row_hashes, stacked

__all__ = ["Collated", "InOrder", "keeps_order"]


class Collated(NamedTuple):
    """A batch, and whether its rows are in the order of the samples."""

    content: Any
    in_order: bool


@dataclass(frozen=True)
class InOrder:
    """A collate function that also says whether it kept the order of samples.

    Examples
    --------
    >>> samples = [torch.zeros(3), torch.ones(3)]
    >>> InOrder(torch.stack)(samples).in_order
    True
    >>> InOrder(lambda samples: torch.stack(sorted(samples, key=torch.sum)))(samples).in_order
    False
    """

    collate: Callable[[list[Any]], Any]

    def __call__(self, samples: list[Any]) -> Collated:
        """The batch; what the function draws from torch the second time, it draws as if it had not."""
        content = self.collate(_copied(samples))
        try:
            with torch.random.fork_rng(devices=[]):
                again = self.collate(_turned(_copied(samples)))
            rows = _hashes(content, len(samples))
            return Collated(content, in_order=bool(rows) and _turned(rows) == _hashes(again, len(samples)))
        except Exception:  # whatever goes wrong in somebody's function: the order is then not known
            return Collated(content, in_order=False)


def keeps_order(collate: Callable[..., Any]) -> bool:
    """Whether a collate function is known to keep the order of samples: torch's own, or one with an attribute `keeps_order`."""
    return collate in (default_collate, default_convert, stacked) or bool(getattr(collate, "keeps_order", False))


def _turned(entries: list[Any]) -> list[Any]:
    return entries[1:] + entries[:1]


def _copied(samples: list[Any]) -> list[Any]:
    """A list that a collate function may sort, of mappings that it may take entries out of."""
    return [copy.copy(sample) if isinstance(sample, dict | list) else sample for sample in samples]


def _hashes(content: Any, rows: int) -> list[int]:
    """A hash of what a batch holds of each sample; empty where it has no row, or entry, per sample."""
    content = as_tensors(content)
    if isinstance(content, list | tuple) and all(isinstance(part, list | tuple) and len(part) == rows for part in content):
        entries = [list(tensors_in(entry)) for entry in zip(*content, strict=True)]  # as detection has it: (images, targets)
        return [
            xxhash.xxh3_64_intdigest(b"".join(tensor.numpy(force=True).tobytes() for tensor in own)) for own in entries if own
        ]
    hashes = row_hashes(content)
    return hashes if len(hashes) == rows else []

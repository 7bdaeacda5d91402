"""Whether a collate function keeps the order of samples. Some sort sequences by length, some draw at random.

A function other than torch's is called twice, the second time with the first sample moved to the end. If it keeps the order,
the second result has the same rows, with the first one at the end.
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
    """A collate function that also checks whether it kept the order of samples.

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
        """The batch. The state of torch's random generator is that after one call."""
        content = self.collate(_copied(samples))
        try:
            with torch.random.fork_rng(devices=[]):
                again = self.collate(_turned(_copied(samples)))
            rows = _hashes(content, len(samples))
            return Collated(content, in_order=bool(rows) and _turned(rows) == _hashes(again, len(samples)))
        except Exception:  # any error in a user's function: the order is then unknown
            return Collated(content, in_order=False)


def keeps_order(collate: Callable[..., Any]) -> bool:
    """Whether a collate function is known to keep the order of samples: torch's own, or one with an attribute `keeps_order`."""
    return collate in (default_collate, default_convert, stacked) or bool(getattr(collate, "keeps_order", False))


def _turned(entries: list[Any]) -> list[Any]:
    return entries[1:] + entries[:1]


def _copied(samples: list[Any]) -> list[Any]:
    """A copy that a collate function may change: a list that it may sort, of mappings whose entries it may remove."""
    return [copy.copy(sample) if isinstance(sample, dict | list) else sample for sample in samples]


def _hashes(content: Any, rows: int) -> list[int]:
    """A hash of each sample's part of a batch; empty if the batch has no row or entry per sample."""
    content = as_tensors(content)
    if isinstance(content, list | tuple) and all(isinstance(part, list | tuple) and len(part) == rows for part in content):
        entries = [list(tensors_in(entry)) for entry in zip(*content, strict=True)]  # as in detection: (images, targets)
        return [
            xxhash.xxh3_64_intdigest(b"".join(tensor.numpy(force=True).tobytes() for tensor in own)) for own in entries if own
        ]
    hashes = row_hashes(content)
    return hashes if len(hashes) == rows else []

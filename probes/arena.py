"""Memory for small things that live between large ones: blocks outside the heap, handed out front to back.

A forward pass frees and allocates activations of tens of megabytes all the time, and the heap gives one's room to the next
of the same size. Whatever small thing is put there in between and stays, be it the 200 bytes of a tensor's head, makes the
hole too small, and the process grows: by 800 MB under hand-written hooks on a vision transformer (benchmarks/extract.py),
and the pages that it takes anew cost time. So what a pass keeps lies here, and until the pass has ended no tensor stands
for it, only a `Place`.
"""

from __future__ import annotations

import mmap
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Arena", "Place"]

_BLOCK = 4 << 20
_LINE = 64  # bytes; what a processor reads at a time


class Place(NamedTuple):
    """Where a tensor lies: `tensor()` makes it, without a copy."""

    memory: Tensor
    start: int
    stop: int
    dtype: torch.dtype
    shape: torch.Size

    def tensor(self) -> Tensor:
        """The tensor at this place."""
        return self.memory[self.start : self.stop].view(self.dtype).view(self.shape)


class Arena:
    """Blocks of memory outside the heap; a block is given back once nothing in it is used any more.

    Parameters
    ----------
    expected : int, default 0
        Bytes that will be asked for, as far as that is known: they then lie in one block.

    Examples
    --------
    >>> place = Arena().put(torch.arange(3.0))
    >>> place.tensor()
    tensor([0., 1., 2.])
    """

    def __init__(self, expected: int = 0) -> None:
        self.used = 0
        self._next = max(expected, _BLOCK)
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._free = 0

    def put(self, x: Tensor) -> Place:
        """Copy a tensor to this memory, contiguous; one on an accelerator is copied where it is."""
        size = prod(x.shape) * x.element_size()
        if x.device.type != "cpu":
            return Place(x.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8), 0, size, x.dtype, x.shape)
        taken = -(-size // _LINE) * _LINE
        if self._free + size > len(self._memory):
            block = mmap.mmap(-1, max(self._next, taken, 1))
            self._memory = torch.frombuffer(block, dtype=torch.uint8)
            self._next, self._free = _BLOCK, 0
        place = Place(self._memory, self._free, self._free + size, x.dtype, x.shape)
        place.tensor().copy_(x)
        self._free += taken
        self.used += taken
        return place

"""Memory for small things that live between large ones: blocks outside the heap, handed out front to back.

A forward pass frees and allocates activations of tens of megabytes all the time, and the heap gives one's room to the next
of the same size. Whatever small thing is put there in between and stays, be it the 200 bytes of a tensor's head, makes the
hole too small, and the process grows: by 800 MB under hand-written hooks on a vision transformer (benchmarks/extract.py),
and the pages that it takes anew cost time. So what a pass keeps lies here, and until the pass has ended no tensor stands
for it, only a `Place`.
"""

from __future__ import annotations

import mmap
import sys
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Arena", "Place"]

_BLOCK = 4 << 20
_LINE = 64  # bytes; what a processor reads at a time
_SPARE = 4  # blocks of earlier passes that may be used again: one is read, one is queued, one is written
_UNUSED = 2  # references to a block that nothing points into: the list's, and that of getrefcount itself


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
    previous : Arena, optional
        One whose time is over. As many bytes as it gave out will lie in one block, and its blocks are used again where
        nothing points into them any more: fresh pages cost as much as what is written to them.

    Examples
    --------
    >>> place = Arena().put(torch.arange(3.0))
    >>> place.tensor()
    tensor([0., 1., 2.])
    """

    def __init__(self, previous: Arena | None = None) -> None:
        self.used = 0
        self._next = max(previous.used if previous else 0, _BLOCK)
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._free = 0
        self._blocks: list[mmap.mmap] = []
        self._old: list[mmap.mmap] = []
        if previous:
            previous._memory = self._memory
            self._old = [*previous._blocks, *previous._old][:_SPARE]
            previous._blocks, previous._old = [], []

    def put(self, x: Tensor) -> Place:
        """Copy a tensor to this memory, contiguous; one on an accelerator is copied where it is."""
        size = prod(x.shape) * x.element_size()
        if x.device.type != "cpu":
            return Place(x.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8), 0, size, x.dtype, x.shape)
        taken = -(-size // _LINE) * _LINE
        if self._free + size > len(self._memory):
            self._memory = torch.frombuffer(self._block(max(self._next, taken, 1)), dtype=torch.uint8)
            self._next, self._free = _BLOCK, 0
        place = Place(self._memory, self._free, self._free + size, x.dtype, x.shape)
        place.tensor().copy_(x)
        self._free += taken
        self.used += taken
        return place

    def _block(self, size: int) -> mmap.mmap:
        """A block that nothing points into: one of before that is large enough, or a new one."""
        for index in range(len(self._old)):
            # The tensor over a block holds a reference to it until the last of its views is gone.
            if size <= len(self._old[index]) <= 2 * size and sys.getrefcount(self._old[index]) == _UNUSED:
                return self._kept(self._old.pop(index))
        return self._kept(mmap.mmap(-1, size))

    def _kept(self, block: mmap.mmap) -> mmap.mmap:
        self._blocks.append(block)
        return block

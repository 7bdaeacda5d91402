"""Memory outside the heap for what the hooks of a forward pass keep.

Small tensors that stay between large ones break the heap into pieces. A forward pass frees and allocates activations of tens of
megabytes all the time. Where a small tensor, be it the 200 bytes of its header, lies in the room that one of them has left,
the next does not fit, and the process grows: by 800 MB under hand-written hooks on a vision transformer
(benchmarks/extract.py). So what a pass keeps is copied to memory-mapped blocks, one after the other, and is held as a
`BufferView`, which makes its tensor or array when it is asked for.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["BufferPool", "BufferView"]

_BLOCK = 4 << 20
_LINE = 64  # bytes; what a processor reads at a time
_SPARE = 4  # blocks of earlier passes that may be used again: one is read, one is queued, one is written
_UNUSED = 2  # references to a block that nothing points into: the list's, and that of getrefcount itself
_NUMPY = {
    torch.float16: np.dtype(np.float16), torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64),
}  # fmt: skip


class BufferView(NamedTuple):
    """A contiguous tensor in a block, or one of its own on an accelerator.

    Attributes
    ----------
    memory : mmap.mmap or torch.Tensor
        The block; on an accelerator, the tensor.
    offset : int
        First byte in the block.
    dtype : torch.dtype
        Element type.
    shape : tuple of int
        Shape.
    """

    memory: mmap.mmap | Tensor
    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def tensor(self) -> Tensor:
        """The tensor, without a copy."""
        if isinstance(self.memory, Tensor):
            return self.memory
        count = prod(self.shape)
        if not count:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(self.memory, dtype=self.dtype, count=count, offset=self.offset).view(self.shape)

    def array(self) -> NDArray[Any]:
        """The array: without a copy on the CPU, copied from an accelerator."""
        dtype = _NUMPY.get(self.dtype)
        if dtype is None or isinstance(self.memory, Tensor):
            array: NDArray[Any] = self.tensor().cpu().numpy()
            return array
        return np.ndarray(self.shape, dtype, self.memory, self.offset)


class BufferPool:
    """Blocks of memory outside the heap; a block is returned to the system once nothing in it is used any more.

    Examples
    --------
    >>> view = BufferPool().put(torch.arange(3.0))
    >>> view.tensor()
    tensor([0., 1., 2.])
    """

    def __init__(self) -> None:
        self.used = 0  # bytes handed out since the last restart
        self._next = _BLOCK
        self._memory: mmap.mmap | None = None
        self._free = self._stop = 0
        self._blocks: list[mmap.mmap] = []
        self._old: list[mmap.mmap] = []

    def restart(self) -> None:
        """Begin another pass, in other memory than what still is in use.

        As many bytes as the pass before took will lie in one block. Blocks are used again where nothing points into them any
        more: fresh pages cost as much as what is written to them.
        """
        if not self.used:
            return
        self._next, self.used = max(self.used, _BLOCK), 0
        self._memory, self._free, self._stop = None, 0, 0
        self._old, self._blocks = [*self._blocks, *self._old][:_SPARE], []

    def put(self, x: Tensor) -> BufferView:
        """Copy a tensor to this memory, contiguous; one on an accelerator is copied where it is."""
        if not x.is_cpu:
            return BufferView(x.clone(memory_format=torch.contiguous_format), 0, x.dtype, tuple(x.shape))
        view = self.reserve(x.shape, x.dtype, x.element_size())
        view.tensor().copy_(x)
        return view

    def reserve(self, shape: Sequence[int], dtype: torch.dtype, itemsize: int) -> BufferView:
        """Memory on the CPU for a tensor that is still to be written."""
        size = -(-prod(shape) * itemsize // _LINE) * _LINE
        offset = self._free
        if self._memory is None or offset + size > self._stop:
            self._memory = self._block(max(self._next, size))
            self._next, self._stop, offset = _BLOCK, len(self._memory), 0
        self._free = offset + size
        self.used += size
        return BufferView(self._memory, offset, dtype, tuple(shape))

    def _block(self, size: int) -> mmap.mmap:
        """A block that nothing points into: one of before that is large enough, or a new one."""
        for index in range(len(self._old)):
            # Every view, tensor and array over a block holds a reference to it.
            if size <= len(self._old[index]) <= 2 * size and sys.getrefcount(self._old[index]) == _UNUSED:
                self._blocks.append(self._old.pop(index))
                return self._blocks[-1]
        self._blocks.append(mmap.mmap(-1, size))
        return self._blocks[-1]

"""Memory outside the heap for the tensors that hooks record in a forward pass.

Small tensors kept between large ones fragment the heap. A forward pass allocates and frees activations of tens of megabytes.
If a small tensor, even the 200 bytes of its header, lies in the space that one of them left, the next one does not fit there,
and the process grows: by 800 MB under hand-written hooks on a vision transformer (benchmarks/extract.py). So recorded tensors
are copied to memory-mapped blocks, one after the other. A `BufferView` builds the tensor or array on access.

Successive passes mostly record tensors of the same shapes. So the block and the tensors to write to are prepared before a pass,
next to each other on the heap. A reused block has them already.
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
_LINE = 64  # bytes of a cache line; views are aligned to it
_SPARE = 4  # blocks of earlier passes kept for reuse: one is read, one is queued, one is written
_NUMPY: dict[torch.dtype, np.dtype[Any]] = {
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
    shape : tuple of int
        Shape.
    dtype : torch.dtype
        Element type.
    prepared : torch.Tensor, optional
        The tensor to write to, if the pool has prepared it. It is valid only during the pass.
    """

    memory: mmap.mmap | Tensor
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    prepared: Tensor | None = None

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


def _size(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes of a tensor in a block, rounded up to cache lines."""
    return -(-prod(shape) * dtype.itemsize // _LINE) * _LINE


class _Block:
    """Memory-mapped pages and the views prepared in them, in order."""

    def __init__(self, size: int) -> None:
        self.memory = mmap.mmap(-1, size)
        self.views: list[BufferView] = []

    def prepare(self, kinds: Sequence[tuple[tuple[int, ...], torch.dtype]]) -> None:
        """Prepare views of these shapes and types."""
        if [(view.shape, view.dtype) for view in self.views] == kinds:
            return
        self.views, offset = [], 0
        for shape, dtype in kinds:
            view = BufferView(self.memory, offset, shape, dtype)
            self.views.append(view._replace(prepared=view.tensor()))
            offset += _size(shape, dtype)

    def is_unused(self) -> bool:
        """Whether only the prepared views and their tensors refer to the memory."""
        prepared = sum(2 if prod(view.shape) else 1 for view in self.views)
        return sys.getrefcount(self.memory) == prepared + 2  # the attribute's, and that of getrefcount itself


class BufferPool:
    """Blocks of memory outside the heap; a block is freed once no view, tensor or array refers to it.

    Examples
    --------
    >>> view = BufferPool().put(torch.arange(3.0))
    >>> view.tensor()
    tensor([0., 1., 2.])
    """

    def __init__(self) -> None:
        self._views: list[BufferView] = []  # views reserved in this pass
        self._prepared: list[BufferView] = []  # views that this pass is expected to reserve
        self._block: _Block | None = None
        self._free = 0  # first free byte in the block, after the first request that differs from the prepared views
        self._blocks: list[_Block] = []
        self._old: list[_Block] = []

    def restart(self) -> None:
        """Begin another pass, in memory that is not in use.

        Prepares one block for the shapes of the previous pass. The views of that pass become invalid: a block is reused once
        no tensor or array built from a view points into it. Reuse matters, since allocating new pages costs as much as
        writing to them.
        """
        if not self._views:
            return
        kinds = [(view.shape, view.dtype) for view in self._views]
        self._old, self._blocks = [*self._blocks, *self._old][:_SPARE], []
        self._views, self._prepared, self._block = [], [], None
        self._block = self._allocate(sum(_size(*kind) for kind in kinds))
        self._block.prepare(kinds)
        self._prepared = self._block.views

    def put(self, x: Tensor) -> BufferView:
        """Copy a tensor, contiguously, to this memory; a tensor on an accelerator is copied on its device."""
        if not x.is_cpu:
            return BufferView(x.clone(memory_format=torch.contiguous_format), 0, tuple(x.shape), x.dtype)
        view = self.reserve(tuple(x.shape), x.dtype)
        (view.tensor() if view.prepared is None else view.prepared).copy_(x)
        return view

    def reserve(self, shape: tuple[int, ...], dtype: torch.dtype) -> BufferView:
        """A view on uninitialised CPU memory, which the caller fills."""
        index = len(self._views)
        if index < len(self._prepared):
            view = self._prepared[index]
            if view.shape == shape and view.dtype == dtype:
                self._views.append(view)
                return view
        if self._block is not None and self._prepared:
            # The request differs from that of the previous pass. Later views follow the ones that are reserved.
            self._free = sum(_size(view.shape, view.dtype) for view in self._prepared[:index])
            self._block.views, self._prepared = self._prepared[:index], []
        size = _size(shape, dtype)
        if self._block is None or self._free + size > len(self._block.memory):
            self._block, self._free = self._allocate(size), 0
            self._block.views = []
        view = BufferView(self._block.memory, self._free, shape, dtype)
        self._free += size
        self._views.append(view)
        return view

    def _allocate(self, size: int) -> _Block:
        """An unused block of at least `size` bytes: an old one that is large enough, or a new one."""
        size = max(size, _BLOCK)
        for block in self._old:
            if size <= len(block.memory) <= 2 * size and block.is_unused():
                self._old.remove(block)
                break
        else:
            block = _Block(size)
        self._blocks.append(block)
        return block

"""Memory outside the heap for what a forward pass keeps."""

import gc
import mmap
import weakref

import numpy as np
import pytest
import torch

from probes.arena import BufferPool

DTYPES = [torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.int64]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_copy_is_equal_contiguous_and_shares_no_memory(dtype: torch.dtype) -> None:
    pool = BufferPool()
    pool.put(torch.zeros(3))  # so that the next view is not the first of its block
    for x in (torch.randn(4, 3).to(dtype).T, torch.randn(5).to(dtype), torch.randn(1, 2, 3, 4).to(dtype)[..., ::2]):
        copy = pool.put(x).tensor()
        assert torch.equal(copy, x)
        assert copy.dtype == dtype
        assert copy.is_contiguous()
        before = copy.clone()
        x.zero_()
        assert torch.equal(copy, before)


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != torch.bfloat16])
def test_an_array_shows_the_memory_of_its_view(dtype: torch.dtype) -> None:
    x = (100 * torch.randn(4, 3)).to(dtype)
    view = BufferPool().put(x)
    array = view.array()
    np.testing.assert_array_equal(array, x.numpy(), strict=True)
    view.tensor().zero_()
    assert not array.any()


def test_what_is_written_to_a_reserved_view_is_in_its_array() -> None:
    pool = BufferPool()
    views = [pool.reserve((2, 3), torch.float32, 4) for _ in range(3)]
    for value, view in enumerate(views):
        view.tensor().fill_(value)
    assert [view.array().tolist() for view in views] == [[[float(value)] * 3] * 2 for value in range(3)]


def test_views_do_not_overlap_however_many_blocks_they_need() -> None:
    pool = BufferPool()
    sizes = (1, 7, 500, 3_000_000, 2, 1 << 20, 65)
    views = [pool.put(torch.full((size,), float(size))) for size in sizes]
    for view, size in zip(views, sizes, strict=True):
        assert torch.equal(view.tensor(), torch.full((size,), float(size)))


def test_an_empty_tensor_has_a_view() -> None:
    view = BufferPool().put(torch.empty(0, 3))
    assert view.tensor().shape == (0, 3)
    assert view.array().shape == (0, 3)


def test_from_the_second_pass_on_everything_lies_in_one_block() -> None:
    pool = BufferPool()
    tensors = [torch.ones(1_000_003), torch.ones(77), torch.ones(2_000_001)]
    first = [pool.put(x) for x in tensors]
    assert len({id(view.memory) for view in first}) > 1
    pool.restart()
    pool.restart()  # nothing was put since: what is expected of the next pass stays
    second = [pool.put(x) for x in tensors]
    assert len({id(view.memory) for view in second}) == 1
    assert pool.used >= sum(x.nbytes for x in tensors)


def test_memory_is_given_back_with_the_last_array_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Block(mmap.mmap):  # one that can be watched
        pass

    watched = []

    def block(*args: int) -> Block:
        new = Block(*args)
        watched.append(weakref.ref(new))
        return new

    monkeypatch.setattr("probes.arena.mmap.mmap", block)
    pool = BufferPool()
    view = pool.put(torch.ones(8))
    arrays = [view.array(), view.tensor().numpy()]
    del pool, view
    gc.collect()
    while arrays:
        assert watched[0]() is not None
        assert arrays.pop().sum() == 8
        gc.collect()
    assert watched[0]() is None


@pytest.mark.parametrize("holder", ["array", "part of an array", "tensor", "array of a tensor", "view"])
def test_a_block_is_used_again_only_when_nothing_points_into_it(holder: str) -> None:
    pool = BufferPool()
    view = pool.put(torch.ones(8))
    address = view.tensor().data_ptr()
    held = {
        "array": view.array,
        "part of an array": lambda: view.array()[2:],
        "tensor": view.tensor,
        "array of a tensor": lambda: view.tensor().numpy(),
        "view": lambda: view,
    }[holder]()
    del view
    pool.restart()
    other = pool.put(torch.zeros(8))
    assert other.tensor().data_ptr() != address
    assert holder == "view" or float(held.sum()) == len(held)
    del held
    pool.restart()
    assert pool.put(torch.full((8,), 2.0)).tensor().data_ptr() == address
    assert not other.tensor().any()

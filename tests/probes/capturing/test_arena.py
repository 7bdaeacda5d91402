"""Memory outside the heap for the recorded outputs of a forward pass."""

import gc
import mmap
import weakref

import numpy as np
import pytest
import torch

from probes.capturing.arena import BufferPool

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
def test_an_array_shares_the_memory_of_its_view(dtype: torch.dtype) -> None:
    x = (100 * torch.randn(4, 3)).to(dtype)
    view = BufferPool().put(x)
    array = view.array()
    np.testing.assert_array_equal(array, x.numpy(), strict=True)
    view.tensor().zero_()
    assert not array.any()


def test_values_written_to_a_reserved_view_are_in_its_array() -> None:
    pool = BufferPool()
    views = [pool.reserve((2, 3), torch.float32) for _ in range(3)]
    for value, view in enumerate(views):
        view.tensor().fill_(value)
    assert [view.array().tolist() for view in views] == [[[float(value)] * 3] * 2 for value in range(3)]


def test_views_in_several_blocks_do_not_overlap() -> None:
    pool = BufferPool()
    sizes = (1, 7, 500, 3_000_000, 2, 1 << 20, 65)
    views = [pool.put(torch.full((size,), float(size))) for size in sizes]
    for view, size in zip(views, sizes, strict=True):
        assert torch.equal(view.tensor(), torch.full((size,), float(size)))


def test_an_empty_tensor_has_a_view() -> None:
    view = BufferPool().put(torch.empty(0, 3))
    assert view.tensor().shape == (0, 3)
    assert view.array().shape == (0, 3)


def test_from_the_second_pass_on_all_views_are_in_one_block() -> None:
    pool = BufferPool()
    tensors = [torch.ones(1_000_003), torch.ones(77), torch.ones(2_000_001)]
    first = [pool.put(x) for x in tensors]
    assert len({id(view.memory) for view in first}) > 1
    pool.restart()
    pool.restart()  # no views since: the expected layout of the next pass is kept
    second = [pool.put(x) for x in tensors]
    assert len({id(view.memory) for view in second}) == 1
    for view, x in zip(second, tensors, strict=True):
        assert torch.equal(view.tensor(), x)


@pytest.mark.parametrize(
    "shapes", [[(4,), (2, 3), (1,)], [(4,), (3, 2), (5,)], [(9,)], [(4,)], [(4,), (2, 3), (1,), (7, 7), (2_000_000,)]]
)
def test_a_pass_may_differ_from_the_pass_before(shapes: list[tuple[int, ...]]) -> None:
    """The expected views are prepared; other or additional views do not overlap and are intact."""
    pool, passes = BufferPool(), []
    for number, shapes_of_pass in enumerate([[(4,), (2, 3), (1,)], shapes, [(4,), (2, 3), (1,)], shapes, shapes]):
        pool.restart()
        views = [pool.put(torch.full(shape, float(10 * number + i))) for i, shape in enumerate(shapes_of_pass)]
        passes.append([view.array() for view in views])
    for number, arrays in enumerate(passes):
        for i, array in enumerate(arrays):
            assert (array == 10 * number + i).all()
    everything = [array for arrays in passes for array in arrays]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(everything) for b in everything[:i])


def test_memory_is_released_with_the_last_array_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Block(mmap.mmap):  # supports weak references
        pass

    watched = []

    def block(*args: int) -> Block:
        new = Block(*args)
        watched.append(weakref.ref(new))
        return new

    monkeypatch.setattr("probes.capturing.arena.mmap.mmap", block)
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


def test_prepared_views_do_not_prevent_reuse_of_a_block() -> None:
    pool = BufferPool()
    addresses = []
    for _ in range(5):
        pool.restart()
        views = [pool.put(torch.ones(8)), pool.put(torch.empty(0)), pool.put(torch.ones(3, 2))]
        addresses.append(views[0].tensor().data_ptr())
        del views
    assert len(set(addresses)) == 1


@pytest.mark.parametrize("holder", ["array", "part of an array", "tensor", "array of a tensor"])
def test_a_block_is_reused_only_without_references_into_it(holder: str) -> None:
    pool = BufferPool()
    view = pool.put(torch.ones(8))
    address = view.tensor().data_ptr()
    references = {
        "array": view.array,
        "part of an array": lambda: view.array()[2:],
        "tensor": view.tensor,
        "array of a tensor": lambda: view.tensor().numpy(),
    }[holder]()
    del view
    pool.restart()
    later = pool.put(torch.zeros(8)).array()
    assert later.ctypes.data != address
    assert float(references.sum()) == len(references)
    del references
    pool.restart()
    assert pool.put(torch.full((8,), 2.0)).tensor().data_ptr() == address
    assert not later.any()

"""Memory outside the heap for what a forward pass keeps."""

import gc
import mmap
import weakref

import pytest
import torch

from probes.arena import Arena


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_a_copy_is_equal_contiguous_and_shares_no_memory(dtype: torch.dtype) -> None:
    arena = Arena()
    arena.put(torch.zeros(3))  # so that the next place is not the first of its block
    for x in (torch.randn(4, 3).to(dtype).T, torch.randn(5).to(dtype), torch.randn(1, 2, 3, 4).to(dtype)[..., ::2]):
        kept = arena.put(x).tensor()
        assert torch.equal(kept, x)
        assert kept.dtype == dtype
        assert kept.is_contiguous()
        before = kept.clone()
        x.zero_()
        assert torch.equal(kept, before)


def test_places_do_not_overlap_however_many_blocks_they_need() -> None:
    arena = Arena()
    kept = [arena.put(torch.full((size,), float(size))) for size in (1, 7, 500, 3_000_000, 2, 1 << 20, 65)]
    for place, size in zip(kept, (1, 7, 500, 3_000_000, 2, 1 << 20, 65), strict=True):
        assert torch.equal(place.tensor(), torch.full((size,), float(size)))


def test_an_empty_tensor_has_a_place() -> None:
    assert Arena().put(torch.empty(0, 3)).tensor().shape == (0, 3)


def test_what_the_previous_arena_gave_out_lies_in_one_block() -> None:
    first = Arena()
    tensors = [torch.ones(1_000_003), torch.ones(77), torch.ones(2_000_001)]
    for x in tensors:
        first.put(x)
    second = Arena(first)
    places = [second.put(x) for x in tensors]
    assert len({place.memory.data_ptr() for place in places}) == 1
    assert second.used >= sum(x.nbytes for x in tensors)


def test_memory_is_given_back_with_the_last_tensor_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Block(mmap.mmap):  # one that can be watched
        pass

    watched = []

    def block(*args: int) -> Block:
        made = Block(*args)
        watched.append(weakref.ref(made))
        return made

    monkeypatch.setattr("probes.arena.mmap.mmap", block)
    arena = Arena()
    kept = arena.put(torch.ones(8)).tensor()
    array = kept.numpy()
    del arena, kept
    gc.collect()
    assert watched[0]() is not None
    assert array.sum() == 8
    del array
    gc.collect()
    assert watched[0]() is None


def test_a_block_is_used_again_only_when_nothing_points_into_it() -> None:
    first = Arena()
    kept = first.put(torch.ones(8)).tensor().numpy()
    second = Arena(first)
    other = second.put(torch.zeros(8)).tensor()
    assert other.data_ptr() != kept.ctypes.data
    assert kept.sum() == 8
    address = kept.ctypes.data
    del kept
    third = Arena(second)
    assert third.put(torch.full((8,), 2.0)).tensor().data_ptr() == address
    assert not other.any()

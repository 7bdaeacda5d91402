"""Pools: the value, and that nothing kept holds on to the map it came from."""

from __future__ import annotations

import pytest
import torch

from probes import UsageError
from probes.pooling import POOLS, keep, pool_named

MAP, TOKENS, LAST = (
    ("sample", "channel", "height", "width"),
    ("sample", "token", "channel"),
    ("sample", "height", "width", "channel"),
)


def test_values() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(keep(x, MAP, POOLS["mean"])[0], x.mean((2, 3)))
    assert torch.equal(keep(x, MAP, POOLS["max"])[0], x.amax((2, 3)))
    assert torch.equal(keep(x, MAP, POOLS["flatten"])[0], x.reshape(2, 60))
    assert torch.equal(keep(x, MAP, POOLS["none"])[0], x)
    assert torch.equal(keep(x[0], TOKENS, POOLS["mean"])[0], x[0].mean(1))
    assert torch.equal(keep(x, LAST, POOLS["mean"])[0], x.mean((1, 2)))


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_what_is_kept_owns_contiguous_memory(name: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape, requires_grad=True)
    dims = {1: ("sample",), 2: ("sample", "channel"), 3: TOKENS, 4: MAP}[len(shape)]
    kept, kept_dims = keep(x, dims, POOLS[name])
    assert kept.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()
    assert kept.untyped_storage().nbytes() == kept.nbytes
    assert kept.is_contiguous()
    assert not kept.requires_grad
    assert len(kept_dims) == kept.ndim >= 2


def test_channels_last_memory_is_kept_in_the_order_of_its_axes() -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    for name in ("none", "flatten"):
        kept = keep(x, MAP, POOLS[name])[0]
        assert kept.is_contiguous()
        assert torch.equal(kept.reshape(2, -1), x.contiguous().reshape(2, -1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_float32(dtype: torch.dtype) -> None:
    x = torch.full((1, 1, 300, 300), 3.0, dtype=dtype)  # the sum, 270000, overflows float16
    kept, _ = keep(x, MAP, POOLS["mean"])
    assert kept.dtype == torch.float32
    assert kept.item() == 3.0
    assert keep(x, MAP, POOLS["none"])[0].dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(UsageError, match="Unknown pool 'meen'. Did you mean 'mean'?"):
        pool_named("meen")

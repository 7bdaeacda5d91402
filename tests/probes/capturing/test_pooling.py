"""Pools: their values, and that a pooled copy does not keep the whole map in memory."""

from __future__ import annotations

import re

import pytest
import torch

from probes import UsageError
from probes.capturing.arena import BufferPool
from probes.capturing.pooling import POOLS, Layout, Pooling, UnfitError, apply_pool, pool_named

MAP, TOKENS, LAST = (
    Layout(("sample", "channel", "height", "width")),
    Layout(("sample", "token", "channel")),
    Layout(("sample", "height", "width", "channel")),
)
EVERY = ["mean", "max", "mean_std", "cls", "tokens", "flatten", "none", "grid:2", "project:3"]


def test_values_of_pools_on_a_map() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(apply_pool(x, MAP, POOLS["mean"])[0], x.mean((2, 3)))
    assert torch.equal(apply_pool(x, MAP, POOLS["max"])[0], x.amax((2, 3)))
    assert torch.equal(apply_pool(x, MAP, POOLS["flatten"])[0], x.reshape(2, 60))
    assert torch.equal(apply_pool(x, MAP, POOLS["none"])[0], x)
    assert torch.equal(apply_pool(x[0], TOKENS, POOLS["mean"])[0], x[0].mean(1))
    assert torch.equal(apply_pool(x, LAST, POOLS["mean"])[0], x.mean((1, 2)))


def test_every_pool_is_tested() -> None:
    assert {name.partition(":")[0] for name in EVERY} == set(POOLS)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(2,), (2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_pools_give_detached_tensors_and_name_their_axes(name: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape, requires_grad=True)
    layouts = {1: Layout(("sample",)), 2: Layout(("sample", "channel")), 3: Layout(TOKENS.dims, prefix=1), 4: MAP}
    try:
        pooled, dims = apply_pool(x, layouts[len(shape)], pool_named(name)[1])
    except UnfitError:
        assert (name, len(shape)) in {("cls", 4), ("grid:2", 3)}  # no prefix token; two tokens are not a square
        return
    assert not pooled.requires_grad
    assert len(dims) == pooled.ndim >= 2


def test_channels_last_memory_is_copied_in_the_order_of_its_axes() -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    for name in ("none", "flatten"):
        pooled = BufferPool().put(apply_pool(x, MAP, POOLS[name])[0]).tensor()
        assert pooled.is_contiguous()
        assert torch.equal(pooled.reshape(2, -1), x.contiguous().reshape(2, -1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_float32(dtype: torch.dtype) -> None:
    x = torch.full((1, 1, 300, 300), 3.0, dtype=dtype)  # the sum, 270000, overflows float16
    pooled, _ = apply_pool(x, MAP, POOLS["mean"])
    assert pooled.dtype == torch.float32
    assert pooled.item() == 3.0
    assert apply_pool(x, MAP, POOLS["none"])[0].dtype == (torch.float32 if dtype == torch.bfloat16 else dtype)


def test_an_unknown_pool_is_refused() -> None:
    with pytest.raises(UsageError, match="Unknown pool 'meen'. Did you mean 'mean'?"):
        pool_named("meen")


def test_prefix_tokens_are_not_averaged_with_positions() -> None:
    x, layout = torch.randn(2, 5, 3), Layout(TOKENS.dims, prefix=1)
    assert torch.equal(apply_pool(x, layout, POOLS["mean"])[0], x[:, 1:].mean(1))
    assert torch.equal(apply_pool(x, layout, POOLS["max"])[0], x[:, 1:].amax(1))
    assert torch.equal(apply_pool(x, layout, POOLS["tokens"])[0], x[:, 1:])
    assert torch.equal(apply_pool(x, layout, POOLS["cls"])[0], x[:, 0])
    assert apply_pool(x, layout, POOLS["cls"])[1] == ("sample", "channel")
    assert torch.equal(apply_pool(x, layout, POOLS["none"])[0], x)
    grid, dims = apply_pool(x, layout, pool_named("grid:2")[1])
    assert dims == ("sample", "channel", "height", "width")
    assert torch.equal(grid, x[:, 1:].transpose(1, 2).reshape(2, 3, 2, 2))


def test_heads_are_not_averaged() -> None:
    x = torch.randn(2, 3, 5, 4)
    pooled, dims = apply_pool(x, Layout(("sample", "head", "token", "channel"), prefix=1), POOLS["mean"])
    assert dims == ("sample", "head", "channel")
    assert torch.equal(pooled, x[:, :, 1:].mean(2))


def test_mean_and_standard_deviation() -> None:
    x = torch.randn(2, 3, 4, 5)
    pooled, dims = apply_pool(x, MAP, POOLS["mean_std"])
    assert dims == ("sample", "statistic", "channel")
    torch.testing.assert_close(pooled[:, 0], x.mean((2, 3)))
    torch.testing.assert_close(pooled[:, 1], torch.from_numpy(x.flatten(2).numpy().std(2)))


@pytest.mark.parametrize("layout", [MAP, LAST], ids=["first", "last"])
def test_a_grid_has_the_means_of_its_cells(layout: Layout) -> None:
    x = torch.randn(2, 8, 8, 8)
    channels_first = x if layout is MAP else x.movedim(3, 1)
    pooled, dims = apply_pool(x, layout, pool_named("grid:4")[1])
    assert dims == MAP.dims
    torch.testing.assert_close(pooled, channels_first.unflatten(3, (4, 2)).unflatten(2, (4, 2)).mean((3, 5)))
    assert torch.equal(apply_pool(x, layout, pool_named("grid:8")[1])[0], channels_first)


def test_a_projection_agrees_with_scikit_learn_and_keeps_distances() -> None:
    from sklearn.random_projection import SparseRandomProjection

    x = torch.randn(50, 4, 16, 16)
    pooled = apply_pool(x, MAP, pool_named("project:400,seed=3")[1])[0]
    flat = x.flatten(1).double().numpy()
    oracle = SparseRandomProjection(n_components=400, density="auto", random_state=3).fit(flat)
    torch.testing.assert_close(pooled.double(), torch.from_numpy(oracle.transform(flat)), rtol=1e-4, atol=1e-4)
    ratio = torch.pdist(pooled) / torch.pdist(x.flatten(1))
    assert (ratio - 1).abs().mean() < 0.1  # Johnson and Lindenstrauss: about sqrt(1 / 2k) each
    assert pool_named("project:400", seed=3)[0] == "project:400,seed=3"
    assert torch.equal(apply_pool(x[:, :1, :2, :2], MAP, pool_named("project:400")[1])[0], x[:, :1, :2, :2].flatten(1))


def test_values_beyond_the_type_become_infinite() -> None:
    pooled, _ = apply_pool(torch.tensor([[1e5, 1.0]]), Layout(("sample", "channel")), POOLS["none"], torch.float16)
    assert pooled.tolist() == [[float("inf"), 1.0]]


def test_pools_are_selected_by_pattern() -> None:
    pooling = Pooling({"type:Conv2d": "grid:2", "layer4*": "none", "*": "max"})
    names = [pooling.of(name, types)[0] for name, types in (("a", ["Conv2d"]), ("layer4.1", ["ReLU"]), ("b", []))]
    assert names == ["grid:2", "none", "max"]
    assert Pooling("layer4*=none").of("stem", [])[0] == "mean"
    assert Pooling(["re:a=?b=project:8,seed=1"]).of("a=b", [])[0] == "project:8,seed=1"
    assert not Pooling("layer9*=none").matched["layer9*"]


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("meen", "Unknown pool 'meen'. Did you mean 'mean'?"),
        ("a*=meen", "Unknown pool 'meen'"),
        ("grid", "Pool 'grid' needs a size of at least 1; write it like grid:4."),
        ("grid:0", "needs a size of at least 1"),
        ("grid:x", "needs a size of at least 1"),
        ("grid:2,seed=1", "needs a size"),
        ("mean:3", "Pool 'mean:3' takes no size; write mean."),
        ("", "Unknown pool ''"),
    ],
)
def test_invalid_pools_are_refused(spec: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=re.escape(sentence)):
        Pooling(spec)

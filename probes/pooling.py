"""What is kept of one activation: pool, then copy, so that no view keeps a whole map alive.

A pool is a function `(x, dims) -> (kept, kept_dims)`; the dictionary `POOLS` names them. `x` has its samples first, and
`dims` says which axis is the channel: everything else (space, tokens) is what the pools reduce.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from probes.errors import UsageError, did_you_mean

__all__ = ["POOLS", "keep", "pool_named"]

Dims = tuple[str, ...]
Pool = Callable[[Tensor, Dims], tuple[Tensor, Dims]]


def _inner(dims: Dims) -> list[int]:
    return [axis for axis, dim in enumerate(dims) if dim not in ("sample", "channel")]


def mean(x: Tensor, dims: Dims) -> tuple[Tensor, Dims]:
    """Mean over space or tokens, (n, ...) -> (n, channels); half precision is summed in float32.

    Examples
    --------
    >>> mean(torch.arange(8.0).reshape(1, 2, 2, 2), ("sample", "channel", "height", "width"))[0]
    tensor([[1.5000, 5.5000]])
    """
    if not (inner := _inner(dims)):
        return x, dims
    dtype = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else None
    return x.mean(inner, dtype=dtype), ("sample", "channel")


def maximum(x: Tensor, dims: Dims) -> tuple[Tensor, Dims]:
    """Maximum over space or tokens, (n, ...) -> (n, channels)."""
    return (x.amax(inner), ("sample", "channel")) if (inner := _inner(dims)) else (x, dims)


def flatten(x: Tensor, dims: Dims) -> tuple[Tensor, Dims]:
    """All axes of a sample in one, (n, ...) -> (n, features), in memory order of the output's shape."""
    return x.reshape(len(x), prod(x.shape[1:])), ("sample", "feature")


def none(x: Tensor, dims: Dims) -> tuple[Tensor, Dims]:
    """The whole output as it is."""
    return x, dims


POOLS: dict[str, Pool] = {"mean": mean, "max": maximum, "flatten": flatten, "none": none}


def pool_named(name: str) -> Pool:
    """The pool called `name`.

    Raises
    ------
    UsageError
        If there is none of that name.
    """
    if name not in POOLS:
        raise UsageError(f"Unknown pool {name!r}.{did_you_mean(name, POOLS)} Known are {', '.join(POOLS)}.")
    return POOLS[name]


def keep(x: Tensor, dims: Dims, pool: Pool) -> tuple[Tensor, Dims]:
    """Pool one activation and own the result.

    Parameters
    ----------
    x : torch.Tensor
        Floating-point output of a module, samples first.
    dims : tuple of str
        Its axes.
    pool : Pool
        One of `POOLS`.

    Returns
    -------
    kept : torch.Tensor
        Detached, contiguous, with memory of its own; bfloat16, which neither numpy nor HDF5 knows, as float32.
    kept_dims : tuple of str
        Its axes.
    """
    x = x.detach()
    kept, kept_dims = pool(x, dims)
    if kept.dtype == torch.bfloat16:
        kept = kept.float()
    if kept.ndim == 1:
        kept, kept_dims = kept[:, None], ("sample", "channel")
    if not kept.is_contiguous() or kept.untyped_storage().data_ptr() == x.untyped_storage().data_ptr():
        kept = kept.clone(memory_format=torch.contiguous_format)
    return kept, kept_dims

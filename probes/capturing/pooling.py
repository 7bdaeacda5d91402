"""Pools: functions that reduce an activation to what is recorded of it.

A pool is a function `(x, layout) -> (pooled, pooled_dims)`; the dictionary `POOLS` lists them by name. `x` has its samples
first. The layout names the axes and gives the number of prefix tokens (CLS, registers) at the front. Pools reduce the axes of
positions and never mix prefix tokens with them. `Pooling` selects a pool for each layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, partial
from math import isqrt, prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from probes.capturing.axes import UNPOOLED, Layout, UnfitError
from probes.errors import UsageError, did_you_mean
from probes.patterns import matches
from probes.specs import parse_spec

__all__ = ["DTYPES", "POOLS", "Layout", "Pooling", "Pools", "UnfitError", "apply_pool", "averaging_factor", "pool_named"]

Dims = tuple[str, ...]
Pools = str | Mapping[str, str] | Sequence[str]
_LARGEST_SIZE = 2**24  # of the pools grid and project
DTYPES: dict[str, torch.dtype | None] = {"auto": None, "float32": torch.float32, "float16": torch.float16}
HALF = (torch.float16, torch.bfloat16)
AVERAGING = ("mean", "mean_std", "grid")


Pool = Callable[[Tensor, Layout], tuple[Tensor, Dims]]


def _without_prefix(x: Tensor, layout: Layout) -> tuple[Tensor, list[int], Dims]:
    """The activation without its prefix tokens, the axes of positions, and the names of the other axes."""
    for axis in (axis for axis, dim in enumerate(layout.dims) if dim in ("token", "key")) if layout.prefix else ():
        if x.shape[axis] > layout.prefix:  # prefix tokens are retained if there are no other tokens
            x = x.narrow(axis, layout.prefix, x.shape[axis] - layout.prefix)
    return x, *_split_axes(layout.dims)


@lru_cache(maxsize=1024)
def _split_axes(dims: Dims) -> tuple[list[int], Dims]:
    """The axes of positions, and the names of the other axes."""
    return [axis for axis, dim in enumerate(dims) if dim not in UNPOOLED], tuple(dim for dim in dims if dim in UNPOOLED)


def mean_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which the pool `mean` sums and returns its result, for an activation of type `dtype`."""
    return torch.float32 if dtype in HALF else dtype


def _broadcast_mask(x: Tensor, layout: Layout, positions: list[int]) -> Tensor | None:
    """The padding mask with as many axes as `x`, of size 1 except along samples and positions; None without a mask."""
    if layout.mask is None or not positions:
        return None
    mask = layout.mask[:, layout.prefix :]
    return mask.reshape(len(x), *(x.shape[axis] if axis in positions else 1 for axis in range(1, x.ndim)))


def mean(x: Tensor, layout: Layout, out: Tensor | None = None) -> tuple[Tensor, Dims]:
    """Mean over all positions except padding, (n, ...) -> (n, channels); half precision is summed in float32.

    A sample that consists of padding only gets NaN. Without a mask the mean is written to `out` if that is given. An activation
    without positions is returned unchanged.

    Examples
    --------
    >>> mean(torch.arange(8.0).reshape(1, 2, 2, 2), Layout(("sample", "channel", "height", "width")))[0]
    tensor([[1.5000, 5.5000]])
    """
    x, positions, dims = _without_prefix(x, layout)
    if (mask := _broadcast_mask(x, layout, positions)) is not None:
        x = x.float() if x.dtype in HALF else x
        return torch.where(mask, x, 0).sum(positions) / mask.sum(positions), dims
    return (torch.mean(x, positions, dtype=mean_dtype(x.dtype), out=out), dims) if positions else (x, layout.dims)


def maximum(x: Tensor, layout: Layout) -> tuple[Tensor, Dims]:
    """Maximum over all positions except padding, (n, ...) -> (n, channels)."""
    x, positions, dims = _without_prefix(x, layout)
    if (mask := _broadcast_mask(x, layout, positions)) is not None:
        x = torch.where(mask, x, -torch.inf)
    return (x.amax(positions), dims) if positions else (x, layout.dims)


def mean_std(x: Tensor, layout: Layout) -> tuple[Tensor, Dims]:
    """Mean and population standard deviation over all positions except padding, (n, ...) -> (n, 2, channels).

    An activation without positions is returned unchanged.

    Examples
    --------
    >>> mean_std(torch.tensor([[[1.0], [3.0]]]), Layout(("sample", "token", "channel")))[0].tolist()
    [[[2.0], [1.0]]]
    """
    x, positions, dims = _without_prefix(x, layout)
    if not positions:
        return x, layout.dims
    x = x.float() if x.dtype in HALF else x
    if (mask := _broadcast_mask(x, layout, positions)) is not None:
        average = torch.where(mask, x, 0).sum(positions, keepdim=True) / mask.sum(positions, keepdim=True)
        std = (torch.where(mask, x - average, 0).square().sum(positions) / mask.sum(positions)).sqrt()
        return torch.stack([average.squeeze(positions), std], dim=1), ("sample", "statistic", *dims[1:])
    std, average = torch.std_mean(x, positions, correction=0)
    return torch.stack([average, std], dim=1), ("sample", "statistic", *dims[1:])


def cls(x: Tensor, layout: Layout) -> tuple[Tensor, Dims]:
    """The first prefix token, (n, tokens, channels) -> (n, channels); a vector is returned unchanged."""
    if layout.prefix:
        axis = layout.dims.index("token")
        return x.select(axis, 0), tuple(dim for dim in layout.dims if dim != "token")
    if len(layout.dims) > 2:
        raise UnfitError("it has no prefix token for the pool cls")
    return x, layout.dims


def tokens(x: Tensor, layout: Layout) -> tuple[Tensor, Dims]:
    """All tokens except the prefix tokens; an activation without prefix tokens is returned unchanged."""
    return _without_prefix(x, layout)[0], layout.dims


def flatten(x: Tensor, layout: Layout) -> tuple[Tensor, Dims]:
    """All axes of a sample flattened in row-major order, (n, ...) -> (n, features)."""
    return x.reshape(len(x), prod(x.shape[1:])), ("sample", "feature")


def none(x: Tensor, layout: Layout) -> tuple[Tensor, Dims]:
    """The whole output unchanged."""
    return x, layout.dims


def grid(x: Tensor, layout: Layout, *, size: int) -> tuple[Tensor, Dims]:
    """Means over a grid of G x G cells, (n, ...) -> (n, channels, G, G); a smaller map or a vector is not averaged.

    Tokens are arranged as a square map; prefix tokens are dropped.

    Examples
    --------
    >>> grid(torch.arange(16.0).reshape(1, 1, 4, 4), Layout(("sample", "channel", "height", "width")), size=2)[0].tolist()
    [[[[2.5, 4.5], [10.5, 12.5]]]]
    """
    x, positions, _ = _without_prefix(x, layout)
    if not positions:
        return x, layout.dims
    if layout.dims == ("sample", "token", "channel"):
        side = isqrt(x.shape[1])
        if side * side != x.shape[1]:
            raise UnfitError(f"its {x.shape[1]} tokens do not form a square, which the pool grid needs")
        x = x.transpose(1, 2).reshape(len(x), x.shape[2], side, side)
    elif set(layout.dims) != {"sample", "channel", "height", "width"}:
        raise UnfitError(f"its axes {', '.join(layout.dims[1:])} are not those of a map, which the pool grid needs")
    else:
        x = x.movedim(layout.dims.index("channel"), 1)
    dims = ("sample", "channel", "height", "width")
    if min(x.shape[2:]) <= size:
        return x, dims
    half = x.dtype in HALF
    return adaptive_avg_pool2d(x.float() if half else x, size), dims


def project(x: Tensor, layout: Layout, *, size: int, seed: int = 0) -> tuple[Tensor, Dims]:
    """Very sparse random projection of the flattened activation, (n, ...) -> (n, k); k or fewer features are only flattened.

    The matrix R (k, d) is scikit-learn's `SparseRandomProjection(n_components=k, density="auto", random_state=seed)`: entries
    0, and +-sqrt(s / k) with probability 1 / 2s each, s = sqrt(d), so that E ||R x||^2 = ||x||^2. The seed determines it.

    References
    ----------
    P. Li, T. Hastie, K. Church, "Very sparse random projections", KDD 2006.
    """
    flat, dims = flatten(x, layout)
    if flat.shape[1] <= size:
        return flat, dims
    rows, columns, values = _projection(flat.shape[1], size, seed)
    gathered = flat.index_select(1, columns.to(x.device)).float() * values.to(x.device)
    return torch.zeros(len(x), size, device=x.device).index_add_(1, rows.to(x.device), gathered), dims


@lru_cache(maxsize=128)
def _projection(d: int, k: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of the nonzero entries of R."""
    import numpy as np
    from sklearn.random_projection import SparseRandomProjection

    projection = SparseRandomProjection(n_components=k, density="auto", random_state=seed).fit(np.broadcast_to(0.0, (1, d)))
    matrix = projection.components_.tocoo()
    order = np.argsort(matrix.col, kind="stable")  # so that the activation is read sequentially
    parts = (matrix.row[order].astype(np.int64), matrix.col[order].astype(np.int64), matrix.data[order].astype(np.float32))
    return tuple(torch.from_numpy(part) for part in parts)  # type: ignore[return-value]  # of length 3


POOLS: dict[str, Callable[..., tuple[Tensor, Dims]]] = {
    "mean": mean, "max": maximum, "mean_std": mean_std, "cls": cls, "tokens": tokens, "flatten": flatten, "none": none,
    "grid": grid, "project": project,
}  # fmt: skip
_SIZED = {"grid": ("G", 4), "project": ("K", 256)}


def pool_named(spec: str, *, seed: int = 0) -> tuple[str, Pool]:
    """The normal form of a pool's specification, with all defaults written out, and the pool.

    Parameters
    ----------
    spec : str
        A name of `POOLS`. `grid:G` and `project:K` need a size; `project:K,seed=S` also gives the seed.
    seed : int, default 0
        Seed of a projection whose specification gives none.

    Returns
    -------
    spec : str
        Equal for equivalent specifications.
    pool : callable
        `(x, layout) -> (pooled, pooled_dims)`.

    Raises
    ------
    UsageError
        If the name is unknown, a needed size is missing, or the pool takes no size.

    Examples
    --------
    >>> pool_named("project:64")[0]
    'project:64,seed=0'
    """
    pool = parse_spec(spec)
    name, size = pool.name, pool.argument
    forms = [f"{known}:{_SIZED[known][0]}" if known in _SIZED else known for known in POOLS]
    if name not in POOLS:
        raise UsageError(f"Unknown pool {spec!r}.{did_you_mean(name, POOLS)} Known are {', '.join(forms)}.")
    if name not in _SIZED:
        if size or pool.options:
            raise UsageError(f"Pool {spec!r} takes no size; write {name}.")
        return name, POOLS[name]
    own_seed = pool.options.get("seed", str(seed))
    extra = set(pool.options) - ({"seed"} if name == "project" else set())
    if extra or not size.isdecimal() or int(size) < 1 or not own_seed.isdecimal():
        raise UsageError(f"Pool {spec!r} needs a size of at least 1; write it like {name}:{_SIZED[name][1]}.")
    if int(size) > _LARGEST_SIZE or int(own_seed) >= 2**63:
        raise UsageError(f"Pool {spec!r}: a size of at most {_LARGEST_SIZE} and a seed below 2^63 are possible.")
    if name == "grid":
        return f"grid:{int(size)}", partial(grid, size=int(size))
    return f"project:{int(size)},seed={int(own_seed)}", partial(project, size=int(size), seed=int(own_seed))


class Pooling:
    """The pool of each layer: that of the first pattern that matches the layer's name or type, by default `mean`.

    Parameters
    ----------
    pools : str, mapping or sequence of str
        One pool for all (`"mean"`), or pools by pattern: `{"layer4*": "none", "*": "mean"}`, `["layer4*=none", "mean"]`.
    seed : int, default 0
        Seed of projections whose specification gives none.

    Raises
    ------
    UsageError
        If a pool is unknown.

    Examples
    --------
    >>> pooling = Pooling(["layer4*=none", "mean"])
    >>> pooling.of("layer4.0", [])[0], pooling.of("stem", [])[0], pooling.texts
    ('none', 'mean', ('layer4*=none', 'mean'))
    """

    def __init__(self, pools: Pools = "mean", *, seed: int = 0) -> None:
        if isinstance(pools, Mapping):
            pairs = list(pools.items())
        else:
            pairs = [_pattern_and_pool(text) for text in ([pools] if isinstance(pools, str) else pools)]
        self._rules = [(pattern, *pool_named(spec, seed=seed)) for pattern, spec in pairs]
        self._default = pool_named("mean")
        self.matched = {pattern: pattern == "*" for pattern, _, _ in self._rules}

    def of(self, name: str, types: Iterable[str]) -> tuple[str, Pool]:
        """Specification and pool of a layer, given its name and the names of its types."""
        for pattern, spec, pool in self._rules:
            if pattern == "*" or matches(pattern, name, types):
                self.matched[pattern] = True
                return spec, pool
        return self._default

    @property
    def texts(self) -> tuple[str, ...]:
        """The rules as a user writes them, with all defaults written out."""
        return tuple(spec if pattern == "*" else f"{pattern}={spec}" for pattern, spec, _ in self._rules)


def _pattern_and_pool(text: str) -> tuple[str, str]:
    """Splits `"PATTERN=POOL"` or `"POOL"`; a pattern may contain an equals sign."""
    match = re.fullmatch(rf"(?P<pattern>.+)=(?P<pool>({'|'.join(POOLS)})(:\d+)?(,seed=\d+)?)", text)
    if match:
        return match["pattern"], match["pool"]
    if "=" in text and text.partition(":")[0] not in POOLS:
        pattern, _, pool = text.rpartition("=")
        if not pattern:
            raise UsageError(f"{text!r} has no layer pattern; write PATTERN=POOL, such as 'layer4*=none', or a pool alone.")
        return pattern, pool
    return "*", text


def apply_pool(x: Tensor, layout: Layout, pool: Pool, dtype: torch.dtype | None = None) -> tuple[Tensor, Dims]:
    """Pool one activation.

    Parameters
    ----------
    x : torch.Tensor
        Floating-point output of a module, samples first.
    layout : Layout
        Its axes.
    pool : Pool
        From `pool_named`.
    dtype : torch.dtype, optional
        Type of the result; by default that of the pool's result. Values outside the range of float16 become infinite; the file
        counts them (`Store.non_finite`).

    Returns
    -------
    pooled : torch.Tensor
        Detached; it may be a view of `x`. bfloat16 is converted to float32, since numpy and HDF5 have no such type.
    pooled_dims : tuple of str
        Its axes.

    Raises
    ------
    UnfitError
        If the pool can't be applied.
    """
    x = x.detach()
    pooled, pooled_dims = pool(x, layout)
    if dtype is not None or pooled.dtype == torch.bfloat16:
        pooled = pooled.to(dtype or torch.float32)
    if pooled.ndim == 1:
        pooled, pooled_dims = pooled[:, None], ("sample", "channel")
    return pooled, pooled_dims


def averaging_factor(x: Tensor, layout: Layout, pool: Pool) -> float:
    """The factor by which averaging over positions reduces the relative variance of rounding errors.

    For a mean over P positions it is P E[mean^2] / E[x^2]: a rounding error is proportional to its x, and the mean of P errors
    has 1/P of their variance. It is P if all values are equal, and smaller if they cancel, but at least 1, since the mean
    itself is rounded. The result is the harmonic mean over features, in which features with small factors dominate.

    Examples
    --------
    >>> layout = Layout(("sample", "channel", "height", "width"))
    >>> averaging_factor(torch.ones(2, 3, 4, 4), layout, mean)
    16.0
    >>> averaging_factor(torch.tensor([[[[1.0, -1.0, 1.0]]]]), layout, mean)
    1.0
    """
    x = x.detach().float()
    means, squares = pool(x, layout)[0], pool(x.square(), layout)[0]
    if pool is mean_std and layout.positions:
        means, squares = means[:, 0], squares[:, 0]
    positions, power = x.numel() / max(means.numel(), 1), squares.mean(0)
    nonzero = power > 0
    if not nonzero.any():
        return 1.0
    factors = (positions * means.square().mean(0)[nonzero] / power[nonzero]).clamp(1.0, positions)
    return float(1.0 / (1.0 / factors).mean())


def describe_loss(spec: str) -> str:
    """The information that a pool discards, as a noun phrase.

    Examples
    --------
    >>> describe_loss("grid:4")
    'detail finer than a 4 x 4 grid'
    """
    name, _, size = spec.partition(",")[0].partition(":")
    lost: dict[str, Any] = {
        "none": "nothing",
        "flatten": "nothing",
        "mean": "the positions of values",
        "max": "the positions of values, and all but the largest value",
        "mean_std": "the positions of values",
        "cls": "all tokens except the first",
        "tokens": "the prefix tokens",
        "grid": f"detail finer than a {size} x {size} grid",
        "project": f"all but {size} random combinations of the features, which preserve distances up to a few per cent",
    }
    return str(lost[name])

"""What is kept of one activation.

A pool is a function `(x, layout) -> (kept, kept_dims)`; the dictionary `POOLS` names them. `x` has its samples first, and
the layout says which axis is the channel and how many tokens at the front are prefix tokens (CLS, registers): places in
the image are what the pools reduce, prefix tokens are never mixed with them. `Pooling` chooses a pool per layer.
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

from probes.capturing.axes import KEPT, Layout, UnfitError
from probes.errors import UsageError, did_you_mean
from probes.patterns import matches
from probes.specs import parse_spec

__all__ = ["DTYPES", "POOLS", "Layout", "Pooling", "Pools", "UnfitError", "averaged", "keep", "pool_named"]

Dims = tuple[str, ...]
Pools = str | Mapping[str, str] | Sequence[str]
_LARGEST = 2**24  # numbers that a sized pool makes of a layer
DTYPES: dict[str, torch.dtype | None] = {"auto": None, "float32": torch.float32, "float16": torch.float16}
HALF = (torch.float16, torch.bfloat16)
AVERAGING = ("mean", "mean_std", "grid")


Pool = Callable[[Tensor, Layout], tuple[Tensor, Dims]]


def _places(x: Tensor, layout: Layout) -> tuple[Tensor, list[int], Dims]:
    """The activation without its prefix tokens, the axes that are places, and the names of the others."""
    for axis in (axis for axis, dim in enumerate(layout.dims) if dim in ("token", "key")) if layout.prefix else ():
        if x.shape[axis] > layout.prefix:  # a class token alone is a place
            x = x.narrow(axis, layout.prefix, x.shape[axis] - layout.prefix)
    return x, *_inner(layout.dims)


@lru_cache(maxsize=1024)
def _inner(dims: Dims) -> tuple[list[int], Dims]:
    """The axes that are places, and the names of the others."""
    return [axis for axis, dim in enumerate(dims) if dim not in KEPT], tuple(dim for dim in dims if dim in KEPT)


def mean_dtype(dtype: torch.dtype) -> torch.dtype:
    """Type in which the pool `mean` sums and gives its result."""
    return torch.float32 if dtype in HALF else dtype


def _unpadded(x: Tensor, layout: Layout, inner: list[int]) -> Tensor | None:
    """The padding mask along the one axis of positions, shaped like `x` with size 1 elsewhere; None without one."""
    if layout.mask is None or not inner:
        return None
    mask = layout.mask[:, layout.prefix :]
    return mask.reshape(len(x), *(x.shape[axis] if axis in inner else 1 for axis in range(1, x.ndim)))


def mean(x: Tensor, layout: Layout, out: Tensor | None = None) -> tuple[Tensor, Dims]:
    """Mean over space or tokens that are no padding, (n, ...) -> (n, channels); half precision is summed in float32.

    A sample that is padding throughout has no mean, and gets NaN.

    `out`, where it is given, is what a mean without mask is written to; an activation without places is returned as it is.

    Examples
    --------
    >>> mean(torch.arange(8.0).reshape(1, 2, 2, 2), Layout(("sample", "channel", "height", "width")))[0]
    tensor([[1.5000, 5.5000]])
    """
    x, inner, rest = _places(x, layout)
    if (mask := _unpadded(x, layout, inner)) is not None:
        x = x.float() if x.dtype in HALF else x
        return torch.where(mask, x, 0).sum(inner) / mask.sum(inner), rest
    return (torch.mean(x, inner, dtype=mean_dtype(x.dtype), out=out), rest) if inner else (x, layout.dims)


def maximum(x: Tensor, layout: Layout) -> tuple[Tensor, Dims]:
    """Maximum over space or tokens that are no padding, (n, ...) -> (n, channels)."""
    x, inner, rest = _places(x, layout)
    if (mask := _unpadded(x, layout, inner)) is not None:
        x = torch.where(mask, x, -torch.inf)
    return (x.amax(inner), rest) if inner else (x, layout.dims)


def mean_std(x: Tensor, layout: Layout) -> tuple[Tensor, Dims]:
    """Mean and standard deviation (of the population) over space or tokens, (n, ...) -> (n, 2, channels).

    An activation without places has nothing to deviate, and is kept as it is.

    Examples
    --------
    >>> mean_std(torch.tensor([[[1.0], [3.0]]]), Layout(("sample", "token", "channel")))[0].tolist()
    [[[2.0], [1.0]]]
    """
    x, inner, rest = _places(x, layout)
    if not inner:
        return x, layout.dims
    x = x.float() if x.dtype in HALF else x
    if (mask := _unpadded(x, layout, inner)) is not None:
        average = torch.where(mask, x, 0).sum(inner, keepdim=True) / mask.sum(inner, keepdim=True)
        std = (torch.where(mask, x - average, 0).square().sum(inner) / mask.sum(inner)).sqrt()
        return torch.stack([average.squeeze(inner), std], dim=1), ("sample", "statistic", *rest[1:])
    std, average = torch.std_mean(x, inner, correction=0)
    return torch.stack([average, std], dim=1), ("sample", "statistic", *rest[1:])


def cls(x: Tensor, layout: Layout) -> tuple[Tensor, Dims]:
    """The first prefix token, (n, tokens, channels) -> (n, channels); a vector is kept as it is."""
    if layout.prefix:
        axis = layout.dims.index("token")
        return x.select(axis, 0), tuple(dim for dim in layout.dims if dim != "token")
    if len(layout.dims) > 2:
        raise UnfitError("it has no prefix token for the pool cls")
    return x, layout.dims


def tokens(x: Tensor, layout: Layout) -> tuple[Tensor, Dims]:
    """Every token that is a place, without the prefix tokens; anything else as it is."""
    return _places(x, layout)[0], layout.dims


def flatten(x: Tensor, layout: Layout) -> tuple[Tensor, Dims]:
    """All axes of a sample in one, (n, ...) -> (n, features), in memory order of the output's shape."""
    return x.reshape(len(x), prod(x.shape[1:])), ("sample", "feature")


def none(x: Tensor, layout: Layout) -> tuple[Tensor, Dims]:
    """The whole output as it is."""
    return x, layout.dims


def grid(x: Tensor, layout: Layout, *, size: int) -> tuple[Tensor, Dims]:
    """Means over a grid of G x G cells, (n, ...) -> (n, channels, G, G); a smaller map or a vector is kept as it is.

    Tokens are laid out as the square they come from; prefix tokens are dropped.

    Examples
    --------
    >>> grid(torch.arange(16.0).reshape(1, 1, 4, 4), Layout(("sample", "channel", "height", "width")), size=2)[0].tolist()
    [[[[2.5, 4.5], [10.5, 12.5]]]]
    """
    x, inner, _ = _places(x, layout)
    if not inner:
        return x, layout.dims
    if layout.dims == ("sample", "token", "channel"):
        side = isqrt(x.shape[1])
        if side * side != x.shape[1]:
            raise UnfitError(f"its {x.shape[1]} tokens are no square for the pool grid")
        x = x.transpose(1, 2).reshape(len(x), x.shape[2], side, side)
    elif set(layout.dims) != {"sample", "channel", "height", "width"}:
        raise UnfitError(f"its axes {', '.join(layout.dims[1:])} are no map for the pool grid")
    else:
        x = x.movedim(layout.dims.index("channel"), 1)
    dims = ("sample", "channel", "height", "width")
    if min(x.shape[2:]) <= size:
        return x, dims
    half = x.dtype in HALF
    return adaptive_avg_pool2d(x.float() if half else x, size), dims


def project(x: Tensor, layout: Layout, *, size: int, seed: int = 0) -> tuple[Tensor, Dims]:
    """Very sparse random projection of the flattened activation, (n, ...) -> (n, k); k or fewer features are kept as they are.

    The matrix R (k, d) is scikit-learn's `SparseRandomProjection(n_components=k, density="auto", random_state=seed)`: entries
    0, and +-sqrt(s / k) with probability 1 / 2s each, s = sqrt(d), so that E ||R x||^2 = ||x||^2. Anyone can draw it again.

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
    """The entries of R that are not 0: rows, columns, values."""
    import numpy as np
    from sklearn.random_projection import SparseRandomProjection

    fitted = SparseRandomProjection(n_components=k, density="auto", random_state=seed).fit(np.broadcast_to(0.0, (1, d)))
    matrix = fitted.components_.tocoo()
    order = np.argsort(matrix.col, kind="stable")  # so that the activation is read front to back
    parts = (matrix.row[order].astype(np.int64), matrix.col[order].astype(np.int64), matrix.data[order].astype(np.float32))
    return tuple(torch.from_numpy(part) for part in parts)  # type: ignore[return-value]  # three of them


POOLS: dict[str, Callable[..., tuple[Tensor, Dims]]] = {
    "mean": mean, "max": maximum, "mean_std": mean_std, "cls": cls, "tokens": tokens, "flatten": flatten, "none": none,
    "grid": grid, "project": project,
}  # fmt: skip
_SIZED = {"grid": ("G", 4), "project": ("K", 256)}


def pool_named(spec: str, *, seed: int = 0) -> tuple[str, Pool]:
    """The pool of a specification, and the specification with everything that was left to a default.

    Parameters
    ----------
    spec : str
        A name of `POOLS`; `grid:G` and `project:K` with their size, `project:K,seed=S` with its seed.
    seed : int, default 0
        Seed of a projection that names none.

    Raises
    ------
    UsageError
        If there is none of that name, or the size is missing or out of place.

    Examples
    --------
    >>> pool_named("project:64")[0]
    'project:64,seed=0'
    """
    pool = parse_spec(spec)
    name, size = pool.name, pool.argument
    names = [f"{each}:{_SIZED[each][0]}" if each in _SIZED else each for each in POOLS]
    if name not in POOLS:
        raise UsageError(f"Unknown pool {spec!r}.{did_you_mean(name, POOLS)} Known are {', '.join(names)}.")
    if name not in _SIZED:
        if size or pool.options:
            raise UsageError(f"Pool {spec!r} takes no size; write {name}.")
        return name, POOLS[name]
    own_seed = pool.options.get("seed", str(seed))
    extra = set(pool.options) - ({"seed"} if name == "project" else set())
    if extra or not size.isdecimal() or int(size) < 1 or not own_seed.isdecimal():
        raise UsageError(f"Pool {spec!r} needs a size of at least 1; write it like {name}:{_SIZED[name][1]}.")
    if int(size) > _LARGEST or int(own_seed) >= 2**63:
        raise UsageError(f"Pool {spec!r}: a size of at most {_LARGEST} and a seed below 2^63 are possible.")
    if name == "grid":
        return f"grid:{int(size)}", partial(grid, size=int(size))
    return f"project:{int(size)},seed={int(own_seed)}", partial(project, size=int(size), seed=int(own_seed))


class Pooling:
    """Which pool a layer gets: the first pattern that matches its name or type decides, and `mean` where none does.

    Parameters
    ----------
    pools : str, mapping or sequence of str
        One pool for all (`"mean"`), or pools by pattern: `{"layer4*": "none", "*": "mean"}`, `["layer4*=none", "mean"]`.
    seed : int, default 0
        Seed of projections that name none.

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
        """Specification and pool of a layer."""
        for pattern, spec, pool in self._rules:
            if pattern == "*" or matches(pattern, name, types):
                self.matched[pattern] = True
                return spec, pool
        return self._default

    @property
    def texts(self) -> tuple[str, ...]:
        """The rules as a user writes them, with everything that was left to a default."""
        return tuple(spec if pattern == "*" else f"{pattern}={spec}" for pattern, spec, _ in self._rules)


def _pattern_and_pool(text: str) -> tuple[str, str]:
    """`"PATTERN=POOL"` or `"POOL"`; a pattern may itself hold an equals sign."""
    match = re.fullmatch(rf"(?P<pattern>.+)=(?P<pool>({'|'.join(POOLS)})(:\d+)?(,seed=\d+)?)", text)
    if match:
        return match["pattern"], match["pool"]
    if "=" in text and text.partition(":")[0] not in POOLS:
        pattern, _, pool = text.rpartition("=")
        if not pattern:
            raise UsageError(f"{text!r} names no layers; write PATTERN=POOL, such as 'layer4*=none', or a pool alone.")
        return pattern, pool
    return "*", text


def keep(x: Tensor, layout: Layout, pool: Pool, dtype: torch.dtype | None = None) -> tuple[Tensor, Dims]:
    """Pool one activation.

    Parameters
    ----------
    x : torch.Tensor
        Floating-point output of a module, samples first.
    layout : Layout
        Its axes.
    pool : Pool
        As `pool_named` gives it.
    dtype : torch.dtype, optional
        Type to keep; by default the one that pooling gives. Values beyond float16 become infinite, and are counted where
        they are written (`Store.non_finite`).

    Returns
    -------
    kept : torch.Tensor
        Detached; it may be a view of `x`. bfloat16, which neither numpy nor HDF5 knows, comes as float32.
    kept_dims : tuple of str
        Its axes.

    Raises
    ------
    UnfitError
        If the pool can't be applied.
    """
    x = x.detach()
    pooled, kept_dims = pool(x, layout)
    if dtype is not None or pooled.dtype == torch.bfloat16:
        pooled = pooled.to(dtype or torch.float32)
    if pooled.ndim == 1:
        pooled, kept_dims = pooled[:, None], ("sample", "channel")
    return pooled, kept_dims


def averaged(x: Tensor, layout: Layout, pool: Pool) -> float:
    """How many independently rounded numbers each pooled mean is as good as the mean of: P E[mean^2] / E[x^2] of P places.

    Rounding errors are in proportion to x, and P of them add up to 1/P of their variance: of one number's if all are alike, but
    to as much as a rounded mean's if they cancel. Between 1 and P; the harmonic mean over features, for those that cancel
    decide.

    Examples
    --------
    >>> layout = Layout(("sample", "channel", "height", "width"))
    >>> averaged(torch.ones(2, 3, 4, 4), layout, mean), averaged(torch.tensor([[[[1.0, -1.0, 1.0]]]]), layout, mean)
    (16.0, 1.0)
    """
    x = x.detach().float()
    means, squares = pool(x, layout)[0], pool(x.square(), layout)[0]
    if pool is mean_std and layout.places:
        means, squares = means[:, 0], squares[:, 0]
    places, power = x.numel() / max(means.numel(), 1), squares.mean(0)
    alive = power > 0
    if not alive.any():
        return 1.0
    counts = (places * means.square().mean(0)[alive] / power[alive]).clamp(1.0, places)
    return float(1.0 / (1.0 / counts).mean())


def describe_loss(spec: str) -> str:
    """What a pool forgets, in half a sentence.

    Examples
    --------
    >>> describe_loss("grid:4")
    'detail finer than a 4 x 4 grid'
    """
    name, _, size = spec.partition(",")[0].partition(":")
    lost: dict[str, Any] = {
        "none": "nothing",
        "flatten": "nothing",
        "mean": "where in the image something is",
        "max": "where in the image something is, and how often",
        "mean_std": "where in the image something is",
        "cls": "every token but the first",
        "tokens": "the prefix tokens",
        "grid": f"detail finer than a {size} x {size} grid",
        "project": f"all but {size} random combinations of the features: distances are kept up to a few per cent",
    }
    return str(lost[name])

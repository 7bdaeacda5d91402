"""Size of a recording before anything is written, and pools that fit a budget.

One sample is passed through the network; the shapes of its outputs determine the bytes of every layer, for its pool and for
every coarser one. `fit` selects one coarser pool for all layers, so that they stay comparable, and states what is lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from probes.batch import LayerInfo
from probes.capturing.axes import Layout, UnfitError
from probes.capturing.keywords import options_of
from probes.capturing.pooling import DTYPES, Pooling, apply_pool, describe_loss, pool_named
from probes.capturing.steps import examined
from probes.errors import UsageError
from probes.options import CaptureKeywords, shows_options

__all__ = ["Plan", "PlannedLayer", "fit", "plan", "readable"]

_COARSER = ("grid:7", "grid:4", "grid:2", "mean", "project:256", "project:64")


@dataclass(frozen=True)
class PlannedLayer:
    """Size of one layer.

    Attributes
    ----------
    info : LayerInfo
        Description of the layer in the file.
    layout : Layout
        The axes before pooling.
    shape : tuple of int
        Shape of one sample after pooling.
    bytes_per_sample : int
        Bytes of one sample after pooling.
    """

    info: LayerInfo
    layout: Layout
    shape: tuple[int, ...]
    bytes_per_sample: int


@dataclass(frozen=True)
class Plan:
    """Size of a recording of n samples, by layer.

    Attributes
    ----------
    layers : tuple of PlannedLayer
        Layers in order of execution.
    n : int
        Number of samples.
    left_out : dict of str to str
        Layers that could not be recorded, each with the reason.
    lost : tuple of str
        Sentences on what is lost to fit a budget.
    """

    layers: tuple[PlannedLayer, ...]
    n: int
    skipped: dict[str, str]
    dtype: str = "auto"
    lost: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Bytes of all layers and samples, uncompressed."""
        return self.n * sum(layer.bytes_per_sample for layer in self.layers)

    @property
    def pools(self) -> list[str]:
        """The pools as arguments: `["layer4*=none", "mean"]`, the last is the most frequent one, for all other layers.

        Layers of one module with the same pool have one pattern.
        """
        names = {layer.info.name: layer.info.pool for layer in self.layers}
        pools = list(names.values())
        common = max(dict.fromkeys(pools), key=pools.count)
        rules: dict[str, str] = {}
        for name, pool in names.items():
            top = name.partition(".")[0]
            same = {other for other_name, other in names.items() if other_name.startswith(top)}
            if pool != common:
                rules[f"{top}*" if len(same) == 1 and "." in name else name] = pool
        return [*(f"{pattern}={pool}" for pattern, pool in rules.items()), common]


@shows_options(CaptureKeywords)
def plan(
    model: nn.Module,
    example: Any,
    n: int,
    **options: Unpack[CaptureKeywords],
) -> Plan:
    """Size of a recording of `n` samples.

    Parameters
    ----------
    model : torch.nn.Module
        The network; it is run in eval mode, once and, to measure its axes, on a few samples of other sizes.
    example : torch.Tensor, tuple or mapping
        Inputs of a few samples, as in the loader's items; see `capture`.
    n : int
        Number of samples to record.
    **options
        As for `capture`; those without influence on the file are ignored.

    Returns
    -------
    Plan
        Layers in order of execution, with shapes and bytes.

    Raises
    ------
    UsageError
        If a pool or a pattern is invalid.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    >>> planned = plan(net, torch.zeros(1, 1, 8, 8), 1000, pool="none")
    >>> planned.bytes, planned.layers[0].shape
    (1152000, (4, 6, 6))
    """
    capture_options = options_of(**options)
    pooling, dtype = Pooling(capture_options.pool, seed=capture_options.seed), capture_options.dtype
    recording = examined(model, example, **options)
    layers, skipped = [], dict(recording.skipped)
    for info in recording.info.values():
        layout = Layout(info.dims, info.prefix_tokens)
        try:
            layers.append(_planned(info, layout, pooling.of(info.name, [info.module_type])[0], dtype, recording[info.name]))
        except UnfitError as error:
            skipped[info.name] = str(error)
    return Plan(tuple(layers), capture_options.n_of(n) or 0, skipped, dtype)


def _planned(info: LayerInfo, layout: Layout, spec: str, dtype: str, like: Tensor | torch.dtype) -> PlannedLayer:
    """A layer with a pool, computed on a tensor without memory."""
    source = torch.empty(1, *info.source_shape, device="meta", dtype=like.dtype if isinstance(like, Tensor) else like)
    pooled, dims = apply_pool(source, layout, pool_named(spec)[1], DTYPES[dtype])
    shape = tuple(pooled.shape[1:])
    return PlannedLayer(replace(info, pool=pool_named(spec)[0], dims=dims), layout, shape, prod(shape) * pooled.element_size())


def fit(planned: Plan, budget: int) -> Plan:
    """A plan of at most `budget` bytes, with the finest pool of a list that fits, for all layers.

    The list is `grid:7`, `grid:4`, `grid:2`, `mean`, `project:256`, `project:64`; a layer that is smaller with its pool keeps
    it.

    Parameters
    ----------
    planned : Plan
        Plan without a budget.
    budget : int
        Limit on the bytes of all samples.

    Returns
    -------
    Plan
        With other pools, and `lost`; the same plan if it fits.

    Raises
    ------
    UsageError
        If the coarsest pools do not fit.
    """
    for spec in (None, *_COARSER):
        layers = planned.layers if spec is None else tuple(_under(layer, spec, planned.dtype) for layer in planned.layers)
        weight = planned.n * sum(layer.bytes_per_sample for layer in layers)
        if weight <= budget:
            return replace(planned, layers=layers, lost=_losses(planned.layers, layers))
    raise UsageError(
        f"{planned.n} samples of {len(layers)} layers take {readable(weight)} even with the pool {spec}, more than "
        f"{readable(budget)}. Record fewer layers (--layers), fewer samples (--limit), or --dtype float16."
    )


def _under(layer: PlannedLayer, spec: str, dtype: str) -> PlannedLayer:
    """The layer with a pool, unless that makes it larger or is impossible."""
    like = getattr(torch, layer.info.dtype_source, torch.float32)
    for tried in (spec, "mean"):
        try:
            other = _planned(layer.info, layer.layout, tried, dtype, like)
        except UnfitError:
            continue
        return other if other.bytes_per_sample <= layer.bytes_per_sample else layer
    return layer


def _losses(before: Sequence[PlannedLayer], after: Sequence[PlannedLayer]) -> tuple[str, ...]:
    """Sentences on the layers that have become smaller."""
    changed: dict[tuple[str, str], list[str]] = {}
    for old, new in zip(before, after, strict=True):
        if new.bytes_per_sample < old.bytes_per_sample:
            changed.setdefault((old.info.pool, new.info.pool), []).append(new.info.name)
    return tuple(_loss(old, new, names) for (old, new), names in changed.items())


def _loss(old: str, new: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{new} instead of {old} for {shown}: loses {describe_loss(new)}."


def readable(count: float) -> str:
    """Bytes as text with a unit.

    Examples
    --------
    >>> readable(1_500_000), readable(20e9)
    ('1.5 MB', '20.0 GB')
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} bytes" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"

r"""Pruning by what filters serve: applying filters' cluster connections (AFCC).

A head keeps the weights of filter f to output j where j is in a cluster of f, which is where B^f[j, j] = 1; a convolution
keeps the kernels between filters that serve a label in common (specification of filter clusters, section 4; Y. Tzach et al.,
Physical Review E 111, 2025). The rest is set to 0 and stays there while what is left is trained again. Masks of as many random
labels are the control.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray
from tqdm.auto import tqdm

from probes.errors import UsageError, did_you_mean
from repanalysis.filters import Held, class_means
from repanalysis.heads import accuracy_of, fit_head
from repanalysis.metrics._clusters import clusters_of
from repanalysis.table import Table

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["conv_mask", "head_mask", "kept_masked", "masked", "multiplications", "prune_head", "random_serves"]


def head_mask(serves: Bool[np.ndarray, "F K"], places: int = 1) -> Bool[np.ndarray, "K d"]:
    """Which weights of a head stay, (K, F P): all places of a filter for the labels that it serves.

    Examples
    --------
    >>> head_mask(np.array([[True, False], [True, True]])).tolist()
    [[True, True], [False, True]]
    """
    return np.repeat(serves.T, places, axis=1)


def conv_mask(after: Bool[np.ndarray, "G K"], before: Bool[np.ndarray, "F K"]) -> Bool[np.ndarray, "G F"]:
    """Which kernels of a convolution stay, (filters after, filters before): those between filters with a label in common.

    Examples
    --------
    >>> conv_mask(np.array([[True, False]]), np.array([[True, True], [False, True], [False, False]])).tolist()
    [[True, False, False]]
    """
    return np.asarray(after.astype(np.int64) @ before.T.astype(np.int64) > 0)


def random_serves(filters: int, labels: int, each: int, *, seed: int = 0) -> Bool[np.ndarray, "F K"]:
    """So many different random labels for every filter, each label equally often, or once more.

    Parameters
    ----------
    filters, labels, each : int
        F, K and s, the labels per filter.
    seed : int, default 0
        Of the draw.

    Returns
    -------
    (F, K) bool
        Rows sum to s, columns to F s / K, rounded down or up.

    Raises
    ------
    UsageError
        If s is not in 1 to K.

    Examples
    --------
    >>> drawn = random_serves(512, 100, 5)
    >>> set(drawn.sum(1).tolist()), set(drawn.sum(0).tolist()) <= {25, 26}
    ({5}, True)
    """
    if not 1 <= each <= labels:
        raise UsageError(f"{each} of {labels} labels can't be drawn for a filter; between 1 and {labels} can.")
    rng = np.random.default_rng(seed)
    used = np.zeros(labels, np.int64)
    found = np.zeros((filters, labels), bool)
    for row in found:  # those used least so far, ties at random: no label gets ahead by more than one
        row[np.lexsort((rng.random(labels), used))[:each]] = True
        used += row
    return found[rng.permutation(filters)]


def prune_head(
    train: Held,
    test: Held,
    *,
    thetas: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9),
    classes: int | None = None,
    alpha: float = 1e-3,
    controls: int = 3,
    run: str = "run",
    seed: int = 0,
    progress: bool | None = None,
) -> Table:
    """Accuracy of a linear head against how much of it is left: by clusters, and by random labels.

    Parameters
    ----------
    train, test : pairs of (n, F, P) array and (n,) int64
        Activations before the head and their classes, 0 to K - 1. Masks come from the training part.
    thetas : sequence of float
        Thresholds; higher ones keep less.
    classes : int, optional
        K; by default the largest class plus one.
    alpha : float, default 1e-3
        Penalty of the heads.
    controls : int, default 3
        Random masks of equal size, over which the control is averaged.
    run : str
        What the table calls the run.
    seed : int, default 0
        Of the random masks.
    progress : bool, optional
        Show a progress bar; by default only on a terminal.

    Returns
    -------
    Table
        `head_accuracy` with variants "full", "clusters masked" (without training again), "clusters retrained", "random
        retrained"; `strength` is the dilution, the share of weights that are gone, and `se` the standard error over test
        samples (of the random masks: over masks). `kept_multiplications` is what is left of the head's products.

    Raises
    ------
    UsageError
        If a threshold is not in (0, 1).

    Notes
    -----
    Everything below the head is frozen, so that its activations are all that is needed. Weights that are masked are exactly 0.
    """
    (x, y), (z, t) = train, test
    k = classes or int(max(y.max(), t.max())) + 1
    f, p = x.shape[1:]
    flat, flat_test = x.reshape(len(x), -1), z.reshape(len(z), -1)
    full = fit_head(flat, y, classes=k, alpha=alpha)
    weights, centred = full.reshape(k, f, p), full - full.mean(0)
    means = class_means(train, k)
    share, error = accuracy_of(full, flat_test, t)
    base = {"run": run, "layer": "head", "metric": "head_accuracy", "perturbation": "dilution", "n": len(t)}
    rows: list[dict[str, Any]] = [base | {"variant": "full", "strength": 0.0, "value": share, "se": error}]
    for theta in tqdm(thetas, desc=run, unit=" thresholds", disable=None if progress is None else not progress):
        found = clusters_of(means, weights, theta=theta, fields=False)
        mask = head_mask(found.serves, p)
        dilution = 1 - float(mask.mean())
        at = base | {"strength": dilution, "note": f"theta = {theta:g}"}
        for variant, left in (
            ("clusters masked", centred * mask),
            ("clusters retrained", fit_head(flat, y, classes=k, alpha=alpha, mask=mask)),
        ):
            share, error = accuracy_of(left, flat_test, t)
            rows.append(at | {"variant": variant, "value": share, "se": error})
        chance = [
            accuracy_of(fit_head(flat, y, classes=k, alpha=alpha, mask=_alike(mask, seed + one)), flat_test, t)[0]
            for one in range(controls)
        ]
        if chance:
            spread = float(np.std(chance, ddof=1) / np.sqrt(controls)) if controls > 1 else np.nan
            rows.append(at | {"variant": "random retrained", "value": float(np.mean(chance)), "se": spread})
        rows.append(at | {"metric": "kept_multiplications", "value": float(mask.mean())})
    return Table.from_rows(rows, {run: {"alpha": alpha, "controls": controls, "seed": seed, "thetas": list(thetas)}})


def _alike(mask: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """A random mask with as many weights for every label."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(row) for row in mask])


def kept_masked(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set masked weights to 0; to be called after every step of an optimiser, whose momentum would bring them back.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    masks : mapping of parameter name to bool tensor
        What stays: of the parameter's shape, or of its first axes, the rest (places of a kernel) being alike.

    Raises
    ------
    UsageError
        If there is no such parameter, or a mask does not fit.
    """
    import torch

    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            if name not in named:
                raise UsageError(f"The model has no parameter {name!r}.{did_you_mean(name, named)}")
            weight = named[name]
            if tuple(mask.shape) != tuple(weight.shape[: mask.ndim]):
                raise UsageError(f"The mask of {name} is {tuple(mask.shape)}, and its weights are {tuple(weight.shape)}.")
            weight.mul_(mask.to(weight.device).view(*mask.shape, *(1,) * (weight.ndim - mask.ndim)))


@contextmanager
def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The model with masked weights inside the block; afterwards it is as it was.

    Examples
    --------
    >>> import torch
    >>> layer = torch.nn.Linear(2, 1)
    >>> with masked(layer, {"weight": torch.tensor([[True, False]])}):
    ...     bool(layer.weight[0, 1] == 0)
    True
    >>> bool(layer.weight[0, 1] == 0)
    False
    """
    import torch

    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if name in masks}
    try:
        kept_masked(model, masks)
        yield model
    finally:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in before:
                    weight.copy_(before[name])


def multiplications(model: nn.Module, example: Tensor, masks: Mapping[str, Tensor] | None = None) -> dict[str, int]:
    """Products that each convolution and linear layer makes of one image, masked ones left out.

    Parameters
    ----------
    model : torch.nn.Module
        Any network.
    example : tensor
        One image, (1, c, h, w).
    masks : mapping, optional
        As for `masked`.

    Returns
    -------
    dict of str to int
        By name of the layer.

    Examples
    --------
    >>> import torch
    >>> multiplications(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1)), torch.zeros(1, 3, 4, 4))
    {'0': 3456}
    """
    import torch
    from torch import nn

    found: dict[str, int] = {}
    handles = []

    def count(name: str, module: Any) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            kept = module.weight.numel()
            mask = (masks or {}).get(f"{name}.weight" if name else "weight")
            if mask is not None:
                kept = int(mask.sum()) * (module.weight.numel() // mask.numel())
            found[name or "model"] = kept * (output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1)

        return hook

    try:
        for name, module in model.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                handles.append(module.register_forward_hook(count(name, module)))
        with torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return found

"""Set masked weights to 0, and count the remaining multiplications."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from probes.errors import UsageError, did_you_mean

__all__ = ["apply_masks", "masked", "multiplications"]


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set masked weights to 0; call it after every step of an optimiser, since momentum changes them.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place.
    masks : mapping of parameter name to bool tensor
        True for weights that stay: of the shape of the parameter, or of its first axes if it is the same along the others.

    Raises
    ------
    UsageError
        If there is no such parameter, or a mask has another shape.
    """
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            if name not in parameters:
                raise UsageError(f"The model has no parameter {name!r}.{did_you_mean(name, parameters)}")
            weight = parameters[name]
            if tuple(mask.shape) != tuple(weight.shape[: mask.ndim]):
                raise UsageError(f"The mask of {name} is {tuple(mask.shape)}, and its weights are {tuple(weight.shape)}.")
            weight.mul_(mask.to(weight.device).view(*mask.shape, *(1,) * (weight.ndim - mask.ndim)))


@contextmanager
def masked(model: nn.Module, masks: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """Mask weights inside the block; they are restored at its end.

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
    before = {name: weight.detach().clone() for name, weight in model.named_parameters() if name in masks}
    try:
        apply_masks(model, masks)
        yield model
    finally:
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name in before:
                    weight.copy_(before[name])


def multiplications(model: nn.Module, example: Tensor, masks: Mapping[str, Tensor] | None = None) -> dict[str, int]:
    """Number of multiplications of each convolution and linear layer for one image, without those of masked weights.

    A layer that is called several times, or on many tokens, counts each time.

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
    products: dict[str, int] = {}
    handles = []

    def count(name: str, module: Any) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            n_weights = module.weight.numel()
            mask = (masks or {}).get(f"{name}.weight" if name else "weight")
            if mask is not None:
                n_weights = int(mask.sum()) * (module.weight.numel() // mask.numel())
            places = output[0, 0].numel() if isinstance(module, nn.Conv2d) else output[0].numel() // output.shape[-1]
            products[name or "model"] = products.get(name or "model", 0) + n_weights * places

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
    return products

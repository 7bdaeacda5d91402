"""Plain forward hooks and plain numpy: the rows of every layer, given a statement of the axes of its output.

Nothing here is imported from `probes`. A statement is a word of one letter per axis of a module's output:

    B samples   T tokens, H W D positions or time: pooled   C channels, G heads or groups: kept
    U units of a linear layer over tokens: kept, though they grow with the input
    +T begins with prefix tokens   ! at the end: positions whose number does not grow with the input

`comparing.py` checks statements against the network itself: with one sample exchanged (which slices change?), another number of
samples, another size of input (which axes grow?), and the shapes of the modules' weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLACES, GROWING = "THWD", "THWDU"
Outputs = dict[str, "np.ndarray | str"]


def recorded(model: nn.Module, item: Any, run: Callable[[nn.Module, Any], Any]) -> tuple[Outputs, dict[str, nn.Module]]:
    """Every module call's full output (or why it is not an array of floats), by name, and the module of each name."""
    names = {module: name or "model" for name, module in model.named_modules()}
    paths, count, stack = set(names.values()), Counter[nn.Module](), []
    outputs: Outputs = {}
    modules: dict[str, nn.Module] = {}

    def before(module: nn.Module, _args: Any) -> None:
        index, name = count[module], names[module]
        count[module] += 1
        name = f"{name}_{index}" if index else name
        while index and name in paths:
            name += "_"
        paths.add(name)
        stack.append(name)

    def after(module: nn.Module, _args: Any, output: Any) -> None:
        name = stack.pop()
        parts = [(key, value) for key, value in leaves(output) if value is not None]
        for key, value in parts or [("", output)]:
            part = f"{name}.{key}" if len(parts) > 1 else name
            while part != name and part in names.values():
                part += "_"
            outputs[part] = as_array(value)
            modules[part] = module

    handles = [module.register_forward_pre_hook(before) for module in names]
    handles += [module.register_forward_hook(after) for module in names]
    with torch.no_grad():
        run(model.eval(), item)
    for handle in handles:
        handle.remove()
    return outputs, modules


def leaves(output: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested output, with their dotted keys."""
    if isinstance(output, Mapping):
        items = [(str(name), value) for name, value in output.items()]
    elif is_dataclass(output) and not isinstance(output, type):
        items = [(part.name, getattr(output, part.name)) for part in fields(output)]
    elif isinstance(output, list | tuple):
        items = [(str(index), value) for index, value in enumerate(output)]
    else:
        yield key, output
        return
    for name, value in items:
        yield from leaves(value, f"{key}.{name}" if key else name)


def as_array(value: Any) -> np.ndarray | str:
    """A copy of a tensor of floats, NaN where a nested tensor has no token; a description of anything else."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}, no tensor"
    if not value.is_floating_point():
        return "integers, booleans or complex numbers"
    if value.is_nested:
        value = value.to_padded_tensor(float("nan"))
    if not value.numel():
        return "empty"
    return value.detach().clone().float().numpy()


def rows_by_samples(x: np.ndarray, other: np.ndarray | None, more: np.ndarray | None, n: int, n_more: int) -> list[int]:
    """Axes along which exactly slice 0 belongs to sample 0.

    `other` is the output with only sample 0 exchanged, `more` that of `n_more` samples.
    """
    if other is None or more is None or x.shape != other.shape or x.ndim != more.ndim:
        return []
    changed = (x != other) & ~(np.isnan(x) & np.isnan(other))
    axes = [axis for axis in range(x.ndim) if (x.shape[axis], more.shape[axis]) == (n, n_more)]
    return [axis for axis in axes if not np.delete(changed, 0, axis).any()]


def unpadded(x: np.ndarray, word: str, item: Any, padding: str) -> np.ndarray:
    """The output with NaN at padding, where the input of that name, (n, tokens), is 0."""
    mask = item[padding].numpy() if padding else np.ones((0, 0))
    letters = word.strip("!").replace("+", "")
    axes = [letters.find(letter) for letter in "BT"]
    if min(axes) < 0 or tuple(x.shape[axis] for axis in axes) != mask.shape:
        return x
    other_axes = tuple(axis for axis in range(x.ndim) if axis not in axes)
    weights = mask if axes == sorted(axes) else mask.T
    return np.where(np.expand_dims(weights, other_axes) > 0, x, np.nan)


def pooled(x: np.ndarray, word: str, prefix: int, pool: str = "mean") -> np.ndarray:
    """Rows of samples: the mean over positions without prefix tokens (`mean`), or the documented result of another pool.

    An axis of only prefix tokens is kept.
    """
    letters = word.strip("!")
    while "+" in letters:
        axis = letters.index("+")
        letters = letters.replace("+", "", 1)
        if pool == "cls":
            x, letters = np.take(x, 0, axis), letters[:axis] + letters[axis + 1 :]
        elif pool in ("mean", "tokens") and x.shape[axis] > prefix:
            x = np.delete(x, range(prefix), axis)
    x = np.moveaxis(x, letters.index("B"), 0)
    letters = "B" + letters.replace("B", "")
    if pool == "mean":
        inner = tuple(axis for axis, letter in enumerate(letters) if letter in PLACES)
        x = np.nanmean(x.astype(np.float64), inner) if inner else x
    return x.reshape(len(x), -1) if pool == "flatten" or x.ndim == 1 else x

"""Hand-written hooks and plain numpy: what kept rows should be, under axes that a test states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import probes
from probes.batch import Batch
from probes.capturing.axes import Layout, letters_of
from probes.capturing.axis_inference import AxisInference


def layout(module: nn.Module, shape: tuple[int, ...], axes: AxisInference | None = None) -> Layout:
    return (axes or AxisInference()).layout(f"{id(module)}", module, shape, shape[0])


def statement(array: np.ndarray, axes: str, *, prefix: int = 0) -> np.ndarray:
    """Plain numpy: the mean over positions, samples first; samples, channels, heads and layers are kept."""
    if prefix:
        array = np.take(array, range(prefix, array.shape[axes.index("T")]), axis=axes.index("T"))
    places = tuple(axis for axis, letter in enumerate(axes) if letter in "THWDPK")
    rest = "".join(letter for letter in axes if letter not in "THWDPK")
    pooled = np.moveaxis(array.mean(places), rest.index("B"), 0)
    return pooled if pooled.ndim > 1 else pooled[:, None]


def outputs(model: nn.Module, inputs: Any) -> dict[str, np.ndarray]:
    """What plain hooks see of every module's first call; parts of tuples by their number."""
    seen: dict[str, np.ndarray] = {}

    def see(path: str, output: object) -> None:
        if isinstance(output, Tensor):
            seen.setdefault(path, output.detach().clone().numpy())
        parts = output.items() if isinstance(output, Mapping) else enumerate(output if isinstance(output, tuple) else ())
        for key, value in parts:
            see(f"{path}.{key}", value)

    def hook(path: str) -> Callable[..., None]:
        return lambda _module, _args, output: see(path, output)

    handles = [module.register_forward_hook(hook(path)) for path, module in model.eval().named_modules()]
    with torch.no_grad():
        model(**inputs) if isinstance(inputs, dict) else model(inputs)
    for handle in handles:
        handle.remove()
    return seen


def agree(model: nn.Module, inputs: Any, axes: dict[str, str], *, found: str = "measured", **options: Any) -> Batch:
    """Hold the rows that `capture` keeps against plain numpy under the stated axes; every layer that is kept must be stated."""
    seen = outputs(model, inputs)
    batch = next(probes.capture(model, [inputs], **options))
    assert list(batch.layers) == list(axes)
    for layer, letters in axes.items():
        info = batch.info[layer]
        assert letters_of(info.source_dims) == letters, layer
        assert info.axes_from == found or not found, layer
        expected = statement(seen[layer], letters, prefix=info.prefix_tokens)
        np.testing.assert_allclose(batch.layers[layer], expected, rtol=1e-5, atol=1e-6, err_msg=layer)
    return batch


class SequenceFirst(nn.Module):
    """(B, T, C) -> blocks on (T, B, C) -> (B, T, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.fc, self.act, self.drop = nn.LayerNorm(6), nn.Linear(6, 8), nn.GELU(), nn.Dropout()
        self.attn, self.head = nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.act(self.fc(self.norm(x.transpose(0, 1)))))
        return self.head(self.attn(y, y, y)[0].transpose(0, 1))


SEQUENCE_FIRST = {**dict.fromkeys(("norm", "fc", "act", "drop", "attn.0"), "TBC"), "attn.1": "BTK", "head": "BTC"}

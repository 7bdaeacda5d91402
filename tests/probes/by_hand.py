"""Hand-written hooks and plain numpy: the expected rows under stated axes."""

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
    remaining = "".join(letter for letter in axes if letter not in "THWDPK")
    pooled = np.moveaxis(array.mean(places), remaining.index("B"), 0)
    return pooled if pooled.ndim > 1 else pooled[:, None]


def outputs(model: nn.Module, inputs: Any) -> dict[str, np.ndarray]:
    """The output of every module's first call, from plain hooks; parts of tuples by their number."""
    recorded: dict[str, np.ndarray] = {}

    def record(path: str, output: object) -> None:
        if isinstance(output, Tensor):
            recorded.setdefault(path, output.detach().clone().numpy())
        parts = output.items() if isinstance(output, Mapping) else enumerate(output if isinstance(output, tuple) else ())
        for key, value in parts:
            record(f"{path}.{key}", value)

    def hook(path: str) -> Callable[..., None]:
        return lambda _module, _args, output: record(path, output)

    handles = [module.register_forward_hook(hook(path)) for path, module in model.eval().named_modules()]
    with torch.no_grad():
        model(**inputs) if isinstance(inputs, dict) else model(inputs)
    for handle in handles:
        handle.remove()
    return recorded


def agree(model: nn.Module, inputs: Any, axes: dict[str, str], *, axes_from: str = "measured", **options: Any) -> Batch:
    """Compare the rows of `capture` with plain numpy under the stated axes; every recorded layer must be stated."""
    recorded = outputs(model, inputs)
    batch = next(probes.capture(model, [inputs], **options))
    assert list(batch.layers) == list(axes)
    for layer, letters in axes.items():
        info = batch.info[layer]
        assert letters_of(info.source_dims) == letters, layer
        assert info.axes_from == axes_from or not axes_from, layer
        expected = statement(recorded[layer], letters, prefix=info.prefix_tokens)
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

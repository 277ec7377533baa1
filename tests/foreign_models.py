"""Models as other projects publish them, small and random: names, shapes, descriptions."""

from __future__ import annotations

from typing import Any

import torch
import torchaudio
from torch import Tensor

from dawnchorus.trainer.encoders.vit import sincos
from dawnchorus.trainer.model import BioEncoder

DIM, HIDDEN = 128, 256
AUDIO: dict[str, Any] = {
    "sample_rate": 16000, "n_fft": 800, "hop_length": 160, "win_length": 800, "window": "hann",
    "n_mels": 128, "representation": "mel_spectrogram", "normalize": True,
    "target_length_seconds": 10, "window_selection": "random",
}  # fmt: skip
LAYERS = 2


def blocks(prefix: str) -> dict[str, Tensor]:
    """Random tensors of two blocks under the names that all of EAT's files share."""
    shapes = {
        "norm1": (DIM,), "norm2": (DIM,), "attn.qkv": (3 * DIM, DIM), "attn.proj": (DIM, DIM),
        "mlp.fc1": (HIDDEN, DIM), "mlp.fc2": (DIM, HIDDEN),
    }  # fmt: skip
    found = {}
    for i in range(2):
        for name, shape in shapes.items():
            found[f"{prefix}blocks.{i}.{name}.weight"] = 0.1 * torch.randn(shape)
            found[f"{prefix}blocks.{i}.{name}.bias"] = 0.1 * torch.randn(shape[:1])
    return found


def fairseq(prefix: str = "") -> dict[str, Tensor]:
    """As `checkpoint["model"]` of EAT's pre-training has them, without the teacher."""
    torch.manual_seed(0)
    image = f"{prefix}modality_encoders.IMAGE."
    return {
        f"{image}extra_tokens": torch.randn(1, 1, DIM),
        f"{image}local_encoder.proj.weight": 0.1 * torch.randn(DIM, 1, 16, 16),
        f"{image}local_encoder.proj.bias": torch.randn(DIM),
        f"{image}fixed_positional_encoder.positions": sincos(512, 8, DIM)[None],
        f"{image}context_encoder.norm.weight": torch.randn(DIM),
        f"{image}context_encoder.norm.bias": torch.randn(DIM),
        f"{image}decoder.blocks.0.0.weight": torch.randn(DIM, 8, 3, 3),
        f"{image}decoder.proj.weight": torch.randn(DIM, DIM),
        **blocks(prefix),
    }


def hub(prefix: str = "model.") -> dict[str, Tensor]:
    """The same tensors as `model.safetensors` of Hugging Face has them."""
    found = {}
    for name, tensor in fairseq().items():
        name = name.removeprefix("modality_encoders.IMAGE.")
        name = name.replace("context_encoder.norm", "pre_norm")
        if not name.startswith("decoder"):
            found[prefix + name] = tensor
    return found


def cfg(**image: Any) -> dict[str, Any]:
    numbers = {
        "_name": "data2vec_multi", "depth": 2, "embed_dim": DIM, "num_heads": 2, "mlp_ratio": 2.0,
        "norm_eps": 1e-6, "layer_norm_first": False, "end_of_block_targets": False,
    }  # fmt: skip
    modality = {"patch_size": 16, "in_chans": 1, "num_extra_tokens": 1, "fixed_positions": True,
                "use_alibi_encoder": False, "prenet_depth": 0}  # fmt: skip
    return {"model": {**numbers, "modalities": {"image": modality | image}}}


HUB = {"model_type": "eat", "embed_dim": DIM, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0,
       "model_variant": "pretrain", "auto_map": {"AutoModel": "modeling_eat.EATModel"}}  # fmt: skip
SPEC: dict[str, Any] = {
    "name": "eat_hf", "eat_norm_mean": -5.553, "eat_norm_std": 4.606, "pretrained": False,
    "audio_config": {"sample_rate": 16000, "representation": "raw"},
}  # fmt: skip


def microsoft_names(model: BioEncoder) -> dict[str, torch.Tensor]:
    """The tensors as Microsoft's files name them."""
    table = "self_attn.relative_attention_bias.weight"
    found = {}
    for name, tensor in model.encoder.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        found[name] = tensor.clone()
    for layer in range(LAYERS):
        found[f"encoder.layers.{layer}.{table}"] = found[f"encoder.layers.0.{table}"].clone()
    return found


def microsoft_cfg(**changes: Any) -> dict[str, Any]:
    return {
        "encoder_layers": 2, "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 96,
        "encoder_attention_heads": 4, "activation_fn": "gelu", "layer_norm_first": False,
        "layer_wise_gradient_decay_ratio": 1.0, "deep_norm": True, "dropout": 0.1,
        "attention_dropout": 0.1, "activation_dropout": 0.0, "encoder_layerdrop": 0.05,
        "dropout_input": 0.1, "input_patch_size": 16, "embed_dim": 32, "conv_bias": False,
        "conv_pos": 16, "conv_pos_groups": 4, "relative_position_embedding": True,
        "num_buckets": 32, "max_distance": 100, "gru_rel_pos": True, **changes,
    }  # fmt: skip


def published(**changes: Any) -> torch.nn.Module:
    """A small network of AVES' published configuration (`default_cfg_aves-base-all.json`)."""
    shapes = [(24, 10, 5)] + [(24, 3, 2)] * 4 + [(24, 2, 2)] * 2
    arguments = {
        "extractor_mode": "group_norm", "extractor_conv_layer_config": shapes,
        "extractor_conv_bias": False, "encoder_embed_dim": 128, "encoder_projection_dropout": 0.1,
        "encoder_pos_conv_kernel": 32, "encoder_pos_conv_groups": 16, "encoder_num_layers": 2,
        "encoder_num_heads": 2, "encoder_attention_dropout": 0.1,
        "encoder_ff_interm_features": 200, "encoder_ff_interm_dropout": 0.0,
        "encoder_dropout": 0.1, "encoder_layer_norm_first": False, "encoder_layer_drop": 0.05,
    }  # fmt: skip
    network: torch.nn.Module = torchaudio.models.wav2vec2_model(
        **arguments | {"aux_num_out": None} | changes
    )
    return network.eval()

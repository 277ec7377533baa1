"""Models as other projects publish them, small and random: names, shapes, descriptions."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
import yaml
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

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


MAE_DIM, MAE_HEADS, MAE_BANDS, MAE_COLUMNS = 64, 4, 8, 32
BIRD_MAE: dict[str, Any] = {
    "architectures": ["BirdMAEModel"], "img_size_x": 512, "img_size_y": 128, "patch_size": 16,
    "auto_map": {"AutoConfig": "configuration_bird_mae.BirdMAEConfig",
                 "AutoModel": "modeling_bird_mae.BirdMAEModel"},
    "in_chans": 1, "embed_dim": MAE_DIM, "depth": 2, "num_heads": 4, "mlp_ratio": 4,
    "pos_trainable": False, "qkv_bias": True, "qk_norm": False, "init_values": None,
    "drop_rate": 0.0, "norm_layer_eps": 1e-6, "global_pool": "mean",
    "transformers_version": "4.38.0",
}  # fmt: skip


def scrambled(rows: int = MAE_BANDS, columns: int = MAE_COLUMNS) -> Tensor:
    """MAE's table of a grid of bands x columns; Bird-MAE lays it over tokens in another order."""
    omega = 1.0 / 10000 ** (np.arange(MAE_DIM // 4) / (MAE_DIM // 4))
    h, w = (g.reshape(-1) for g in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    parts = [trig(np.outer(place, omega)) for place in (w, h) for trig in (np.sin, np.cos)]
    table = np.concatenate(parts, 1)
    return torch.from_numpy(np.concatenate([np.zeros((1, MAE_DIM)), table])).float()[None]


def bird_mae() -> VisionTransformer:
    """timm's model of the same formula (its names are those of the file), with random weights."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=(512, 128), patch_size=16, in_chans=1, num_classes=0, embed_dim=MAE_DIM, depth=2,
        num_heads=4, global_pool="", norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.pos_embed.copy_(scrambled())
    return model


def bird_mae_folder(folder: Path, state: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    folder.mkdir()
    if state is None:
        state = bird_mae().state_dict()
    norm = {"fc_norm.weight": torch.randn(MAE_DIM), "fc_norm.bias": torch.randn(MAE_DIM)}
    (folder / "config.json").write_text(json.dumps(BIRD_MAE | changes))
    save_file(state | norm, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


XENOMAE: dict[str, Any] = {
    "model_type": "xenomae", "architectures": ["XenoMAEModel"], "num_mel_bins": 128,
    "num_frames": 512, "patch_size": 16, "num_channels": 1, "hidden_size": MAE_DIM,
    "num_hidden_layers": 2, "num_attention_heads": MAE_HEADS, "mlp_ratio": 4.0, "qkv_bias": True,
    "qkv_norm": True, "layer_norm_eps": 1e-6,
}  # fmt: skip
XENOMAE_HEARS: dict[str, Any] = {
    "feature_extractor_type": "XenoMAEFeatureExtractor", "sampling_rate": 32000, "n_fft": 1024,
    "win_length": None, "hop_length": 320, "f_min": 50.0, "f_max": None, "power": 2.0,
    "top_db": 80.0, "do_peak_normalize": True, "clip_seconds": 5.0, "num_frames": 512,
}  # fmt: skip


def xenomae_tensors() -> dict[str, Tensor]:
    """Every tensor of `XenoMAEModel`, under its names."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, MAE_DIM), "pos_embed": (1, 1 + MAE_BANDS * MAE_COLUMNS, MAE_DIM),
        "patch_embed.proj.weight": (MAE_DIM, 1, 16, 16), "patch_embed.proj.bias": (MAE_DIM,),
        "norm.weight": (MAE_DIM,), "norm.bias": (MAE_DIM,),
    }  # fmt: skip
    for i in range(2):
        for name, shape in {
            "norm1": (MAE_DIM,), "norm2": (MAE_DIM,), "attn.q_norm": (MAE_DIM // MAE_HEADS,),
            "attn.k_norm": (MAE_DIM // MAE_HEADS,), "attn.qkv": (3 * MAE_DIM, MAE_DIM),
            "attn.proj": (MAE_DIM, MAE_DIM),
            "mlp.fc1": (4 * MAE_DIM, MAE_DIM), "mlp.fc2": (MAE_DIM, 4 * MAE_DIM),
        }.items():  # fmt: skip
            shapes[f"blocks.{i}.{name}.weight"] = shape
            shapes[f"blocks.{i}.{name}.bias"] = shape[:1]
    return {name: 0.2 * torch.randn(shape) for name, shape in shapes.items()}


def xenomae_folder(folder: Path, state: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    folder.mkdir()
    hears = XENOMAE_HEARS | {k: changes.pop(k) for k in list(changes) if k not in XENOMAE}
    (folder / "config.json").write_text(json.dumps(XENOMAE | changes))
    (folder / "preprocessor_config.json").write_text(json.dumps(hears))
    save_file(xenomae_tensors() if state is None else state, folder / "model.safetensors")
    return folder


# What ESPnet's recipes write down; the rest are the defaults of its class.
ESPNET = {
    "encoder_layers": 2, "encoder_embed_dim": 48, "encoder_ffn_embed_dim": 96,
    "encoder_attention_heads": 4, "embed_dim": 32, "conv_pos": 16, "conv_pos_groups": 4,
    "deep_norm": True, "relative_position_embedding": True, "gru_rel_pos": True,
    "num_buckets": 32, "max_distance": 100, "encoder_layerdrop": 0.05, "codebook_vocab_size": 1024,
}  # fmt: skip


def espnet_names(model: BioEncoder) -> dict[str, torch.Tensor]:
    table = "self_attn.relative_attention_bias.weight"
    found = {}
    for name, tensor in model.encoder.state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        name = name.replace("parametrizations.weight.original1", "weight_v")
        found[name] = tensor.clone()
    found[f"encoder.layers.1.{table}"] = found[f"encoder.layers.0.{table}"].clone()
    found["patch_embedding_pad.weight"] = torch.ones(1, 1, 16, 16) / 256
    found["raw2fbank_pad.weight"] = torch.ones(1, 1, 400) / 400
    return found


def espnet_file(folder: Path, form: str, state: dict[str, Any], given: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "valid.acc.best.pth"
    if form == "encoder":
        torch.save({"cfg": given, "model": state}, path)
        return path
    whole = {f"encoder.{name}": tensor for name, tensor in state.items()}
    whole["decoder.mask_token"] = torch.zeros(1, 1, 8)
    torch.save(
        {"module": {"module": whole}, "state_dict": {"state_dict": whole}}.get(form, whole), path
    )
    config = {"encoder": "beats", "encoder_conf": {"beats_config": given, "is_pretraining": True}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return path

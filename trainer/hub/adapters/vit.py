"""Translates the names of EAT's files into ours.

`reading.py` opens the files. One EAT can be stored in three ways:

* fairseq's `.pt` (EAT's own, and those of its forks): `cfg` and `model`, with the input part under
  `modality_encoders.IMAGE.`, the decoder of pre-training and, under `_ema`, the teacher; what is
  fine-tuned has `model.` in front of all;
* Hugging Face (EAT's own): `config.json` of model type `eat` and `model.safetensors`, everything
  under `model.`;
* avex: its `train_config.yaml` and a safetensors, either Hugging Face's names under `backbone.`
  with `classifier.*` on CLS (the post-trained models), or fairseq's names as they are (the
  pre-trained ones, which avex itself cannot load: it takes EAT's own weights in silence).

Fixed positions are stored in all three; ours follow from a formula, with which they are compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from dawnchorus.trainer.encoders.base import sincos
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.adapters import Foreign

if TYPE_CHECKING:
    from torch import Tensor

FRONTEND: dict[str, Any] = {
    "frontend": "eat", "sample_rate_hz": 16000, "mel_bins": 128, "mel_mean": -4.268,
    "mel_std": 4.569,
}  # fmt: skip
"""EAT's front end; mean and standard deviation of AudioSet, literals in its code."""
HUB_DEFAULTS: dict[str, Any] = {
    "embed_dim": 768, "depth": 12, "num_heads": 12, "patch_size": 16, "stride": 16, "in_chans": 1,
    "mel_bins": 128, "mlp_ratio": 4.0, "qkv_bias": True, "layer_norm_first": False,
    "norm_eps": 1e-6, "norm_affine": True, "fixed_positions": True,
}  # fmt: skip
"""What `configuration_eat.py` takes for a key that `config.json` leaves out."""
HUB_FIXED = ("in_chans", "qkv_bias", "layer_norm_first", "norm_affine", "fixed_positions")
FAIRSEQ_DEFAULTS: dict[str, Any] = {
    "embed_dim": 768, "depth": 12, "num_heads": 12, "mlp_ratio": 4.0, "norm_eps": 1e-6,
    "layer_norm_first": False, "norm_affine": True,
}  # fmt: skip
"""What EAT's `Data2VecMultiConfig` takes for a key that a file leaves out."""
FAIRSEQ_FIXED = {"layer_norm_first": False, "norm_affine": True}
MODALITY_FIXED = {
    "num_extra_tokens": 1, "in_chans": 1, "fixed_positions": True, "use_alibi_encoder": False,
    "prenet_depth": 0,
}  # fmt: skip
"""The only variant that the encoder builds; another value means other mathematics."""

_LEFT_OUT = re.compile(r"(_ema|decoder|shared_decoder|recon_proj|cls_proj|center)\b")
"""What only EAT's pre-training needs."""
_HEAD = re.compile(r"(head|fc_norm)\.")
_POSITIONS = {"fixed_positional_encoder.positions", "pos_embed"}
_BLOCK = re.compile(r"blocks\.(\d+)\.((?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])\..*)")
_RENAMED = {
    "local_encoder.proj.weight": "patch_embed.weight",
    "local_encoder.proj.bias": "patch_embed.bias",
    "extra_tokens": "cls_token",
    "context_encoder.norm.weight": "norm_pre.weight",
    "context_encoder.norm.bias": "norm_pre.bias",
    "pre_norm.weight": "norm_pre.weight",
    "pre_norm.bias": "norm_pre.bias",
}


def from_torch(path: str, content: Mapping[str, Any]) -> Foreign | None:
    """Fairseq's `.pt` of an EAT, pre-trained or fine-tuned; the weights of the student.

    Raises:
        CheckpointError: it is one, and cannot be used.
    """
    model = content.get("model")
    if not isinstance(model, Mapping) or not any("modality_encoders." in str(k) for k in model):
        return None
    cfg = content.get("cfg")
    cfg = cfg.get("model") if isinstance(cfg, Mapping) else None
    if isinstance(cfg, Mapping) and isinstance(cfg.get("pretrained_model_args"), Mapping):
        cfg = cfg["pretrained_model_args"].get("model")
    image = cfg.get("modalities") if isinstance(cfg, Mapping) else None
    image = image.get("image") if isinstance(image, Mapping) else None
    if not isinstance(cfg, Mapping) or not isinstance(image, Mapping):
        raise CheckpointError(
            f"{path}: an EAT file of fairseq describes its architecture in cfg.model, with "
            "modalities.image; there is no such description in it, and nothing is guessed"
        )
    numbers = FAIRSEQ_DEFAULTS | {k: cfg[k] for k in FAIRSEQ_DEFAULTS if k in cfg}
    _refuse(path, numbers, FAIRSEQ_FIXED)
    _refuse(path, image, MODALITY_FIXED)
    encoder = _section(path, numbers, patch=image.get("patch_size", 16), mel_bins=128)
    return _foreign("fairseq", path, encoder, model)


def from_hub(
    where: str, config: Mapping[str, Any], load: Callable[[], dict[str, Tensor]]
) -> Foreign | None:
    """EAT's Hugging Face layout.

    Args:
        where: its config.json, for messages.
        config: what that says.
        load: reads the safetensors beside it.

    Raises:
        CheckpointError: it is an EAT, and cannot be used.
    """
    if config.get("model_type") != "eat":
        return None
    numbers = HUB_DEFAULTS | {k: config[k] for k in HUB_DEFAULTS if k in config}
    _refuse(where, numbers, {key: HUB_DEFAULTS[key] for key in HUB_FIXED})
    _refuse(where, numbers, {"stride": numbers["patch_size"]})
    patch, bins = numbers["patch_size"], numbers["mel_bins"]
    return _foreign("eat", where, _section(where, numbers, patch=patch, mel_bins=bins), load())


def from_avex(where: str, spec: Mapping[str, Any], state: Mapping[str, Tensor]) -> Foreign | None:
    """Avex's EAT, in either layout. Its numbers follow from the tensors; a head has 64 channels, as
    in every released EAT.

    Args:
        where: its train_config.yaml, for messages.
        spec: its `model_spec`.
        state: tensors of the safetensors.

    Raises:
        CheckpointError: it is an EAT, and cannot be used.
    """
    if spec.get("name") not in ("eat", "eat_hf", "eathf"):
        return None
    names = {_ours(name): tensor for name, tensor in state.items()}
    patch, first = names.get("patch_embed.weight"), names.get("trunk.layers.0.mlp.fc1.weight")
    if patch is None or first is None or patch.dim() != 4:
        raise CheckpointError(
            f"{where}: the safetensors beside it hold no EAT (no patch embedding and blocks; "
            f"there are {len(state)} tensors). The first releases of some were empty: download "
            "the file again"
        )
    layers = {match[1] for name in names if (match := re.match(r"trunk\.layers\.(\d+)\.", name))}
    numbers = {
        "embed_dim": patch.shape[0], "depth": len(layers), "num_heads": patch.shape[0] // 64,
        "mlp_ratio": first.shape[0] / patch.shape[0], "norm_eps": 1e-6,
    }  # fmt: skip
    encoder = _section(where, numbers, patch=patch.shape[-1], mel_bins=128)
    # What avex leaves out of a call it takes from EAT; ESP's own models say both.
    for theirs, mine in (("eat_norm_mean", "mel_mean"), ("eat_norm_std", "mel_std")):
        encoder[mine] = _number(where, theirs, spec.get(theirs) or FRONTEND[mine])
    rate = (spec.get("audio_config") or {}).get("sample_rate", 16000)
    if rate != 16000:
        raise CheckpointError(
            f"{where}: audio_config.sample_rate is {rate!r}; EAT's front end in avex is one of "
            "16,000 Hz, whatever it is fed with. If the weights were trained so, they cannot be "
            "used here; else set it to 16000"
        )
    foreign = _foreign("avex", where, encoder, state)
    foreign.pooling = "cls"
    return foreign


def _foreign(kind: str, where: str, encoder: dict[str, Any], state: Mapping[str, Any]) -> Foreign:
    """The tensors in our names; positions compared and left out, as what only training needs."""
    ours: dict[str, Tensor] = {}
    notes = []
    for theirs, tensor in state.items():
        name = _ours(theirs)
        if _LEFT_OUT.match(name):
            continue
        if name in _POSITIONS:
            _compare_positions(where, theirs, tensor, encoder)
        elif name.startswith("classifier."):
            ours["head." + name.removeprefix("classifier.")] = tensor
        elif _HEAD.match(name):
            notes = [
                f"the head of {where} was left out: it normalises the clip's token first, which "
                "a head here does not"
            ]
        else:
            ours["encoder." + name] = tensor
    return Foreign(kind, encoder, ours, notes=notes)


def _ours(theirs: str) -> str:
    """Our name inside the encoder; what has none keeps its own, so that loading refuses it."""
    name = theirs.removeprefix("backbone.").removeprefix("model.")
    name = name.removeprefix("modality_encoders.IMAGE.")
    if match := _BLOCK.fullmatch(name):
        return f"trunk.layers.{match[1]}.{match[2]}"
    return _RENAMED.get(name, name)


def _compare_positions(where: str, name: str, table: Any, encoder: Mapping[str, Any]) -> None:
    bands, dim = encoder["mel_bins"] // encoder["patch"], encoder["dim"]
    if getattr(table, "dim", int)() != 3 or table.shape[2] != dim or table.shape[1] % bands:
        raise CheckpointError(f"{where}: {name} is no table of positions [1, places, {dim}]")
    ours = sincos(table.shape[1], bands, dim)
    if not torch.allclose(table[0].float(), ours, atol=1e-3):
        raise CheckpointError(
            f"{where}: {name} differs from EAT's positions (the band in the first half of the "
            "channels, the time in the second). Files of AudioMAE's family have them in another "
            "order; their tokens would stand at wrong places"
        )


def _section(
    where: str, numbers: Mapping[str, Any], *, patch: Any, mel_bins: Any
) -> dict[str, Any]:
    """The `encoder` section of a recipe from EAT's names of numbers."""
    dim = int(_number(where, "embed_dim", numbers["embed_dim"]))
    ratio = _number(where, "mlp_ratio", numbers["mlp_ratio"])
    return {
        "name": "vit",
        "layers": int(_number(where, "depth", numbers["depth"])),
        "dim": dim,
        "ffn_dim": round(dim * ratio),
        "heads": int(_number(where, "num_heads", numbers["num_heads"])),
        "patch": int(_number(where, "patch_size", patch)),
        "norm": "post",
        "norm_eps": float(_number(where, "norm_eps", numbers["norm_eps"])),
        **FRONTEND,
        "mel_bins": int(_number(where, "mel_bins", mel_bins)),
    }


def _number(where: str, name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{where}: {name} is {value!r}; it has to be a number")
    return value


def _refuse(where: str, given: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    """Another variant than the encoder builds is an error that names every difference."""
    wrong = [
        f"  {key} is {given[key]!r}, this encoder builds {value!r} only"
        for key, value in fixed.items()
        if key in given and given[key] != value
    ]
    if wrong:
        lines = "\n".join(wrong)
        raise CheckpointError(f"{where}: cannot build this EAT:\n{lines}")

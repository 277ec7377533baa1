"""Translates the names of torchaudio's HuBERT and AVES into ours.

`reading.py` opens the files. AVES and BirdAVES are published as a bare state dict of torchaudio's
`wav2vec2_model` (`.pt`), with a JSON of its arguments beside it. The JSON is not needed: the
arguments follow from the shapes, and all heads have 64 channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from dawnchorus.trainer.encoders.hubert_config import KERNELS
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.adapters import Foreign

if TYPE_CHECKING:
    from torch import Tensor

HEAD_DIM = 64
"""Channels of a head in HuBERT base and large, AVES and BirdAVES."""
_STEM = "feature_extractor.conv_layers"
_POSITION = "encoder.transformer.pos_conv_embed.conv"
_NORM = {"weight_g": "parametrizations.weight.original0",
         "weight_v": "parametrizations.weight.original1"}  # fmt: skip


def from_torch(path: str, content: Mapping[str, Any]) -> Foreign | None:
    """A bare state dict of torchaudio's HuBERT, as AVES and BirdAVES are published.

    Raises:
        CheckpointError: it is one of another kind than HuBERT base, or parts of it are missing.
    """
    if f"{_STEM}.0.conv.weight" not in content:
        return None
    tensors = {k: t for k, t in content.items() if isinstance(t, torch.Tensor)}
    # Some files carry the map to letters or units; an encoder does not need it.
    tensors = {k: t for k, t in tensors.items() if not k.startswith("aux.")}
    for theirs, ours in _NORM.items():
        if f"{_POSITION}.{theirs}" in tensors:
            tensors[f"{_POSITION}.{ours}"] = tensors.pop(f"{_POSITION}.{theirs}")
    encoder = encoder_of(tensors, path)
    return Foreign("torchaudio", encoder, {f"encoder.{k}": t for k, t in tensors.items()})


def encoder_of(state: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """The `encoder` section of a recipe that the shapes of a state dict tell.

    Raises:
        CheckpointError: it is of another kind than HuBERT base, or parts of it are missing.
    """
    first = "encoder.transformer.layers.0"
    needed = (
        f"{_STEM}.0.layer_norm.weight",
        f"{_POSITION}.{_NORM['weight_v']}",
        f"{first}.feed_forward.intermediate_dense.weight",
        f"{first}.attention.q_proj.weight",
    )
    if f"{_STEM}.1.layer_norm.weight" in state or f"{_STEM}.0.conv.bias" in state:
        raise CheckpointError(
            f"{where}: every convolution over samples has a norm or a bias, as in HuBERT large and "
            "X-Large; this encoder builds HuBERT base's kind only, with one norm in the first of "
            "them, which AVES and BirdAVES have in all sizes"
        )
    missing = [name for name in needed if name not in state]
    kernels = tuple(
        state[name].shape[-1]
        for i in range(len(KERNELS) + 1)
        if (name := f"{_STEM}.{i}.conv.weight") in state and state[name].ndim == 3
    )
    if missing or kernels != KERNELS:
        said = f"these are missing: {', '.join(missing)}" if missing else f"kernels are {kernels}"
        raise CheckpointError(
            f"{where} looks like torchaudio's HuBERT, but cannot be one: {said}. Expected a state "
            f"dict of HuBERT base, AVES or BirdAVES, with convolutions of {KERNELS} samples"
        )
    direction = state[f"{_POSITION}.{_NORM['weight_v']}"]
    dim, per_group, kernel = direction.shape
    layer = re.compile(r"encoder\.transformer\.layers\.(\d+)\.")
    if dim % HEAD_DIM or dim % per_group:
        raise CheckpointError(f"{where}: {dim} channels are no whole number of heads of {HEAD_DIM}")
    return {
        "name": "hubert",
        "layers": 1 + max(int(m.group(1)) for name in state if (m := layer.match(name))),
        "dim": dim,
        "ffn_dim": len(state[f"{first}.feed_forward.intermediate_dense.weight"]),
        "heads": dim // HEAD_DIM,
        "conv_dim": len(state[f"{_STEM}.0.conv.weight"]),
        "conv_pos": kernel,
        "conv_pos_groups": dim // per_group,
    }

"""Translates the names of Bird-MAE's files into ours.

`reading.py` opens the files. Bird-MAE is published as Hugging Face folders with code of their own
(`DBD-research-group/Bird-MAE-Base`, `-Large`, `-Huge`): a `config.json` that names the class
`BirdMAEModel`, and a `model.safetensors` with timm's names and no prefix.

Its table of positions was made for a grid of (bands, columns), as AudioMAE's, while its tokens come
column by column. So a token does not have the sines of its place, and the weights were trained so:
the table of the file is kept as it is (`positions: learned`), for at most as many columns as it
has. Bird-MAE's embedding is another as well: the mean of the tokens before a norm of its own
(`fc_norm`). Here it is the mean of the tokens after `norm`, as with every other encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from dawnchorus.trainer.encoders.base import sincos
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.adapters import Foreign

if TYPE_CHECKING:
    from torch import Tensor

FRONTEND: dict[str, Any] = {
    "frontend": "eat", "sample_rate_hz": 32000, "mel_bins": 128, "mel_mean": -7.2, "mel_std": 4.43,
}  # fmt: skip
"""Kaldi's log-mel with a Hann window; literals in Bird-MAE's feature extractor."""
FIXED: dict[str, Any] = {
    "in_chans": 1, "qkv_bias": True, "qk_norm": False, "init_values": None, "norm_layer_eps": 1e-6,
}  # fmt: skip
"""The only variant that was published; another value means other mathematics."""


def from_hub(
    where: str, config: Mapping[str, Any], load: Callable[[], dict[str, Tensor]]
) -> Foreign | None:
    """Bird-MAE's Hugging Face layout.

    Args:
        where: its config.json, for messages.
        config: what that says.
        load: reads the safetensors beside it.

    Raises:
        CheckpointError: it is a Bird-MAE, and cannot be used.
    """
    if not _is_bird_mae(config):
        return None
    wrong = [
        f"  {key} is {config[key]!r}, this encoder builds {value!r} only"
        for key, value in FIXED.items()
        if config.get(key, value) != value
    ]
    if wrong:
        lines = "\n".join(wrong)
        raise CheckpointError(f"{where}: cannot build this Bird-MAE:\n{lines}")
    state = {_ours(name): tensor for name, tensor in load().items()}
    left_out = [name for name in state if name.startswith(("fc_norm.", "head."))]
    encoder = _section(where, config, state)
    kept = {name: tensor for name, tensor in state.items() if name not in left_out}
    notes = [
        f"{where}: embeddings are the mean of the tokens after the last norm; Bird-MAE's own are "
        "the mean of those before it, through fc_norm"
    ]
    if encoder["positions"] == "sincos":
        del kept["pos_embed"]
    return Foreign("bird_mae", encoder, {f"encoder.{k}": t for k, t in kept.items()}, notes=notes)


def _is_bird_mae(config: Mapping[str, Any]) -> bool:
    """Whether its class is Bird-MAE's; `model_type` is what the class says of itself."""
    named = [config.get("model_type"), config.get("architectures"), config.get("auto_map")]
    return "birdmaemodel" in str(named).lower() or config.get("model_type") in (
        "birdmae",
        "bird_mae",
        "bird-mae",
    )


def _ours(theirs: str) -> str:
    """Our name inside the encoder; what has none keeps its own, so that loading refuses it."""
    name = theirs.removeprefix("model.")
    if name.startswith("blocks."):
        return f"trunk.layers.{name.removeprefix('blocks.')}"
    return name.replace("patch_embed.proj.", "patch_embed.")


def _section(where: str, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The `encoder` section of a recipe: sizes from the tensors, heads from the config."""
    patch, table = state.get("patch_embed.weight"), state.get("pos_embed")
    first = state.get("trunk.layers.0.mlp.fc1.weight")
    if patch is None or table is None or first is None or patch.dim() != 4 or table.dim() != 3:
        raise CheckpointError(
            f"{where} says Bird-MAE, but the safetensors beside it hold none: there is no patch "
            f"embedding, table of positions or block among its {len(state)} tensors. Download the "
            "folder again"
        )
    heads, dim, side = config.get("num_heads"), patch.shape[0], patch.shape[-1]
    if not isinstance(heads, int) or isinstance(heads, bool) or heads < 1 or dim % heads:
        raise CheckpointError(
            f"{where}: num_heads is {heads!r}; it has to be a number that divides {dim}, and "
            "cannot be told from the tensors"
        )
    bands = FRONTEND["mel_bins"] // side
    places = table.shape[1] - 1
    if places < bands or places % bands or table.shape[2] != dim:
        raise CheckpointError(
            f"{where}: pos_embed has the shape {tuple(table.shape)}; expected one place for the "
            f"clip and whole columns of {bands} more, of {dim} channels"
        )
    right = torch.allclose(table[0, 1:].float(), sincos(places, bands, dim), atol=1e-3)
    right = right and not table[0, 0].any()
    layers = {name.split(".")[2] for name in state if name.startswith("trunk.layers.")}
    return {
        "name": "vit",
        "layers": len(layers),
        "dim": dim,
        "ffn_dim": first.shape[0],
        "heads": heads,
        "patch": side,
        "norm": "pre",
        "positions": "sincos" if right else "learned",
        "position_times": None if right else places // bands,
        **FRONTEND,
    }

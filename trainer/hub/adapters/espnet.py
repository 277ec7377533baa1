"""Turns BEATs files of ESPnet, OpenBEATs among them, into Microsoft's form.

ESPnet's `espnet2/beats` names the tensors as Microsoft does. What differs:

* two frozen convolutions that only carry padding masks are stored too;
* its `cfg` (`beats_config` in its recipes) holds only what differs from the defaults of its own
  class, which are not Microsoft's;
* mean and scale of the spectrogram are in neither, but arguments of its encoder class.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dawnchorus.trainer.errors import CheckpointError

MASKS = ("raw2fbank_pad.", "patch_embedding_pad.")
# `BeatsConfig` of espnet2/beats/encoder.py, as far as numbers of the encoder go.
DEFAULTS: dict[str, Any] = {
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "embed_dim": 512,
    "input_patch_size": 16,
    "conv_bias": False,
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": False,
    "relative_position_embedding": False,
    "gru_rel_pos": False,
    "num_buckets": 320,
    "max_distance": 1280,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.0,
}
# DEFAULT_FBANK_MEAN and _STD of espnet2/beats/utils.py: of the corpus of OpenBEATs.
FBANK = {"fbank_mean": 15.29130, "fbank_std": 5.90532}
CONFIG = "config.yaml"


def as_microsoft(path: str, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `cfg` and `model` of an ESPnet file; None if it is none.

    Args:
        path: the file. A whole ESPnet model lies beside the `config.yaml` that it was trained by.
        content: what the file holds: an encoder that ESPnet took out of its model (`cfg`, `model`),
            or the whole model with `encoder.` before its names, which DeepSpeed keeps under
            `module` and Lightning under `state_dict`.

    Raises:
        CheckpointError: it is a whole model, and its `config.yaml` is missing or no such file.
    """
    model = content.get("model")
    if isinstance(model, Mapping) and isinstance(content.get("cfg"), Mapping):
        if MASKS[0] + "weight" not in model:
            return None
        # ESPnet does not read a mean or a scale that stands in there.
        return {"cfg": DEFAULTS | dict(content["cfg"]) | FBANK, "model": _encoder(model)}
    for whole in (content, content.get("module"), content.get("state_dict")):
        if isinstance(whole, Mapping) and f"encoder.{MASKS[0]}weight" in whole:
            names = [n for n in whole if isinstance(n, str) and n.startswith("encoder.")]
            state = {name.removeprefix("encoder."): whole[name] for name in names}
            return {"cfg": _config(Path(path)), "model": _encoder(state)}
    return None


def _encoder(state: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in state.items() if not str(name).startswith(MASKS)}


def _config(path: Path) -> dict[str, Any]:
    from dawnchorus.trainer.hub.opening import load_yaml

    where = path.parent / CONFIG
    if not where.is_file():
        raise CheckpointError(
            f"{path} is a whole ESPnet model, and its sizes are in the {CONFIG} that it was "
            "trained by: put that file beside it"
        )
    encoder = load_yaml(where).get("encoder_conf")
    given = encoder.get("beats_config") if isinstance(encoder, Mapping) else None
    if not isinstance(encoder, Mapping) or not isinstance(given or {}, Mapping):
        raise CheckpointError(
            f"{where} has no encoder_conf with a beats_config: it is not of an ESPnet BEATs"
        )
    fbank = {key: encoder.get(key, usual) for key, usual in FBANK.items()}
    return DEFAULTS | dict(given or {}) | fbank

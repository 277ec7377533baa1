"""Translates the names of Microsoft's BEATs files and of avex into ours.

`reading.py` opens the files. One BEATs can be stored in three ways:

* ours: `encoder.<name>` with Microsoft's names, the relative-bias table once (in layer 0),
  weight normalisation as `parametrizations.weight.original0/1`, the head as `head.weight/bias`;
* Microsoft's `.pt`: bare names, the table repeated in every layer, `weight_g`/`weight_v`, the head
  as `predictor.*` applied to each token before the mean (the mean of a linear map is the linear
  map of the mean, so it is our head);
* avex: Microsoft's names under `backbone.`, `original0/1`, the head as `classifier.*`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors.torch import save_file

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.adapters import Foreign
from dawnchorus.trainer.hub.adapters.espnet import as_microsoft

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from dawnchorus.trainer.hub.card import CardFacts

# Our field -> the key in Microsoft's cfg and in avex's init_config.
MODEL_FIELDS = {
    "layers": "encoder_layers",
    "dim": "encoder_embed_dim",
    "ffn_dim": "encoder_ffn_embed_dim",
    "heads": "encoder_attention_heads",
    "patch_dim": "embed_dim",
    "patch": "input_patch_size",
    "conv_pos": "conv_pos",
    "conv_pos_groups": "conv_pos_groups",
    "num_buckets": "num_buckets",
    "max_distance": "max_distance",
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "input_dropout": "dropout_input",
    "layer_drop": "encoder_layerdrop",
}
# Only avex writes these down; Microsoft's code has them as literals.
FRONTEND_FIELDS = {
    "sample_rate_hz": "sample_frequency",
    "mel_bins": "num_mel_bins",
    "mel_mean": "fbank_mean",
    "mel_std": "fbank_std",
}
RELEASED_FRONTEND: dict[str, Any] = {
    "frontend": "beats",
    "sample_rate_hz": 16000,
    "mel_bins": 128,
    "mel_mean": 15.41663,
    "mel_std": 6.55582,
}
# The only variant that the encoder builds; another value means other mathematics.
FIXED = {
    "activation_fn": "gelu",
    "layer_norm_first": False,
    "deep_norm": True,
    "relative_position_embedding": True,
    "gru_rel_pos": True,
    "conv_bias": False,
}
# avex's window and hop are options there; ours are the same for every BEATs.
AVEX_FRAMES = {"frame_length": 25.0, "frame_shift": 10.0}
# What avex 1.4.0's BEATsConfig takes for a key that its YAML leaves out.
AVEX_DEFAULTS: dict[str, Any] = {
    **FIXED,
    **AVEX_FRAMES,
    "encoder_layers": 12,
    "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072,
    "encoder_attention_heads": 12,
    "embed_dim": 512,
    "input_patch_size": 16,
    "conv_pos": 128,
    "conv_pos_groups": 16,
    "num_buckets": 320,
    "max_distance": 800,
    "dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.0,
    "dropout_input": 0.0,
    "encoder_layerdrop": 0.05,
    "sample_frequency": 16000.0,
    "num_mel_bins": 128,
    "fbank_mean": 15.41663,
    "fbank_std": 6.55582,
}
AVEX_HEAD_DIM = 768  # avex 1.4.0 builds its classifier as Linear(768, classes) whatever the encoder

QUANTIZER = ("quantize.", "quantize_layer.")
"""What the files of tokenizers have besides (Microsoft's `Tokenizers.py`, `quantizer.py`)."""
QUANTIZER_NAMES = {
    "quantize_layer.0.weight": "project.0.weight",
    "quantize_layer.0.bias": "project.0.bias",
    "quantize_layer.2.weight": "project.2.weight",
    "quantize_layer.2.bias": "project.2.bias",
    "quantize.embedding.weight": "codebook_VE",
}
QUANTIZER_TRAINING = {
    "quantize.cluster_size", "quantize.embedding.cluster_size", "quantize.embedding.embed_avg",
    "quantize.embedding.initted",
}  # fmt: skip
"""What only their training needed."""

BIAS_TABLE = "self_attn.relative_attention_bias.weight"


def from_torch(path: str, content: Mapping[str, Any]) -> Foreign | None:
    """Microsoft's `.pt`: `cfg`, `model` and, where it was fine-tuned, `label_dict`; or ESPnet's.

    Raises:
        CheckpointError: it is one, and cannot be used.
    """
    espnet = as_microsoft(path, content)
    content = espnet or content
    if not {"cfg", "model"} <= content.keys():
        return None
    if not isinstance(content["cfg"], Mapping) or not isinstance(content["model"], Mapping):
        raise CheckpointError(
            f"{path}: 'cfg' and 'model' of a BEATs file are dictionaries; here they are "
            f"{type(content['cfg']).__name__} and {type(content['model']).__name__}"
        )
    encoder = encoder_from_cfg(content["cfg"], path)
    quantizer, rest = dict[str, Any](), dict[str, Any]()
    for name, tensor in content["model"].items():
        (quantizer if name.startswith(QUANTIZER) else rest)[name] = tensor
    state = state_from_microsoft(rest, path)
    found = Foreign("espnet" if espnet else "microsoft", encoder, state, content.get("label_dict"))
    if quantizer:
        found.parts["quantizer"] = quantizer_from_microsoft(content["cfg"], quantizer, path)
        found.notes.append(f"{path} is a tokenizer: its encoder was read")
    return found


def from_avex(where: str, spec: Mapping[str, Any], state: Mapping[str, Tensor]) -> Foreign | None:
    """Avex's BEATs.

    Args:
        where: its train_config.yaml, for messages.
        spec: its `model_spec`.
        state: tensors of the safetensors.

    Raises:
        CheckpointError: it is a BEATs, and cannot be used.
    """
    if spec.get("name") != "beats":
        return None
    return Foreign("avex", encoder_from_avex(spec, where), state_from_avex(state, where))


def avex_support(encoder: Mapping[str, Any], *, head: bool, pooling: str = "mean") -> str:
    """What avex 1.4.0 can make of this model: "full", "embeddings" or "no".

    It builds only the BEATs front end, and its classifier is a Linear(768, classes) on the mean.
    """
    if encoder["frontend"] != "beats":
        return "no"
    fits = encoder["dim"] == AVEX_HEAD_DIM and pooling == "mean"
    return "full" if not head or fits else "embeddings"


def write_avex(folder: Path, state: Mapping[str, Tensor], facts: CardFacts) -> None:
    """Write avex's names of the tensors, with the `train_config.yaml` that avex wants."""
    theirs = state_to_avex(state, facts.encoder["layers"], head=facts.avex == "full")
    save_file(theirs, folder / f"{facts.repo_name}.safetensors", metadata={"format": "pt"})
    (folder / "train_config.yaml").write_text(_avex_yaml(facts), encoding="utf-8")


def _avex_yaml(facts: CardFacts) -> str:
    """`train_config.yaml`: avex's `model_spec` (it allows no key that it does not know)."""
    window_s = (facts.recipe.get("data") or {}).get("window_s") or 10.0
    spec = {
        "name": "beats",
        "pretrained": False,
        "device": "cpu",
        "init_config": cfg_from_encoder(facts.encoder),
        "audio_config": {
            "sample_rate": facts.encoder["sample_rate_hz"],
            "representation": "raw",
            "normalize": False,
            "target_length_seconds": round(float(window_s)),
            "window_selection": "random",
        },
    }
    call = f'avex.load_model("train_config.yaml", checkpoint_path="{facts.repo_name}.safetensors")'
    return f"# {call}\n" + yaml.safe_dump({"model_spec": spec}, sort_keys=False)


def encoder_from_cfg(cfg: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The `encoder` section of a recipe from Microsoft's `cfg` or avex's full `init_config`.

    Args:
        cfg: Microsoft's keys; front-end keys may be missing (Microsoft's literals then hold).
        where: the file, for messages.

    Raises:
        CheckpointError: a key is missing, or the file describes a variant that the encoder does
            not build (for example without DeepNorm).
    """
    wrong = [
        f"  {key} is {cfg[key]!r}, this encoder builds {value!r} only"
        for key, value in (FIXED | AVEX_FRAMES).items()
        if key in cfg and cfg[key] != value
    ]
    # Microsoft's class, unlike its released files, defaults to deep_norm = False: silence about it
    # may not be taken for True.
    needed = (*MODEL_FIELDS.values(), "deep_norm")
    wrong += [f"  {key} is missing" for key in needed if key not in cfg]
    if wrong:
        lines = "\n".join(wrong)
        raise CheckpointError(f"{where}: cannot build this BEATs:\n{lines}")
    section = {ours: cfg[theirs] for ours, theirs in MODEL_FIELDS.items()}
    frontend = dict(RELEASED_FRONTEND)
    frontend |= {o: cfg[theirs] for o, theirs in FRONTEND_FIELDS.items() if theirs in cfg}
    for ours, value in (section | frontend).items():
        known = RELEASED_FRONTEND.get(ours, 0.0)
        if isinstance(known, str):
            continue
        theirs = (MODEL_FIELDS | FRONTEND_FIELDS)[ours]
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{where}: {theirs} is {value!r}; it has to be a number")
        if ours in RELEASED_FRONTEND:
            frontend[ours] = type(known)(value)
    return {"name": "beats", **section, **frontend}


def encoder_from_avex(spec: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The `encoder` section of a recipe from avex's `model_spec`.

    Args:
        spec: `name: beats`, `init_config`, `audio_config`.
        where: the file, for messages.

    Raises:
        CheckpointError: the sections are no mappings, or they describe a variant that the encoder
            or the front end does not build.
    """
    given, audio = (spec.get(name) or {} for name in ("init_config", "audio_config"))
    if not isinstance(given, dict) or not isinstance(audio, dict):
        raise CheckpointError(f"{where}: init_config and audio_config of model_spec are mappings")
    encoder = encoder_from_cfg(AVEX_DEFAULTS | given, where)
    # avex feeds sound of audio_config's rate to filters of init_config's rate, whether they are
    # the same or not; ours takes both from one number.
    for theirs, ours in (("sample_rate", "sample_rate_hz"), ("n_mels", "mel_bins")):
        raw = theirs == "n_mels" and audio.get("representation", "raw") == "raw"
        if audio.get(theirs) is not None and not raw and audio[theirs] != encoder[ours]:
            raise CheckpointError(
                f"{where}: audio_config.{theirs} is {audio[theirs]!r} and init_config."
                f"{FRONTEND_FIELDS[ours]} {encoder[ours]!r}: avex would feed the one to a filter "
                "bank made for the other, which this front end does not do. If the weights were "
                "trained so, they cannot be used here; else make the two numbers equal"
            )
    return encoder


def cfg_from_encoder(encoder: Mapping[str, Any]) -> dict[str, Any]:
    """The `init_config` of avex (all keys) from the `encoder` section of a recipe."""
    cfg: dict[str, Any] = {theirs: encoder[ours] for ours, theirs in MODEL_FIELDS.items()}
    cfg |= {theirs: encoder[ours] for ours, theirs in FRONTEND_FIELDS.items()}
    cfg["sample_frequency"] = float(cfg["sample_frequency"])
    cfg |= FIXED | AVEX_FRAMES
    cfg |= {"layer_wise_gradient_decay_ratio": 1.0, "finetuned_model": False}
    return dict(sorted(cfg.items()))


def state_from_microsoft(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Our names for the tensors of a Microsoft `.pt` or, without its prefix, of avex's backbone.

    The repeated bias table is reduced to one, the predictor becomes the head.

    Raises:
        CheckpointError: the layers carry different bias tables.
    """
    ours: dict[str, Tensor] = {}
    table: Tensor | None = None
    for name, tensor in state.items():
        if name.startswith("fbank."):
            continue  # avex stores its window and filters; ours follow from the config
        if name.startswith("predictor."):
            ours["head." + name.removeprefix("predictor.")] = tensor
            continue
        if name.endswith(BIAS_TABLE):
            if table is not None and not torch.equal(table, tensor):
                raise CheckpointError(
                    f"{where}: {name} differs from the table of the first layer; BEATs has one "
                    "table for all layers, so this is not a BEATs file or it is damaged"
                )
            table = tensor
            continue
        for theirs, mine in (("weight_g", "original0"), ("weight_v", "original1")):
            if name.endswith("pos_conv.0." + theirs):
                name = name.replace(theirs, f"parametrizations.weight.{mine}")
                break
        ours["encoder." + name] = tensor
    if table is not None:
        ours[f"encoder.encoder.layers.0.{BIAS_TABLE}"] = table
    return ours


def quantizer_from_microsoft(
    cfg: Mapping[str, Any], state: Mapping[str, Tensor], where: str
) -> dict[str, Tensor]:
    """Our names (`objectives/quantizer.py`) for projection and codebook of a tokenizer's `.pt`.

    Args:
        cfg: of the file.
        state: its tensors whose names begin as `QUANTIZER` says.
        where: the file, for messages.

    Raises:
        CheckpointError: a tensor is missing or not known, or shapes and `cfg` disagree.
    """
    problems = [f"  {name} is missing" for name in QUANTIZER_NAMES if name not in state]
    known = QUANTIZER_NAMES.keys() | QUANTIZER_TRAINING
    problems += [f"  {name} is not known" for name in state if name not in known]
    if not problems:
        codes, width = (*state["quantize.embedding.weight"].shape, 0, 0)[:2]
        dim = cfg["encoder_embed_dim"]
        shapes = {
            "quantize_layer.0.weight": (dim, dim),
            "quantize_layer.2.weight": (cfg.get("quant_dim", width), dim),
            "quantize.embedding.weight": (cfg.get("quant_n", codes), cfg.get("quant_dim", width)),
        }
        problems += [
            f"  {name} has the shape {tuple(state[name].shape)}, by cfg it would be {shape}"
            for name, shape in shapes.items()
            if tuple(state[name].shape) != shape
        ]
    if problems:
        lines = "\n".join(problems)
        raise CheckpointError(f"{where}: not a tokenizer of BEATs as Microsoft's are:\n{lines}")
    return {ours: state[theirs] for theirs, ours in QUANTIZER_NAMES.items()}


def state_from_avex(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Our names for the tensors of an avex safetensors: `backbone.*` and `classifier.*`.

    A bare Microsoft layout (no `backbone.`) is read too, as avex itself does.
    """
    plain = {
        name.removeprefix("module.").removeprefix("model."): tensor
        for name, tensor in state.items()
    }
    head = {
        "head." + name.removeprefix("classifier."): tensor
        for name, tensor in plain.items()
        if name.startswith("classifier.")
    }
    backbone = {
        name.removeprefix("backbone."): tensor
        for name, tensor in plain.items()
        if not name.startswith("classifier.")
    }
    ours = state_from_microsoft(backbone, where)
    # avex keeps the AudioSet predictor of the weights it started from, but answers with the
    # classifier; without a classifier it answers with embeddings.
    ours = {name: tensor for name, tensor in ours.items() if not name.startswith("head.")}
    return ours | head


def state_to_avex(state: Mapping[str, Tensor], layers: int, *, head: bool) -> dict[str, Tensor]:
    """The names of avex for our tensors (`encoder.*`, `head.*`), each with memory of its own.

    avex's front end is not stored: it follows from `init_config`.

    Args:
        state: the state dict of a `BioEncoder`.
        layers: number of blocks; each gets a copy of the bias table.
        head: write `classifier.*` where the model has a head.
    """
    theirs: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("encoder.") and name.endswith(BIAS_TABLE):
            for layer in range(layers):
                theirs[f"backbone.encoder.layers.{layer}.{BIAS_TABLE}"] = tensor.clone()
        elif name.startswith("encoder."):
            theirs["backbone." + name.removeprefix("encoder.")] = tensor.clone()
        elif name.startswith("head.") and head:
            theirs["classifier." + name.removeprefix("head.")] = tensor.clone()
    return theirs

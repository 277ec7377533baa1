"""Names: what torchvision, timm and avex call the parts of an EfficientNet that we call ours.

Files are opened elsewhere (`reading.py`).

* ours: `encoder.conv_stem`, `encoder.bn1`, `encoder.stages.<i>.<j>.<timm's name>`, the last
  convolution as `encoder.stages.7`, the head as `head.weight/bias`;
* timm: `blocks` for `stages`, the last convolution as `conv_head` and `bn2`, `classifier.*`;
* torchvision: `features.<i>.<j>.block.<k>`, `classifier.1.*`;
* avex: torchvision's names under `model.`.

The others have three input channels, which avex feeds with the same log-mel three times: our one
channel has the sum of their weights, and they get a third of ours each.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import yaml
from safetensors.torch import save_file

from dawnchorus.trainer.encoders.efficientnet_config import EfficientNetConfig
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.adapters import Foreign

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from dawnchorus.trainer.hub.card import CardFacts

DEPTHS = {"b0": 1.0, "b1": 1.1}
TIMM = {"b0": "efficientnet_b0.ra_in1k", "b1": "efficientnet_b1.ft_in1k"}
"""timm's ImageNet weights; torchvision's IMAGENET1K_V1, from which AVEX starts, are the same."""
# What of avex's audio_config the front end computes in one way only; avex 1.4.0's defaults.
FIXED = {"window": "hann", "representation": "mel_spectrogram", "normalize": True, "center": True}
DEFAULTS = {"sample_rate": 16000, "n_fft": 2048, "n_mels": 128}
# Parts of a block: torchvision's number and name -> timm's name.
_PARTS = {
    "0.0": "conv_pw", "0.1": "bn1", "1.0": "conv_dw", "1.1": "bn2", "2.fc1": "se.conv_reduce",
    "2.fc2": "se.conv_expand", "3.0": "conv_pwl", "3.1": "bn3",
}  # fmt: skip
_FIRST_PARTS = {
    "0.0": "conv_dw", "0.1": "bn1", "1.fc1": "se.conv_reduce", "1.fc2": "se.conv_expand",
    "2.0": "conv_pw", "2.1": "bn2",
}  # fmt: skip
_TORCHVISION = re.compile(r"features\.(\d+)\.(\d+)\.block\.(\d\.\w+)$")
_ENDS = {
    "features.0.0": "conv_stem", "features.0.1": "bn1",
    "features.8.0": "stages.7.conv_head", "features.8.1": "stages.7.bn2",
}  # fmt: skip


def pretrained(encoder: EfficientNetConfig, which: str) -> dict[str, Tensor]:
    """Weights of an encoder after ImageNet, fetched by timm, without the prefix `encoder.`.

    Raises:
        CheckpointError: there are none for these numbers, or they cannot be fetched.
    """
    variant = variant_of(dataclasses.asdict(encoder))
    if variant is None:
        raise CheckpointError(
            f"encoder.pretrained={which}: there are such weights for EfficientNet-B0 and B1 only "
            "(encoder=efficientnet_b0 or efficientnet_b1); take one of them, or "
            "encoder.pretrained=null"
        )
    import timm

    name = TIMM[variant]
    try:
        theirs = timm.create_model(name, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # whatever the client or the network raises
        first = (str(error).strip().splitlines() or [""])[0]
        raise CheckpointError(
            f"encoder.pretrained={which}: timm cannot fetch {name} ({type(error).__name__}: "
            f"{first}). Fetch it once where there is a network, into the same HF_HOME: "
            f"python -c \"import timm; timm.create_model('{name}', pretrained=True)\". "
            "Or start from random weights (encoder.pretrained=null) or from others (init_from)"
        ) from None
    state = state_from_timm(theirs)
    return {name.removeprefix("encoder."): tensor for name, tensor in state.items()}


def variant_of(encoder: Mapping[str, Any]) -> str | None:
    """`b0` or `b1`, if an `encoder` section has the size of one."""
    if encoder["width"] != 1 or encoder["dim"] != 1280:
        return None
    return next((name for name, depth in DEPTHS.items() if depth == encoder["depth"]), None)


def from_torch(path: str, content: Mapping[str, Any]) -> Foreign | None:
    """A bare state dict of torchvision's or timm's EfficientNet-B0 or B1.

    Such weights come from pictures and say nothing of a front end: it is AVEX's.
    """
    for kind, stem, translate in (
        ("torchvision", "features.0.0.weight", state_from_torchvision),
        ("timm", "conv_stem.weight", state_from_timm),
    ):
        if stem in content and all(isinstance(t, torch.Tensor) for t in content.values()):
            state = translate(content)
            return Foreign(kind, {"name": "efficientnet", "depth": _depth(state, path)}, state)
    return None


def from_avex(where: str, spec: Mapping[str, Any], state: Mapping[str, Tensor]) -> Foreign | None:
    """Avex's EfficientNet.

    Args:
        where: its train_config.yaml, for messages.
        spec: its `model_spec`.
        state: tensors of the safetensors.

    Raises:
        CheckpointError: it is an EfficientNet, and cannot be used.
    """
    if spec.get("name") != "efficientnet":
        return None
    encoder = encoder_from_avex(spec, where)
    plain = {name.removeprefix("module.").removeprefix("model."): t for name, t in state.items()}
    ours = state_from_torchvision(plain)
    if _depth(ours, where) != encoder["depth"]:
        raise CheckpointError(
            f"{where}: the tensors are not those of the variant that it names "
            f"(efficientnet_variant {spec.get('efficientnet_variant', 'b0')!r})"
        )
    return Foreign("avex", encoder, ours)


def encoder_from_avex(spec: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The `encoder` section of a recipe from avex's `model_spec`.

    Raises:
        CheckpointError: another variant, or a front end that is not built here.
    """
    audio = spec.get("audio_config") or {}
    variant = spec.get("efficientnet_variant") or "b0"
    if not isinstance(audio, dict) or variant not in DEPTHS:
        raise CheckpointError(
            f"{where}: model_spec has an audio_config, a mapping, and efficientnet_variant b0 or "
            f"b1; here they are {type(audio).__name__} and {variant!r}"
        )
    numbers = DEFAULTS | {key: value for key, value in audio.items() if value is not None}
    n_fft = numbers["n_fft"]
    wanted = FIXED | {"win_length": n_fft}
    wrong = [
        f"  {key} is {numbers[key]!r}, this front end computes {value!r} only"
        for key, value in wanted.items()
        if numbers.get(key, value) != value
    ]
    if wrong:
        lines = "\n".join(wrong)
        raise CheckpointError(f"{where}: cannot build the front end of audio_config:\n{lines}")
    return {
        "name": "efficientnet",
        "depth": DEPTHS[variant],
        "sample_rate_hz": numbers["sample_rate"],
        "mel_bins": numbers["n_mels"],
        "n_fft": n_fft,
        "hop_samples": numbers.get("hop_length", n_fft // 4),
    }


def state_from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for torchvision's tensors; what has no name here keeps its own."""
    ours = {}
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        mine = name.replace("classifier.1.", "head.")
        if match := _TORCHVISION.match(owner):
            stage, block, number = match.groups()
            part = (_FIRST_PARTS if stage == "1" else _PARTS).get(number)
            if part is not None:
                mine = f"encoder.stages.{int(stage) - 1}.{block}.{part}.{leaf}"
        elif owner in _ENDS:
            mine = f"encoder.{_ENDS[owner]}.{leaf}"
        ours[mine] = tensor
    return _ours(ours)


def state_from_timm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names for timm's tensors."""
    ours = {}
    for name, tensor in state.items():
        if name.startswith(("conv_head.", "bn2.")):
            ours[f"encoder.stages.7.{name}"] = tensor
        elif name.startswith("classifier."):
            ours[name.replace("classifier.", "head.")] = tensor
        else:
            ours["encoder." + re.sub(r"^blocks\.", "stages.", name)] = tensor
    return _ours(ours)


def _ours(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """One input channel; without the counts of updates."""
    state = {k: t for k, t in state.items() if not k.endswith("num_batches_tracked")}
    stem = state.get("encoder.conv_stem.weight")
    if stem is not None and stem.ndim == 4 and stem.shape[1] == 3:
        state["encoder.conv_stem.weight"] = stem.sum(1, keepdim=True)
    return state


def _depth(state: Mapping[str, Tensor], where: str) -> float:
    """B0's or B1's depth, by the number of blocks in each stage."""
    there = {
        m.groups() for name in state if (m := re.match(r"encoder\.stages\.(\d)\.(\d+)\.", name))
    }
    counts = [sum(stage == str(i) for stage, _ in there) for i in range(7)]
    for depth in DEPTHS.values():
        if counts == [stage.blocks for stage in EfficientNetConfig(depth=depth).stages]:
            return depth
    raise CheckpointError(
        f"{where}: {counts} blocks in its stages: an EfficientNet, but neither B0 nor B1"
    )


# --------------------------------------------------------------------------- to avex


def avex_support(encoder: Mapping[str, Any], *, head: bool, pooling: str = "mean") -> str:
    """What avex 1.4.0 can make of this model: "full", "embeddings" or "no".

    It builds B0 and B1, and its classifier is a linear map of the mean.
    """
    if variant_of(encoder) is None:
        return "no"
    return "full" if not head or pooling == "mean" else "embeddings"


def write_avex(folder: Path, state: Mapping[str, Tensor], facts: CardFacts) -> None:
    """Write avex's names of the tensors, with the `train_config.yaml` that avex wants."""
    theirs = state_to_avex(state, head=facts.avex == "full")
    save_file(theirs, folder / f"{facts.repo_name}.safetensors", metadata={"format": "pt"})
    window_s = (facts.recipe.get("data") or {}).get("window_s") or 10.0
    spec = {
        "name": "efficientnet",
        "pretrained": False,
        "device": "cpu",
        "efficientnet_variant": variant_of(facts.encoder),
        "audio_config": {
            "sample_rate": facts.encoder["sample_rate_hz"],
            "n_fft": facts.encoder["n_fft"],
            "hop_length": facts.encoder["hop_samples"],
            "win_length": facts.encoder["n_fft"],
            "n_mels": facts.encoder["mel_bins"],
            **FIXED,
            "target_length_seconds": round(float(window_s)),
            "window_selection": "random",
        },
    }
    call = f'avex.load_model("train_config.yaml", checkpoint_path="{facts.repo_name}.safetensors")'
    text = f"# {call}\n" + yaml.safe_dump({"model_spec": spec}, sort_keys=False)
    (folder / "train_config.yaml").write_text(text, encoding="utf-8")


def state_to_avex(state: Mapping[str, Tensor], *, head: bool) -> dict[str, Tensor]:
    """The names of avex for our tensors (`encoder.*`, `head.*`), each with memory of its own."""
    theirs: dict[str, Tensor] = {}
    ends = {mine: name for name, mine in _ENDS.items()}
    for name, tensor in state.items():
        if name.startswith("head.") and head:
            theirs[name.replace("head.", "model.classifier.1.")] = tensor.clone()
        if not name.startswith("encoder."):
            continue
        owner, _, leaf = name.removeprefix("encoder.").rpartition(".")
        if owner in ends:
            place = ends[owner]
        else:
            _, stage, block, part = owner.split(".", 3)
            parts = _FIRST_PARTS if stage == "0" else _PARTS
            number = next(number for number, mine in parts.items() if mine == part)
            place = f"features.{int(stage) + 1}.{block}.block.{number}"
        theirs[f"model.{place}.{leaf}"] = tensor.clone()
        if leaf == "running_var":
            theirs[f"model.{place}.num_batches_tracked"] = torch.zeros((), dtype=torch.int64)
    stem = theirs["model.features.0.0.weight"]
    theirs["model.features.0.0.weight"] = (stem / 3).repeat(1, 3, 1, 1)
    return theirs

"""Translates the names of XenoMAE's files into ours.

`reading.py` opens the files. XenoMAE (Earth Species Project, bioacoustic-ssl) is published as
Hugging Face folders of model type `xenomae`, in earlier revisions `birdmae2`: `config.json`,
`preprocessor_config.json` with the numbers of its front end, and `model.safetensors`, in which a
classifier has the encoder under `encoder.`.

Its tokens come band by band, here column by column: patches are turned, and the rows of its table
of positions are put into our order. That table has the column in the first half of its channels and
the band in the second, the other way round than ours, so it is kept as it is (`positions:
learned`), for clips of as many columns as it has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dawnchorus.trainer.encoders.vit_config import VitConfig
from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.adapters import Foreign

if TYPE_CHECKING:
    from torch import Tensor

NUMBERS: dict[str, Any] = {
    "num_mel_bins": 128, "num_frames": 512, "patch_size": 16, "num_channels": 1,
    "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "mlp_ratio": 4.0,
    "qkv_bias": True, "qkv_norm": True, "layer_norm_eps": 1e-6,
}  # fmt: skip
"""What `configuration_xenomae.py` takes for a key that `config.json` leaves out."""
FIXED = {"num_channels": 1, "qkv_bias": True}
HEARS: dict[str, Any] = {
    "sampling_rate": 32000, "n_fft": 1024, "hop_length": 320, "f_min": 50.0, "top_db": 80.0,
    "do_peak_normalize": True, "win_length": None, "f_max": None, "power": 2.0,
}  # fmt: skip
"""What `feature_extraction_xenomae.py` takes for a key that the other file leaves out."""
HEARS_FIXED = {"win_length": None, "f_max": None, "power": 2.0}
QK_NORM_EPS = 1e-5
"""torch's default, which `modeling_xenomae.py` leaves there, unlike in its other norms."""
_ABOVE_0 = ("patch_size", "sampling_rate", "hop_length", "n_fft", "num_frames")
_LEFT_OUT = ("head.", "layer_weights", "layer_norms.")
"""The classifier, which mixes all layers and compares tokens with prototypes."""


def from_hub(
    where: str, config: Mapping[str, Any], load: Callable[[], dict[str, Tensor]]
) -> Foreign | None:
    """XenoMAE's Hugging Face layout, of the encoder or of the classifier.

    Args:
        where: its config.json; the front end's numbers lie beside it.
        config: what that says.
        load: reads the safetensors beside it.

    Raises:
        CheckpointError: it is one, and cannot be used.
    """
    if config.get("model_type") not in ("xenomae", "birdmae2"):
        return None
    numbers = NUMBERS | {k: config[k] for k in NUMBERS if k in config}
    _refuse(where, numbers, FIXED)
    beside = Path(where).with_name("preprocessor_config.json")
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
        hears = HEARS | {k: said[k] for k in HEARS if k in said}
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{beside} cannot be read ({error}), and how XenoMAE hears is written there alone: "
            "download the whole folder"
        ) from None
    _refuse(str(beside), hears, HEARS_FIXED)
    encoder = _section(where, numbers, hears)
    bands, times = numbers["num_mel_bins"] // encoder["patch"], encoder["position_times"]
    state: dict[str, Tensor] = {}
    found = load()
    notes = []
    for theirs, tensor in found.items():
        if theirs.startswith(_LEFT_OUT):
            notes = [f"the head of {where} was left out: it reads all layers through prototypes"]
            continue
        name = theirs.removeprefix("encoder.")
        if name == "patch_embed.proj.weight" and tensor.dim() == 4:
            tensor = tensor.transpose(2, 3).contiguous()
        if name == "pos_embed":
            tensor = _by_column(where, tensor, bands, times)
        if name.startswith("blocks."):
            name = f"trunk.layers.{name.removeprefix('blocks.')}"
        state["encoder." + name.replace("patch_embed.proj.", "patch_embed.")] = tensor
    return Foreign("xenomae", encoder, state, pooling="mean", notes=notes)


def _by_column(where: str, table: Tensor, bands: int, times: int) -> Tensor:
    """Rows for CLS and for places column by column, from places band by band."""
    if table.dim() != 3 or table.shape[:2] != (1, 1 + bands * times):
        raise CheckpointError(
            f"{where}: pos_embed has the shape {tuple(table.shape)}; expected one place for the "
            f"clip and {bands} x {times} more"
        )
    ordered = table.clone()
    places = table[:, 1:].reshape(1, bands, times, -1)
    ordered[:, 1:] = places.transpose(1, 2).flatten(1, 2)
    return ordered


def _section(where: str, numbers: Mapping[str, Any], hears: Mapping[str, Any]) -> dict[str, Any]:
    """The `encoder` section of a recipe."""
    whole = {k: numbers[k] for k in NUMBERS if isinstance(NUMBERS[k], int | float)}
    whole |= {k: hears[k] for k in ("sampling_rate", "n_fft", "hop_length", "f_min", "top_db")}
    wrong = [
        k
        for k, v in whole.items()
        if not isinstance(v, int | float) or v < 0 or (k in _ABOVE_0 and not v)
    ]
    if not wrong:
        wrong = [k for k in ("num_mel_bins", "num_frames") if numbers[k] % numbers["patch_size"]]
    if wrong:
        raise CheckpointError(
            f"{where}: {wrong[0]} is {whole[wrong[0]]!r}; it has to be a number that goes with the "
            "others"
        )
    # As a recipe says them: nothing where they follow from the rate.
    rate, usual = hears["sampling_rate"], VitConfig(sample_rate_hz=hears["sampling_rate"])
    n_fft, hop = hears["n_fft"], hears["hop_length"]
    return {
        "name": "vit",
        "layers": numbers["num_hidden_layers"],
        "dim": numbers["hidden_size"],
        "ffn_dim": int(numbers["hidden_size"] * numbers["mlp_ratio"]),
        "heads": numbers["num_attention_heads"],
        "patch": numbers["patch_size"],
        "norm": "pre",
        "norm_eps": numbers["layer_norm_eps"],
        "qk_norm": bool(numbers["qkv_norm"]),
        "qk_norm_eps": QK_NORM_EPS,
        "positions": "learned",
        "position_times": numbers["num_frames"] // numbers["patch_size"],
        "frontend": "mel_db",
        "sample_rate_hz": rate,
        "mel_bins": numbers["num_mel_bins"],
        "n_fft": None if n_fft == usual.fft_samples else n_fft,
        "hop_samples": None if hop == usual.hop else hop,
        "low_hz": float(hears["f_min"]),
        "top_db": float(hears["top_db"]),
        "peak_normalise": bool(hears["do_peak_normalize"]),
    }


def _refuse(where: str, given: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
    wrong = [
        f"  {key} is {given[key]!r}, this encoder builds {value!r} only"
        for key, value in fixed.items()
        if given[key] != value
    ]
    if wrong:
        lines = "\n".join(wrong)
        raise CheckpointError(f"{where}: cannot build this XenoMAE:\n{lines}")

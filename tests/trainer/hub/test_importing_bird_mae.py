"""Bird-MAE's folders as Hugging Face has them, with random weights, against timm's own model.

Shape legend: B clips, N tokens, T frames, F mel bins.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torchaudio.compliance import kaldi

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.importing import initialise_from, load_model
from dawnchorus.trainer.registry import build_encoder

DIM, COLUMNS, BANDS = 64, 32, 8
CONFIG: dict[str, Any] = {
    "architectures": ["BirdMAEModel"], "img_size_x": 512, "img_size_y": 128, "patch_size": 16,
    "auto_map": {"AutoConfig": "configuration_bird_mae.BirdMAEConfig",
                 "AutoModel": "modeling_bird_mae.BirdMAEModel"},
    "in_chans": 1, "embed_dim": DIM, "depth": 2, "num_heads": 4, "mlp_ratio": 4,
    "pos_trainable": False, "qkv_bias": True, "qk_norm": False, "init_values": None,
    "drop_rate": 0.0, "norm_layer_eps": 1e-6, "global_pool": "mean",
    "transformers_version": "4.38.0",
}  # fmt: skip


def scrambled(rows: int = BANDS, columns: int = COLUMNS) -> Tensor:
    """MAE's table of a grid of bands x columns; Bird-MAE lays it over tokens in another order."""
    omega = 1.0 / 10000 ** (np.arange(DIM // 4) / (DIM // 4))
    h, w = (g.reshape(-1) for g in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    parts = [trig(np.outer(place, omega)) for place in (w, h) for trig in (np.sin, np.cos)]
    table = np.concatenate(parts, 1)
    return torch.from_numpy(np.concatenate([np.zeros((1, DIM)), table])).float()[None]


def bird_mae() -> VisionTransformer:
    """timm's model of the same formula (its names are those of the file), with random weights."""
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=(512, 128), patch_size=16, in_chans=1, num_classes=0, embed_dim=DIM, depth=2,
        num_heads=4, global_pool="", norm_layer=partial(nn.LayerNorm, eps=1e-6),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.pos_embed.copy_(scrambled())
    return model


def write(folder: Path, state: dict[str, Tensor] | None = None, **changes: Any) -> Path:
    folder.mkdir()
    if state is None:
        state = bird_mae().state_dict()
    norm = {"fc_norm.weight": torch.randn(DIM), "fc_norm.bias": torch.randn(DIM)}
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    save_file(state | norm, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def features(wav_T: Tensor) -> Tensor:
    """Bird-MAE's feature extractor, without what it pads, [T, F]."""
    mel_TF = kaldi.fbank(
        wav_T[None], htk_compat=True, sample_frequency=32000, use_energy=False,
        window_type="hanning", num_mel_bins=128, dither=0.0, frame_shift=10,
    )  # fmt: skip
    return (mel_TF + 7.2) / (2 * 4.43)


def test_tokens_are_those_of_timm(tmp_path: Path) -> None:
    """From the waveform on, for a clip of full length and one in a padded batch."""
    loaded = load_model(write(tmp_path / "Bird-MAE-Base"))
    assert loaded.kind == "bird_mae" and "fc_norm" in loaded.weights.notes[0]
    c = loaded.model.encoder.config
    assert (c.sample_rate_hz, c.norm, c.heads, c.position_times) == (32000, "pre", 4, 32)
    wav_BT = 0.1 * torch.randn(2, 32 * 16 * 320 + 480)
    length_B = torch.tensor([wav_BT.shape[1], 50000])
    with torch.no_grad():
        out = loaded.model(wav_BT, length_B)
        theirs = bird_mae()(features(wav_BT[0])[None, None, :512])[0]
        torch.testing.assert_close(out.tokens_BND[0], theirs, atol=1e-4, rtol=0)
        alone = loaded.model(wav_BT[1:, :50000]).tokens_BND[0]
    own = int(out.valid_BN[1].sum())
    assert own == len(alone) == 1 + BANDS * (((50000 - 800) // 320 + 1) // 16)
    torch.testing.assert_close(out.tokens_BND[1, :own], alone, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"longer than encoder\.position_times"):
        loaded.model(torch.zeros(1, 6 * 32000))


def test_it_starts_an_encoder_of_the_same_numbers(tmp_path: Path) -> None:
    write(tmp_path / "in")
    section = {"name": "vit", "layers": 2, "dim": DIM, "ffn_dim": 4 * DIM, "heads": 4,
               "norm": "pre", "sample_rate_hz": 32000,
               "mel_mean": -7.2, "mel_std": 4.43}  # fmt: skip
    here = build_encoder(section | {"positions": "learned", "position_times": 32})
    initialise_from(here, tmp_path / "in")
    assert torch.equal(here.state_dict()["pos_embed"], scrambled())
    with pytest.raises(CheckpointError, match=r"positions: 'learned' in the file, 'sincos' here"):
        initialise_from(build_encoder(section), tmp_path / "in")


def test_a_table_in_the_right_order_is_the_formula(tmp_path: Path) -> None:
    state = bird_mae().state_dict()
    ordered = scrambled(COLUMNS, BANDS)
    loaded = load_model(write(tmp_path / "right", state | {"pos_embed": ordered}))
    assert loaded.model.encoder.config.positions == "sincos"


def test_what_is_refused(tmp_path: Path) -> None:
    def refused(path: Path, said: str) -> None:
        with pytest.raises(CheckpointError, match=said):
            load_model(path)

    state = bird_mae().state_dict()

    def without(*names: str) -> dict[str, Tensor]:
        return {k: v for k, v in state.items() if not k.startswith(names)}

    refused(write(tmp_path / "qk", qk_norm=True), "qk_norm is True")
    refused(write(tmp_path / "scale", init_values=1e-5), "init_values is 1e-05")
    refused(write(tmp_path / "heads", num_heads=None), "num_heads is None")
    refused(write(tmp_path / "seven", num_heads=7), "divides 64")
    refused(write(tmp_path / "empty", {"x": torch.zeros(1)}), "hold none")
    refused(write(tmp_path / "norm", without("norm.")), r"missing: encoder\.norm\.weight")
    refused(write(tmp_path / "block", without("blocks.0.attn.qkv")), "missing: .*layers.0.attn.qkv")
    more = state | {"decoder_embed.weight": torch.zeros(2)}
    refused(write(tmp_path / "more", more), r"not part of the model: encoder\.decoder_embed")
    short = state | {"pos_embed": torch.zeros(1, 255, DIM)}
    refused(write(tmp_path / "short", short), r"pos_embed has the shape \(1, 255, 64\)")
    other = {"architectures": ["ViTMAEModel"], "auto_map": None, "model_type": "vit_mae"}
    refused(write(tmp_path / "other", **other), "'vit_mae' model")

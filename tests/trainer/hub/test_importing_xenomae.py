"""XenoMAE's folders as Hugging Face has them, with random weights, against its own formula.

Shape legend: B clips, N tokens, T frames, F mel bins, D channels.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchaudio.transforms as T
from foreign_models import MAE_BANDS as BANDS
from foreign_models import MAE_COLUMNS as COLUMNS
from foreign_models import MAE_DIM as DIM
from foreign_models import MAE_HEADS as HEADS
from foreign_models import xenomae_folder as write
from foreign_models import xenomae_tensors as tensors
from torch import Tensor

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.importing import initialise_from, load_model
from dawnchorus.trainer.recipe import load_recipe
from dawnchorus.trainer.registry import build_encoder


def xenomae(w: dict[str, Tensor], wav_T: Tensor) -> Tensor:
    """Tokens of one clip of 512 frames: CLS, then band by band, [N, D]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mel = T.MelSpectrogram(32000, n_fft=1024, hop_length=320, f_min=50.0, n_mels=128)
    power_FT = mel(wav_T / wav_T.abs().max())
    image = 2 * (T.AmplitudeToDB("power", 80.0)(power_FT[None, None]) + 80) / 80 - 1
    x = F.conv2d(image[..., :512], w["patch_embed.proj.weight"], w["patch_embed.proj.bias"],
                 stride=16).flatten(2).transpose(1, 2)  # fmt: skip
    x = torch.cat([w["cls_token"], x], 1) + w["pos_embed"]
    for i in range(2):
        p = {k.removeprefix(f"blocks.{i}."): v for k, v in w.items() if f"blocks.{i}." in k}
        y = F.layer_norm(x, (DIM,), p["norm1.weight"], p["norm1.bias"], 1e-6)
        qkv = y @ p["attn.qkv.weight"].T + p["attn.qkv.bias"]
        q, k, v = qkv.view(1, -1, 3, HEADS, DIM // HEADS).permute(2, 0, 3, 1, 4)
        # torch's own epsilon here: modeling_xenomae.py leaves it out.
        q = F.layer_norm(q, q.shape[-1:], p["attn.q_norm.weight"], p["attn.q_norm.bias"])
        k = F.layer_norm(k, k.shape[-1:], p["attn.k_norm.weight"], p["attn.k_norm.bias"])
        out = (q @ k.mT / (DIM // HEADS) ** 0.5).softmax(-1) @ v
        out = out.transpose(1, 2).reshape(1, -1, DIM)
        x = x + out @ p["attn.proj.weight"].T + p["attn.proj.bias"]
        y = F.layer_norm(x, (DIM,), p["norm2.weight"], p["norm2.bias"], 1e-6)
        y = F.gelu(y @ p["mlp.fc1.weight"].T + p["mlp.fc1.bias"])
        x = x + y @ p["mlp.fc2.weight"].T + p["mlp.fc2.bias"]
    return F.layer_norm(x, (DIM,), w["norm.weight"], w["norm.bias"], 1e-6)[0]


def test_tokens_are_xenomae_s_from_the_waveform_on(tmp_path: Path) -> None:
    """Theirs band by band, ours column by column; a classifier's folder holds the same encoder."""
    loaded = load_model(write(tmp_path / "encoder"))
    wav_T = 0.1 * torch.randn(511 * 320)
    theirs_ND = xenomae(tensors(), wav_T)
    with torch.no_grad():
        ours_ND = loaded.model(wav_T[None]).tokens_BND[0]
    torch.testing.assert_close(ours_ND[0], theirs_ND[0], atol=5e-5, rtol=0)
    by_column = theirs_ND[1:].view(BANDS, COLUMNS, DIM).transpose(0, 1).flatten(0, 1)
    torch.testing.assert_close(ours_ND[1:], by_column, atol=5e-5, rtol=0)
    assert loaded.kind == "xenomae" and not loaded.weights.notes
    head = {"head.class_bias": torch.zeros(5), "layer_weights": torch.zeros(2),
            "layer_norms.0.weight": torch.ones(DIM)}  # fmt: skip
    state = {f"encoder.{k}": v for k, v in tensors().items()} | head
    whole = load_model(write(tmp_path / "classifier", state, model_type="birdmae2"))
    with torch.no_grad():
        assert torch.equal(whole.model(wav_T[None]).tokens_BND[0], ours_ND)
    assert "prototypes" in whole.weights.notes[0] and whole.labels is None


def test_it_starts_an_encoder_of_the_shipped_numbers(tmp_path: Path) -> None:
    recipe = load_recipe("ssl_mae_xc_32k", [
        "encoder.layers=2", f"encoder.dim={DIM}", f"encoder.ffn_dim={4 * DIM}",
        f"encoder.heads={HEADS}", "encoder.positions=learned", f"encoder.position_times={COLUMNS}",
    ])  # fmt: skip
    encoder = build_encoder(recipe.encoder)
    initialise_from(encoder, write(tmp_path / "encoder"))
    assert torch.equal(encoder.state_dict()["cls_token"], tensors()["cls_token"])


def test_how_it_hears_is_what_its_folder_says(tmp_path: Path) -> None:
    loaded = load_model(write(tmp_path / "other", hop_length=160, top_db=60.0, f_min=0.0))
    c: Any = loaded.model.encoder.config
    assert (c.hop, c.top_db, c.low_hz, c.fft_samples) == (160, 60.0, 0.0, 1024)


def test_what_is_refused(tmp_path: Path) -> None:
    def refused(path: Path, said: str) -> None:
        with pytest.raises(CheckpointError, match=said):
            load_model(path)

    state = tensors()
    refused(write(tmp_path / "bias", qkv_bias=False), "qkv_bias is False")
    refused(write(tmp_path / "top", f_max=12000.0), "f_max is 12000.0")
    refused(write(tmp_path / "odd", num_frames=500), "num_frames is 500")
    refused(write(tmp_path / "text", hidden_size="64"), "hidden_size is '64'")
    refused(write(tmp_path / "deep", num_hidden_layers=3), r"missing: encoder\.trunk\.layers\.2")
    refused(write(tmp_path / "table", num_frames=256), "8 x 16 more")
    refused(write(tmp_path / "more", state | {"decoder.x": torch.zeros(1)}), "not part of the mod")
    alone = write(tmp_path / "alone")
    (alone / "preprocessor_config.json").unlink()
    refused(alone, "how XenoMAE hears")

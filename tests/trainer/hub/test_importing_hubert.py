"""AVES and BirdAVES as they are published: a bare state dict of torchaudio's HuBERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_models import published
from torch import Tensor

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.importing import load_model


@pytest.mark.parametrize("old_names", [False, True])
def test_aves(tmp_path: Path, old_names: bool) -> None:
    theirs = published(aux_num_out=7)
    state: dict[str, Tensor] = dict(theirs.state_dict())
    if old_names:  # torch before 2.0
        conv = "encoder.transformer.pos_conv_embed.conv"
        for ours, old in (("original0", "weight_g"), ("original1", "weight_v")):
            state[f"{conv}.{old}"] = state.pop(f"{conv}.parametrizations.weight.{ours}")
    torch.save(state, tmp_path / "aves.pt")
    loaded = load_model(tmp_path / "aves.pt")
    assert (loaded.kind, loaded.labels) == ("torchaudio", None)
    wav_BT = 0.1 * torch.randn(2, 8000)
    with torch.no_grad():
        layers, _ = theirs.extract_features(wav_BT)
        out = loaded.model(wav_BT, layers=True)
    for ours_BND, theirs_BND in zip(out.layers[1:], layers, strict=True):
        torch.testing.assert_close(ours_BND, theirs_BND, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "lost", "said"),
    [
        ({"extractor_mode": "layer_norm"}, "", "HuBERT base's kind only"),
        ({"extractor_conv_bias": True}, "", "HuBERT base's kind only"),
        ({"extractor_conv_layer_config": [(24, 10, 5)] + [(24, 3, 2)] * 6}, "", "kernels are"),
        ({"encoder_embed_dim": 96, "encoder_num_heads": 3}, "", "no whole number of heads"),
        ({}, "encoder.transformer.layers.0.attention.q_proj.weight", "these are missing"),
        ({}, "encoder.transformer.layers.1.layer_norm.bias", "missing: encoder.encoder.transform"),
    ],
)
def test_what_is_no_aves_is_refused(
    tmp_path: Path, changes: dict[str, Any], lost: str, said: str
) -> None:
    state = dict(published(**changes).state_dict())
    state.pop(lost, None)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=said):
        load_model(tmp_path / "x.pt")

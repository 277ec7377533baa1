"""Bird-MAE's folders as Hugging Face has them, with random weights, against timm's own model.

Shape legend: B clips, N tokens, T frames, F mel bins.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from foreign_models import MAE_BANDS as BANDS
from foreign_models import MAE_COLUMNS as COLUMNS
from foreign_models import MAE_DIM as DIM
from foreign_models import bird_mae, scrambled
from foreign_models import bird_mae_folder as write
from torch import Tensor
from torchaudio.compliance import kaldi

from dawnchorus.trainer.errors import CheckpointError
from dawnchorus.trainer.hub.importing import initialise_from, load_model
from dawnchorus.trainer.registry import build_encoder


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

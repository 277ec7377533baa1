"""Mel decibels against torchaudio's own transforms, one clip at a time.

Shape legend: B clips, T samples or frames, F mel bins.
"""

from __future__ import annotations

import warnings

import pytest
import torch
import torchaudio.transforms as T
from torch import Tensor

from dawnchorus.trainer.frontends import centred
from dawnchorus.trainer.frontends.mel_db import MelDb


def xenomae(wav_T: Tensor, rate: int = 32000, n_fft: int = 1024, hop: int = 320) -> Tensor:
    """XenoMAE's chain for one clip, [T, F]."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mel = T.MelSpectrogram(rate, n_fft=n_fft, hop_length=hop, f_min=50.0, n_mels=128)
    peak = wav_T.abs().max()
    power_FT = mel(wav_T / peak if peak > 0 else wav_T)
    db_FT = T.AmplitudeToDB("power", top_db=80.0)(power_FT[None, None])[0, 0]
    return (2 * (db_FT + 80) / 80 - 1).T


@pytest.fixture(params=["clip by clip", "whole batch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "whole batch":
        monkeypatch.setattr(centred, "eager_cpu", lambda x: False)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


def sounds() -> Tensor:
    """Noise, a faint tone, a click in noise of another level."""
    torch.manual_seed(0)
    wav_BT = 0.1 * torch.randn(3, 40000)
    wav_BT[1] = 1e-3 * torch.sin(0.3 * torch.arange(40000))
    wav_BT[2, 5000] = 30.0
    return wav_BT


@pytest.mark.parametrize("rate", [32000, 16000, 48000])
def test_it_is_torchaudio_s(way: None, rate: int) -> None:
    n_fft, hop = {32000: (1024, 320), 16000: (512, 160), 48000: (2048, 480)}[rate]
    mel_BTF, steps_B = MelDb(rate, n_fft=n_fft, hop_samples=hop)(sounds())
    for mel_TF, wav_T in zip(mel_BTF, sounds(), strict=True):
        close(mel_TF, xenomae(wav_T, rate, n_fft, hop))
    assert steps_B.tolist() == [40000 // hop + 1] * 3


def test_the_floor_is_the_clip_s_own(way: None) -> None:
    """Beside a clip louder by 120 dB; torchaudio's transform of a batch flattens the faint one."""
    frontend = MelDb(peak_normalise=False)
    faint_T = 1e-4 * sounds()[0]
    together_BTF, _ = frontend(torch.stack([100.0 * sounds()[0], faint_T]))
    alone_BTF, _ = frontend(faint_T[None])
    assert torch.equal(together_BTF[1], alone_BTF[0])
    assert float(alone_BTF.max() - alone_BTF.min()) > 0.2
    power_BFT = T.MelSpectrogram(32000, n_fft=1024, hop_length=320)(
        torch.stack([100.0 * sounds()[0], faint_T])
    )
    batch_BFT = T.AmplitudeToDB("power", top_db=80.0)(power_BFT)
    assert float(batch_BFT[1].max() - batch_BFT[1].min()) == 0.0


def test_a_padded_clip_gives_what_it_gives_alone(way: None) -> None:
    frontend = MelDb()
    length_B = torch.tensor([40000, 12345, 5000, 600, 1])
    wav_BT = 0.1 * torch.randn(5, 40000)  # what lies behind a clip's end is ignored
    wav_BT[:, -1] = 50.0
    kept = wav_BT.clone()
    mel_BTF, steps_B = frontend(wav_BT, length_B)
    assert torch.equal(wav_BT, kept)
    assert torch.equal(steps_B, frontend.steps_for(length_B)) and int(steps_B.min()) == 16
    for row, length in enumerate(length_B.tolist()):
        alone_1TF, alone_1 = frontend(wav_BT[row : row + 1, :length])
        assert int(alone_1) == int(steps_B[row]) == alone_1TF.shape[1]
        close(mel_BTF[row, : alone_1TF.shape[1]], alone_1TF[0])
        behind_TF = mel_BTF[row, alone_1TF.shape[1] :]
        floor = float(2 * (alone_1TF.max() * 40 - 40 - 80) / 80 + 1)
        assert not len(behind_TF) or float(behind_TF.min()) == pytest.approx(floor, abs=1e-4)
        assert not len(behind_TF) or float(behind_TF.max()) == float(behind_TF.min())


def test_silence_and_a_tone(way: None) -> None:
    frontend = MelDb()
    tone_T = torch.sin(2 * torch.pi * 9000 * torch.arange(32000) / 32000)
    mel_BTF, _ = frontend(torch.stack([torch.zeros(32000), tone_T]))
    assert float(mel_BTF[0].min()) == float(mel_BTF[0].max()) == pytest.approx(-1.5)
    assert frontend.band_hz is not None
    assert frontend.band_hz[int(mel_BTF[1].mean(0).argmax())] == pytest.approx(9000, rel=0.03)
    quieter_BTF, _ = frontend(0.01 * tone_T[None])
    torch.testing.assert_close(quieter_BTF[0], mel_BTF[1], atol=1e-4, rtol=0)

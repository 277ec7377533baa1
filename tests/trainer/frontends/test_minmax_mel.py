"""The front end of AVEX's EfficientNets, against the torch and torchaudio calls that avex makes.

Shape legend: B clips, T samples or frames, F mel bins.
"""

from __future__ import annotations

import pytest
import torch
import torchaudio
from torch import Tensor

from dawnchorus.trainer.frontends import centred
from dawnchorus.trainer.frontends.minmax_mel import MinMaxMel


def avex_mel(wav_BT: Tensor) -> Tensor:
    """avex 1.4.0, `AudioProcessor`: n_fft 800, hop 160, Hann, centred, 128 mel bins, normalised."""
    spectrum = torch.stft(
        wav_BT, 800, 160, 800, torch.hann_window(800), center=True, return_complex=True
    )
    scale = torchaudio.transforms.MelScale(128, 16000, n_stft=401)
    x_BFT = torch.log(scale(spectrum.abs().pow(2)) + 1e-6)
    low, high = x_BFT.amin((-2, -1), keepdim=True), x_BFT.amax((-2, -1), keepdim=True)
    return ((x_BFT - low) / (high - low + 1e-8)).mT


@pytest.fixture(params=["clip by clip", "whole batch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "whole batch":
        monkeypatch.setattr(centred, "eager_cpu", lambda x: False)


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("samples", [401, 1599, 1600, 31999])
def test_it_is_avex_s(way: None, samples: int) -> None:
    wav_BT = 0.1 * torch.randn(2, samples)
    mel_BTF, steps_B = MinMaxMel()(wav_BT)
    close(mel_BTF, avex_mel(wav_BT))
    assert steps_B.tolist() == [mel_BTF.shape[1]] * 2


def test_a_padded_clip_gives_what_it_gives_alone(way: None) -> None:
    frontend = MinMaxMel()
    length_B = torch.tensor([20000, 12345, 401, 100, 1])
    wav_BT = 0.1 * torch.randn(5, 20000)  # what lies behind a clip's end is ignored
    kept = wav_BT.clone()
    mel_BTF, steps_B = frontend(wav_BT, length_B)
    assert torch.equal(wav_BT, kept)
    assert torch.equal(steps_B, frontend.steps_for(length_B))
    for row, length in enumerate(length_B.tolist()):
        alone_1TF, alone_1 = frontend(wav_BT[row : row + 1, :length])
        assert int(alone_1) == int(steps_B[row]) == alone_1TF.shape[1]
        close(mel_BTF[row, : alone_1TF.shape[1]], alone_1TF[0])
        assert not mel_BTF[row, alone_1TF.shape[1] :].any()


def test_silence_is_zero_and_a_tone_is_in_its_band(way: None) -> None:
    frontend = MinMaxMel(32000, n_fft=1600, hop_samples=320)
    tone_T = torch.sin(2 * torch.pi * 3000 * torch.arange(16000) / 32000)
    mel_BTF, _ = frontend(torch.stack([torch.zeros(16000), tone_T]))
    assert not mel_BTF[0].any()
    assert float(mel_BTF[1].max()) == pytest.approx(1.0)
    assert frontend.band_hz is not None
    assert frontend.band_hz[int(mel_BTF[1].mean(0).argmax())] == pytest.approx(3000, rel=0.03)

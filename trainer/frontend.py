"""Waveform to normalised log-mel, batched, on the waveform's device.

Exactly Kaldi's filter bank as `torchaudio.compliance.kaldi.fbank` computes it, in the two
variants that the encoders were trained with. Self-contained (torch only): it is shipped inside
exported models.

Shape legend: B clips, T samples or frames, F mel bins, W samples of a window, S spectrum bins.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPSILON = 1.1920929e-07  # Kaldi floors mel energies at float32's epsilon
MIN_FRAMES = 16


def mel_filters(bins: int, n_fft: int, rate_hz: int, low_hz: float = 20.0) -> Tensor:
    """Kaldi's triangular mel filters, [n_fft / 2 + 1, bins], float32; the Nyquist bin has none."""
    spectrum_hz = torch.arange(n_fft // 2, dtype=torch.float64) * rate_hz / n_fft
    mel_S = 1127.0 * torch.log1p(spectrum_hz / 700.0)
    low = 1127.0 * math.log1p(low_hz / 700.0)
    high = 1127.0 * math.log1p(rate_hz / 2 / 700.0)
    edge = low + torch.arange(bins + 2, dtype=torch.float64) * (high - low) / (bins + 1)
    left, centre, right = edge[:-2], edge[1:-1], edge[2:]
    rise = (mel_S[:, None] - left) / (centre - left)
    fall = (right - mel_S[:, None]) / (right - centre)
    return F.pad(torch.minimum(rise, fall).clamp(min=0.0), (0, 0, 0, 1)).float()


class LogMel(nn.Module):
    """Kaldi log-mel, normalised by (x - mean) / (2 std), as BEATs or EAT want it.

    `kind="beats"`: samples x 2^15, Povey window. `kind="eat"`: the clip's own mean subtracted,
    Hann window, and padding frames are 0 in the log-mel domain before normalising.
    Windows of 25 ms every 10 ms, whole windows only.
    """

    window_W: Tensor
    mel_SF: Tensor

    def __init__(
        self,
        kind: Literal["beats", "eat"] = "beats",
        sample_rate_hz: int = 16000,
        mel_bins: int = 128,
        mel_mean: float = 15.41663,
        mel_std: float = 6.55582,
    ) -> None:
        super().__init__()
        if kind not in ("beats", "eat"):
            raise ValueError(f"kind is {kind!r}; allowed: 'beats', 'eat'")
        self.kind = kind
        self.sample_rate_hz = sample_rate_hz
        self.mel_bins = mel_bins
        self.mean = mel_mean
        self.std = mel_std
        self.window = int(sample_rate_hz * 0.025)
        self.hop = int(sample_rate_hz * 0.010)
        self.n_fft = 2 ** math.ceil(math.log2(self.window))
        hann_W = torch.hann_window(self.window, periodic=False, dtype=torch.float64)
        window_W = hann_W**0.85 if kind == "beats" else hann_W
        self.register_buffer("window_W", window_W.float())
        self.register_buffer("mel_SF", mel_filters(mel_bins, self.n_fft, sample_rate_hz))

    @classmethod
    def for_encoder(cls, config: Any) -> LogMel:
        """The front end that an encoder config asks for."""
        return cls(
            config.frontend,
            config.sample_rate_hz,
            config.mel_bins,
            config.mel_mean,
            config.mel_std,
        )

    def frames_for(self, length_B: Tensor) -> Tensor:
        """Frames of clips of so many samples; shorter clips are padded to 16 frames."""
        return ((length_B - self.window) // self.hop + 1).clamp(min=MIN_FRAMES).long()

    @torch.no_grad()
    def forward(self, wav_BT: Tensor, length_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalised log-mel and frames per clip.

        Args:
            wav_BT: float32 in [-1, 1].
            length_B: valid samples per clip (None: all). Samples beyond count as zeros.

        Returns:
            mel_BTF float32, frames_B int64. A clip's own frames are those it has alone.
        """
        with torch.autocast(wav_BT.device.type, enabled=False):
            wav_BT = wav_BT.float()
            if length_B is None:
                length_B = torch.full(
                    wav_BT.shape[:1], wav_BT.shape[1], device=wav_BT.device, dtype=torch.int64
                )
            valid_BT = torch.arange(wav_BT.shape[1], device=wav_BT.device) < length_B[:, None]
            wav_BT = torch.where(valid_BT, wav_BT, 0.0)
            if self.kind == "eat":
                mean_B1 = wav_BT.sum(1, keepdim=True) / length_B.clamp(min=1)[:, None]
                wav_BT = torch.where(valid_BT, wav_BT - mean_B1, 0.0)
            else:
                wav_BT = wav_BT * 32768.0
            short = self.window + (MIN_FRAMES - 1) * self.hop - wav_BT.shape[1]
            if short > 0:
                wav_BT = F.pad(wav_BT, (0, short))
            mel_BTF = self._log_mel(wav_BT)
            if self.kind == "eat":
                own_B = ((length_B - self.window) // self.hop + 1).clamp(min=1)
                frame_T = torch.arange(mel_BTF.shape[1], device=wav_BT.device)
                mel_BTF = torch.where((frame_T < own_B[:, None])[..., None], mel_BTF, 0.0)
            return (mel_BTF - self.mean) / (2 * self.std), self.frames_for(length_B)

    def _log_mel(self, wav_BT: Tensor) -> Tensor:
        frame_BTW = wav_BT.unfold(-1, self.window, self.hop)
        frame_BTW = frame_BTW - frame_BTW.mean(-1, keepdim=True)
        before_BTW = torch.cat([frame_BTW[..., :1], frame_BTW[..., :-1]], -1)
        frame_BTW = (frame_BTW - 0.97 * before_BTW) * self.window_W
        spectrum = torch.fft.rfft(frame_BTW, n=self.n_fft)
        power_BTS = spectrum.real.square() + spectrum.imag.square()
        return (power_BTS @ self.mel_SF).clamp(min=EPSILON).log()

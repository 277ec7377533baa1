"""Waveform to log-mel scaled to [0, 1] over each clip, as AVEX feeds its EfficientNets.

avex 1.4.0, `AudioProcessor`: a centred spectrum (reflected at the ends) of Hann windows, its power,
HTK mel filters from 0 Hz to half the sampling rate, log(x + 1e-6), then (x - min) / (max - min)
over the clip. A clip's minimum and maximum are those of its own frames, so padding changes nothing;
avex takes them over its padding too. Self-contained (torch and `frontend.py` beside it): it is
shipped inside exported models.

Shape legend: B clips, T samples or frames, W samples of a window, S spectrum bins, F mel bins.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .frontend import Frontend, checked, eager_cpu

FLOOR = 1e-6
"""Added to the power before the logarithm."""
FLAT = 1e-8
"""Added to the range, so that a clip without any difference is 0."""


def mel_filters(bins: int, n_fft: int, sample_rate_hz: int) -> Tensor:
    """HTK's triangular filters of height 1, [n_fft / 2 + 1, bins], as torchaudio's `MelScale`."""
    mel = torch.linspace(0, 2595.0 * math.log10(1.0 + sample_rate_hz / 2 / 700.0), bins + 2)
    edge_hz = 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    frequency_S1 = torch.linspace(0, sample_rate_hz // 2, n_fft // 2 + 1)[:, None]
    rise_SF = (frequency_S1 - edge_hz[:-2]) / (edge_hz[1:-1] - edge_hz[:-2])
    fall_SF = (edge_hz[2:] - frequency_S1) / (edge_hz[2:] - edge_hz[1:-1])
    return torch.minimum(rise_SF, fall_SF).clamp(min=0.0)


def band_centres(bins: int, sample_rate_hz: int) -> tuple[float, ...]:
    """Centres of the HTK mel filters in Hz, rising."""
    high = 2595.0 * math.log10(1.0 + sample_rate_hz / 2 / 700.0)
    mels = (high * (i + 1) / (bins + 1) for i in range(bins))
    return tuple(700.0 * (10.0 ** (mel / 2595.0) - 1.0) for mel in mels)


def scaled(mel_BTF: Tensor, own_BT1: Tensor) -> Tensor:
    """Each clip's own frames moved and stretched to [0, 1]; 0 at the others."""
    low_B11 = mel_BTF.masked_fill(~own_BT1, math.inf).amin((1, 2), keepdim=True)
    high_B11 = mel_BTF.masked_fill(~own_BT1, -math.inf).amax((1, 2), keepdim=True)
    return ((mel_BTF - low_B11) / (high_B11 - low_B11 + FLAT)).masked_fill(~own_BT1, 0.0)


class MinMaxMel(Frontend):
    """Log-mel of a clip, scaled so that its own lowest value is 0 and its highest 1.

    Args:
        sample_rate_hz: of the waveform.
        mel_bins: mel bins F.
        n_fft: samples of a window.
        hop_samples: from one frame to the next.
    """

    window_W: Tensor
    mel_SF: Tensor

    def __init__(
        self,
        sample_rate_hz: int = 16000,
        mel_bins: int = 128,
        n_fft: int = 800,
        hop_samples: int = 160,
    ) -> None:
        super().__init__()
        self.sample_rate_hz = sample_rate_hz
        self.n_fft, self.hop = n_fft, hop_samples
        self.hop_s = self.picture_hop_s = hop_samples / sample_rate_hz
        self.band_hz = band_centres(mel_bins, sample_rate_hz)
        self.least = n_fft // 2 + 1
        """Samples that a reflection needs: shorter clips are padded to it with zeros."""
        # Persistent: what a checkpoint does not hold, transformers may leave uninitialised.
        self.register_buffer("window_W", torch.hann_window(n_fft))
        self.register_buffer("mel_SF", mel_filters(mel_bins, n_fft, sample_rate_hz))

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The front end whose numbers an encoder's config holds."""
        return cls(config.sample_rate_hz, config.mel_bins, config.n_fft, config.hop_samples)

    def steps_for(self, samples_B: Tensor) -> Tensor:
        """Frames of clips of so many samples, int64; short clips are padded to half a window."""
        return samples_B.long().clamp(min=self.least) // self.hop + 1

    @torch.no_grad()
    def forward(self, wav_BT: Tensor, length_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Scaled log-mel, 0 behind a clip's own frames, and how many frames stand for sound.

        In float32 whatever the autocast. See `Frontend.forward`.
        """
        length_B = checked(wav_BT, length_B)
        with torch.autocast(wav_BT.device.type, enabled=False):
            # Short clips need room for a reflection; what is padded here is silent.
            wav_BT = self._long_enough(wav_BT.float())
            steps_B = self.steps_for(length_B)
            if eager_cpu(wav_BT):
                return self._one_by_one(wav_BT, length_B, steps_B), steps_B
            mel_BTF = self._log_mel(self._frames(wav_BT, length_B.long()))
            own_BT = torch.arange(mel_BTF.shape[1], device=mel_BTF.device) < steps_B[:, None]
            return scaled(mel_BTF, own_BT[..., None]), steps_B

    def _long_enough(self, wav_BT: Tensor) -> Tensor:
        samples, padded_BT = wav_BT.shape[1], F.pad(wav_BT, (0, self.least))
        if torch.compiler.is_exporting():
            # Without asking whether a symbolic length is long enough.
            samples = torch.sym_max(samples, self.least)  # type: ignore[no-untyped-call]
            return padded_BT[:, torch.arange(samples, device=wav_BT.device)]
        return padded_BT[:, : max(samples, self.least)]

    def _one_by_one(self, wav_BT: Tensor, length_B: Tensor, steps_B: Tensor) -> Tensor:
        """Clip by clip: what a clip becomes stays in the cache, and padding costs nothing."""
        frames, half = wav_BT.shape[1] // self.hop + 1, self.n_fft // 2
        mel_BTF = wav_BT.new_zeros(len(wav_BT), frames, self.mel_SF.shape[1])
        clips = zip(wav_BT, length_B.tolist(), steps_B.tolist(), strict=True)
        for row, (wav_T, length, steps) in enumerate(clips):
            own_1T = F.pad(wav_T[None, :length], (0, max(0, self.least - length)))
            frame_1TW = F.pad(own_1T, (half, half), "reflect").unfold(1, self.n_fft, self.hop)
            own_TF = self._log_mel(frame_1TW)[0]
            low, high = own_TF.aminmax()
            mel_BTF[row, :steps] = (own_TF - low) / (high - low + FLAT)
        return mel_BTF

    def _frames(self, wav_BT: Tensor, length_B: Tensor) -> Tensor:
        """Windows of each clip, reflected at its own first and last sample, [B, T, W]."""
        samples, half = wav_BT.shape[1], self.n_fft // 2
        last_B1 = (length_B.clamp(min=self.least) - 1)[:, None]
        place_T = torch.arange(samples + 2 * half, device=wav_BT.device) - half
        place_BT = place_T.abs().expand(wav_BT.shape[0], -1)
        place_BT = torch.where(place_BT > last_B1, 2 * last_B1 - place_BT, place_BT)
        # What lies behind the reflection at a clip's end belongs to none of its frames.
        source_BT = wav_BT.gather(1, place_BT.clamp(min=0, max=samples - 1))
        silent_BT = place_BT >= length_B[:, None]
        source_BT = source_BT.masked_fill(silent_BT, 0.0)
        start_T1 = self.hop * torch.arange(samples // self.hop + 1, device=wav_BT.device)[:, None]
        if torch.compiler.is_exporting():
            return source_BT[:, start_T1 + torch.arange(self.n_fft, device=wav_BT.device)]
        return source_BT.unfold(1, self.n_fft, self.hop)

    def _log_mel(self, frame_BTW: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(frame_BTW * self.window_W.float())
        power_BTS = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)
        return (power_BTS @ self.mel_SF.float() + FLOOR).log()

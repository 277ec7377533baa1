"""Mel spectrograms of windows that are centred on their frames, each clip by itself.

What `torch.stft(center=True)` and torchaudio's `MelSpectrogram` compute: the waveform is reflected
at both ends, windows are Hann's, filters are HTK's triangles. A clip is reflected at its own last
sample, and what is scaled over a clip is scaled over its own frames, so padding changes nothing.
Self-contained (torch and `frontend.py` beside it): it is shipped inside exported models.

Shape legend: B clips, T samples or frames, W samples of a window, S spectrum bins, F mel bins.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .frontend import Frontend, checked, eager_cpu


def band_centres(bins: int, sample_rate_hz: int, low_hz: float = 0.0) -> tuple[float, ...]:
    """Centres in Hz, rising, of HTK mel filters from `low_hz` to half the sampling rate."""
    low, high = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in (low_hz, sample_rate_hz / 2))
    mels = (low + (high - low) * (i + 1) / (bins + 1) for i in range(bins))
    return tuple(700.0 * (10.0 ** (mel / 2595.0) - 1.0) for mel in mels)


class CentredMel(Frontend):
    """Mel power of centred windows; a subclass says what becomes of it.

    Args:
        sample_rate_hz: of the waveform.
        mel_SF: the mel filters.
        n_fft: samples of a window.
        hop_samples: from one frame to the next.
        least: samples that a clip has at least; shorter ones are padded with zeros, which count.
            A reflection needs half a window and one more.
    """

    window_W: Tensor
    mel_SF: Tensor

    def __init__(
        self, sample_rate_hz: int, mel_SF: Tensor, n_fft: int, hop_samples: int, least: int = 0
    ) -> None:
        super().__init__()
        self.sample_rate_hz = sample_rate_hz
        self.n_fft, self.hop = n_fft, hop_samples
        self.hop_s = self.picture_hop_s = hop_samples / sample_rate_hz
        self.least = max(n_fft // 2 + 1, least)
        # Persistent: what a checkpoint does not hold, transformers may leave uninitialised.
        self.register_buffer("window_W", torch.hann_window(n_fft))
        self.register_buffer("mel_SF", mel_SF)

    def level(self, power_BTF: Tensor) -> Tensor:
        """The logarithm of the mel power."""
        raise NotImplementedError

    def scale(self, mel_BTF: Tensor, own_BT1: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Each clip's levels on the scale of the encoder, and what stands behind its own frames,
        [B, 1, 1]. `own_BT1`: which frames are a clip's own, bool (None: all).
        """
        raise NotImplementedError

    def condition(self, wav_BT: Tensor, length_B: Tensor) -> Tensor:
        """The waveform as its spectrum is taken; what lies behind a clip's end is not looked at."""
        del length_B
        return wav_BT

    def steps_for(self, samples_B: Tensor) -> Tensor:
        """Frames of clips of so many samples, int64; short clips are padded to `least`."""
        return samples_B.long().clamp(min=self.least) // self.hop + 1

    @torch.no_grad()
    def forward(self, wav_BT: Tensor, length_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The scaled spectrogram, and how many frames stand for sound.

        In float32 whatever the autocast. See `Frontend.forward`.
        """
        length_B = checked(wav_BT, length_B)
        with torch.autocast(wav_BT.device.type, enabled=False):
            # Short clips need room for a reflection; what is padded here is silent.
            wav_BT = self._long_enough(self.condition(wav_BT.float(), length_B))
            steps_B = self.steps_for(length_B)
            if eager_cpu(wav_BT):
                return self._one_by_one(wav_BT, length_B, steps_B), steps_B
            mel_BTF = self._mel(self._frames(wav_BT, length_B.long()))
            own_BT = torch.arange(mel_BTF.shape[1], device=mel_BTF.device) < steps_B[:, None]
            mel_BTF, behind_B11 = self.scale(mel_BTF, own_BT[..., None])
            return torch.where(own_BT[..., None], mel_BTF, behind_B11), steps_B

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
        mel_BTF = wav_BT.new_empty(len(wav_BT), frames, self.mel_SF.shape[1])
        clips = zip(wav_BT, length_B.tolist(), steps_B.tolist(), strict=True)
        for row, (wav_T, length, steps) in enumerate(clips):
            own_1T = F.pad(wav_T[None, :length], (0, max(0, self.least - length)))
            frame_1TW = F.pad(own_1T, (half, half), "reflect").unfold(1, self.n_fft, self.hop)
            own_1TF, behind_111 = self.scale(self._mel(frame_1TW))
            mel_BTF[row, :steps], mel_BTF[row, steps:] = own_1TF[0], behind_111[0]
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

    def _mel(self, frame_BTW: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(frame_BTW * self.window_W.float())
        power_BTS = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)
        return self.level(power_BTS @ self.mel_SF.float())

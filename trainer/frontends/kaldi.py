"""Waveform to normalised log-mel, batched, on the waveform's device.

Kaldi's filter bank exactly as `torchaudio.compliance.kaldi.fbank` computes it, in the two
variants that encoders were trained with. Self-contained (torch and `frontend.py` beside it): it is
shipped inside exported models.

Shape legend: B clips, T samples or frames, W samples of a window, S spectrum bins, F mel bins.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .frontend import Frontend, checked, eager_cpu, means, silence_padding

WINDOW_S = 0.025
HOP_S = 0.010
PRE_EMPHASIS = 0.97
LOW_HZ = 20.0
FLOOR = 1.1920929e-07  # float32's epsilon: Kaldi's floor of a mel energy
MIN_FRAMES = 16  # one column of patches
# Frames at a time on a CPU: what they become (2 MB each) stays in the cache and in memory that
# the C library hands out again. A whole batch at once is 65 MB per step, mapped anew each time:
# four times slower, all of it cache misses and page faults.
CPU_FRAMES = 1024


def mel_filters(bins: int, n_fft: int, sample_rate_hz: int) -> Tensor:
    """Kaldi's triangular filters, [n_fft / 2 + 1, bins], from 20 Hz to half the sampling rate.

    In float32 throughout, like Kaldi: the narrowest filters touch a single bin with a weight so
    small that rounding decides it.
    """
    frequency_hz = torch.arange(n_fft // 2) * (sample_rate_hz / n_fft)
    mel_S1 = (1127.0 * (1.0 + frequency_hz / 700.0).log())[:, None]
    low = 1127.0 * math.log(1.0 + LOW_HZ / 700.0)
    high = 1127.0 * math.log(1.0 + sample_rate_hz / 2 / 700.0)
    step, index_F = (high - low) / (bins + 1), torch.arange(bins)
    left, centre, right = (low + (index_F + edge) * step for edge in (0.0, 1.0, 2.0))
    rise_SF = (mel_S1 - left) / (centre - left)
    fall_SF = (right - mel_S1) / (right - centre)
    # The bin at half the sampling rate belongs to no filter.
    return F.pad(torch.minimum(rise_SF, fall_SF).clamp(min=0.0), (0, 0, 0, 1))


def band_centres(bins: int, sample_rate_hz: int) -> tuple[float, ...]:
    """Centres of the filters in Hz, rising."""
    low, high = (1127.0 * math.log1p(hz / 700.0) for hz in (LOW_HZ, sample_rate_hz / 2))
    step = (high - low) / (bins + 1)
    return tuple(700.0 * math.expm1((low + (i + 1) * step) / 1127.0) for i in range(bins))


class LogMel(Frontend):
    """Log-mel in windows of 25 ms every 10 ms, normalised by (x - mean) / (2 std).

    Args:
        sample_rate_hz: of the waveform.
        mel_bins: mel bins F.
        mel_mean: of the natural-log mel.
        mel_std: of the natural-log mel.
    """

    window_W: Tensor
    mel_SF: Tensor

    def __init__(
        self,
        sample_rate_hz: int = 16000,
        mel_bins: int = 128,
        mel_mean: float = 15.41663,
        mel_std: float = 6.55582,
    ) -> None:
        super().__init__()
        if not mel_std > 0:
            raise ValueError(f"mel_std is {mel_std}; it must be above 0")
        self.sample_rate_hz = sample_rate_hz
        self.mean, self.std = mel_mean, mel_std
        self.window = int(sample_rate_hz * WINDOW_S)
        self.hop = int(sample_rate_hz * HOP_S)
        self.hop_s = self.picture_hop_s = self.hop / sample_rate_hz
        self.band_hz = band_centres(mel_bins, sample_rate_hz)
        self.n_fft = 2 ** math.ceil(math.log2(self.window))
        # Persistent: what a checkpoint does not hold, transformers may leave uninitialised.
        self.register_buffer("window_W", self.taper(self.window))
        self.register_buffer("mel_SF", mel_filters(mel_bins, self.n_fft, sample_rate_hz))

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The front end whose numbers an encoder's config holds."""
        return cls(config.sample_rate_hz, config.mel_bins, config.mel_mean, config.mel_std)

    @staticmethod
    def taper(samples: int) -> Tensor:
        """The window that frames are multiplied with, [W]."""
        raise NotImplementedError

    def condition(self, wav_BT: Tensor, length_B: Tensor) -> Tensor:
        """The waveform as its spectrum is taken, a copy; silent behind each clip's end."""
        raise NotImplementedError

    def steps_for(self, samples_B: Tensor) -> Tensor:
        """Frames of clips of so many samples, int64; short clips are padded to 16 frames."""
        return self._own_frames(samples_B).clamp(min=MIN_FRAMES)

    @torch.no_grad()
    def forward(self, wav_BT: Tensor, length_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Normalised log-mel, and how many frames of each clip stand for sound.

        In float32 whatever the autocast: bfloat16 would move the log-mel by 0.06.

        Args:
            wav_BT: float waveform in [-1, 1]; beyond that range nothing is clipped.
            length_B: valid samples per clip (None: all); what lies behind them is ignored.

        Returns:
            mel_BTF float32 and frames_B int64. A clip's own frames are those it has alone.

        Raises:
            ValueError: the waveform is not a floating-point [clips, samples].
        """
        length_B = checked(wav_BT, length_B)
        with torch.autocast(wav_BT.device.type, enabled=False):
            if eager_cpu(wav_BT):
                mel_BTF = self._in_pieces(wav_BT, length_B)
            else:
                mel_BTF = self._log_mel(self._frames(wav_BT, length_B))
            mel_BTF = self.pad(mel_BTF, length_B)
        return mel_BTF, self.steps_for(length_B)

    def pad(self, mel_BTF: Tensor, length_B: Tensor) -> Tensor:
        """What stands behind a clip's own frames: silence, as it was computed."""
        del length_B
        return mel_BTF

    def _own_frames(self, length_B: Tensor) -> Tensor:
        return (length_B.long() - self.window) // self.hop + 1

    def _frames(self, wav_BT: Tensor, length_B: Tensor) -> Tensor:
        """Windows of the signal as the spectrum is taken of it, [B, T, W], a view."""
        wav_BT = self.condition(wav_BT, length_B)
        at_least = self.window + (MIN_FRAMES - 1) * self.hop
        if torch.compiler.is_exporting():
            # Without asking whether a symbolic length is long enough.
            own = (wav_BT.shape[1] - self.window) // self.hop + 1
            frames = torch.sym_max(own, MIN_FRAMES)  # type: ignore[no-untyped-call]
            start_T1 = self.hop * torch.arange(frames, device=wav_BT.device)[:, None]
            index_TW = start_T1 + torch.arange(self.window, device=wav_BT.device)
            return F.pad(wav_BT, (0, at_least))[:, index_TW]
        if wav_BT.shape[1] < at_least:
            wav_BT = F.pad(wav_BT, (0, at_least - wav_BT.shape[1]))
        return wav_BT.unfold(1, self.window, self.hop)

    def _in_pieces(self, wav_BT: Tensor, length_B: Tensor) -> Tensor:
        clips, samples = wav_BT.shape
        frames = max(MIN_FRAMES, (samples - self.window) // self.hop + 1)
        mel_BTF = torch.empty(clips, frames, self.mel_SF.shape[1])
        together = max(1, CPU_FRAMES // frames)
        for b in range(0, clips, together):
            group = slice(b, b + together)
            frame_BTW = self._frames(wav_BT[group], length_B[group])
            for t in range(0, frames, CPU_FRAMES):
                piece = slice(t, t + CPU_FRAMES)
                mel_BTF[group, piece] = self._log_mel(frame_BTW[:, piece])
        return mel_BTF

    def _log_mel(self, frame_BTW: Tensor) -> Tensor:
        """Normalised log-mel of windows; each step rounds as Kaldi's does.

        That matters where a tone leaves bins empty but for the rounding errors of these steps.
        """
        window_W, mel_SF = self.window_W.float(), self.mel_SF.float()
        frame_BTW = frame_BTW - frame_BTW.mean(-1, keepdim=True)
        # The first sample has no predecessor, but its window weight is 0.
        emphasised = frame_BTW[..., 1:] - PRE_EMPHASIS * frame_BTW[..., :-1]
        emphasised.mul_(window_W[1:])
        spectrum = torch.fft.rfft(F.pad(emphasised, (1, self.n_fft - self.window)))
        power_BTS = torch.addcmul(spectrum.real.square(), spectrum.imag, spectrum.imag)
        mel_BTF = (power_BTS @ mel_SF).clamp_(min=FLOOR).log_()
        return mel_BTF.sub_(self.mean).div_(2 * self.std)


class BeatsLogMel(LogMel):
    """As BEATs takes it (section 3.1 and released code): samples x 2^15, Povey window.

    Padding is silence, so padded frames have the value of silence.
    """

    @staticmethod
    def taper(samples: int) -> Tensor:
        """Povey's window: Hann's to the power of 0.85."""
        return torch.hann_window(samples, periodic=False).pow(0.85)

    def condition(self, wav_BT: Tensor, length_B: Tensor) -> Tensor:
        """Samples in the range of 16-bit integers."""
        return silence_padding(wav_BT.float() * 32768.0, length_B)


class EatLogMel(LogMel):
    """As EAT takes it (released code): the clip's own mean subtracted, Hann window.

    Padded frames are 0 before normalising, which lies above the floor and, with EAT's numbers,
    above the mean.
    """

    @staticmethod
    def taper(samples: int) -> Tensor:
        """Hann's window, symmetric."""
        return torch.hann_window(samples, periodic=False)

    def condition(self, wav_BT: Tensor, length_B: Tensor) -> Tensor:
        """Samples without the clip's mean."""
        wav_BT = wav_BT.float()
        return silence_padding(wav_BT - means(wav_BT, length_B)[:, None], length_B)

    def pad(self, mel_BTF: Tensor, length_B: Tensor) -> Tensor:
        """Zeros before normalising, behind a clip's own frames; in place."""
        frame_T = torch.arange(mel_BTF.shape[1], device=mel_BTF.device)
        padding_BT = frame_T >= self._own_frames(length_B).clamp(min=1)[:, None]
        return mel_BTF.masked_fill_(padding_BT[..., None], -self.mean / (2 * self.std))

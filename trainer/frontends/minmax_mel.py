"""Waveform to log-mel scaled to [0, 1] over each clip, as AVEX feeds its EfficientNets.

avex 1.4.0, `AudioProcessor`: a centred spectrum (reflected at the ends) of Hann windows, its power,
HTK mel filters from 0 Hz to half the sampling rate, log(x + 1e-6), then (x - min) / (max - min)
over the clip. A clip's minimum and maximum are those of its own frames, so padding changes nothing;
avex takes them over its padding too. Self-contained (torch and the files it imports beside it): it
is shipped inside exported models.

Shape legend: B clips, T frames, S spectrum bins, F mel bins.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
from torch import Tensor

from .centred import CentredMel, band_centres

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


class MinMaxMel(CentredMel):
    """Log-mel of a clip, scaled so that its own lowest value is 0 and its highest 1.

    Args:
        sample_rate_hz: of the waveform.
        mel_bins: mel bins F.
        n_fft: samples of a window.
        hop_samples: from one frame to the next.
    """

    def __init__(
        self,
        sample_rate_hz: int = 16000,
        mel_bins: int = 128,
        n_fft: int = 800,
        hop_samples: int = 160,
    ) -> None:
        mel_SF = mel_filters(mel_bins, n_fft, sample_rate_hz)
        super().__init__(sample_rate_hz, mel_SF, n_fft, hop_samples)
        self.band_hz = band_centres(mel_bins, sample_rate_hz)

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The front end whose numbers an encoder's config holds."""
        return cls(config.sample_rate_hz, config.mel_bins, config.n_fft, config.hop_samples)

    def level(self, power_BTF: Tensor) -> Tensor:
        """log(power + 1e-6)."""
        return (power_BTF + FLOOR).log()

    def scale(self, mel_BTF: Tensor, own_BT1: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Each clip's own frames moved and stretched to [0, 1]; 0 behind them."""
        if own_BT1 is None:
            low_B11, high_B11 = mel_BTF.amin((1, 2), True), mel_BTF.amax((1, 2), True)
        else:
            low_B11 = mel_BTF.masked_fill(~own_BT1, math.inf).amin((1, 2), True)
            high_B11 = mel_BTF.masked_fill(~own_BT1, -math.inf).amax((1, 2), True)
        return (mel_BTF - low_B11) / (high_B11 - low_B11 + FLAT), torch.zeros_like(low_B11)

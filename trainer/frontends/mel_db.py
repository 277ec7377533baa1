"""Waveform to mel decibels, 80 of them scaled to [-1, 1], as XenoMAE hears.

The chain of bioacoustic-ssl (Earth Species Project, 2026; `feature_extraction_xenomae.py`): the
waveform divided by its peak, torchaudio's `MelSpectrogram` and `AmplitudeToDB`, and
2 (dB + top_db) / top_db - 1, which maps -80 dB to -1 and 0 dB to 1. (The power of a window is not
normalised, so that loud sound lies above 1.) What lies more than `top_db` below the loudest point
of a clip is raised to there. Each clip has its own loudest point: torchaudio's transform takes that
of the whole batch where it is given three axes, and XenoMAE's released weights were trained so.
Behind a clip's own frames stands that floor, as digital silence would. Needs torch and torchaudio;
the files it imports lie beside it: it is shipped inside exported models.

Shape legend: B clips, T samples or frames, F mel bins.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, Self

import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks

from .centred import CentredMel, band_centres

LEAST_POWER = 1e-10
"""`AmplitudeToDB`'s `amin`: power below it counts as -100 dB."""
MIN_FRAMES = 16
"""One column of patches: shorter clips are padded to so many frames."""


def mel_filters(bins: int, n_fft: int, sample_rate_hz: int, low_hz: float) -> Tensor:
    """HTK's filters by torchaudio, [n_fft / 2 + 1, bins], from `low_hz` to half the sampling rate.

    The lowest ones may be narrower than a bin of the spectrum and hold none; they stay at the
    floor, as in XenoMAE, and torchaudio's warning of it is not repeated for each model.
    """
    # On the CPU even where a model is only sketched: torchaudio looks at the values.
    with warnings.catch_warnings(), torch.device("cpu"):
        warnings.filterwarnings("ignore", "At least one mel filterbank has all zero values")
        high_hz = float(sample_rate_hz // 2)
        filters_SF: Tensor = melscale_fbanks(n_fft // 2 + 1, low_hz, high_hz, bins, sample_rate_hz)
    return filters_SF


class MelDb(CentredMel):
    """Mel power in decibels, `top_db` of them scaled to a width of 2.

    Args:
        sample_rate_hz: of the waveform.
        mel_bins: mel bins F.
        n_fft: samples of a window.
        hop_samples: from one frame to the next.
        low_hz: lower edge of the lowest filter.
        top_db: decibels from a clip's loudest point down to its floor.
        peak_normalise: divide each clip by its own highest sample first.
    """

    def __init__(
        self,
        sample_rate_hz: int = 32000,
        mel_bins: int = 128,
        n_fft: int = 1024,
        hop_samples: int = 320,
        low_hz: float = 50.0,
        top_db: float = 80.0,
        peak_normalise: bool = True,
    ) -> None:
        mel_SF = mel_filters(mel_bins, n_fft, sample_rate_hz, low_hz)
        least = (MIN_FRAMES - 1) * hop_samples
        super().__init__(sample_rate_hz, mel_SF, n_fft, hop_samples, least)
        self.top_db, self.peak_normalise = top_db, peak_normalise
        self.band_hz = band_centres(mel_bins, sample_rate_hz, low_hz)

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The front end whose numbers an encoder's config holds."""
        return cls(
            config.sample_rate_hz,
            config.mel_bins,
            config.fft_samples,
            config.hop,
            config.low_hz,
            config.top_db,
            config.peak_normalise,
        )

    def condition(self, wav_BT: Tensor, length_B: Tensor) -> Tensor:
        """Each clip divided by the highest of its own samples; a silent one as it is."""
        if not self.peak_normalise:
            return wav_BT
        own_BT = torch.arange(wav_BT.shape[1], device=wav_BT.device) < length_B[:, None]
        peak_B1 = wav_BT.abs().masked_fill(~own_BT, 0.0).amax(1, True)
        return wav_BT / peak_B1.where(peak_B1 > 0, 1.0)

    def level(self, power_BTF: Tensor) -> Tensor:
        """Decibels of a power of 1."""
        return 10.0 * power_BTF.clamp(min=LEAST_POWER).log10()

    def scale(self, mel_BTF: Tensor, own_BT1: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From the floor on, -`top_db` to -1 and 0 dB to 1; the floor behind a clip's frames."""
        own_BTF = mel_BTF if own_BT1 is None else mel_BTF.masked_fill(~own_BT1, -math.inf)
        floor_B11 = own_BTF.amax((1, 2), True) - self.top_db
        mel_BTF = torch.maximum(mel_BTF, floor_B11)
        return 2.0 * mel_BTF / self.top_db + 1.0, 2.0 * floor_B11 / self.top_db + 1.0

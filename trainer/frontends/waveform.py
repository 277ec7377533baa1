"""The waveform itself, for encoders that begin with convolutions over samples.

Self-contained (torch and `frontend.py` beside it): it is shipped inside exported models.

Shape legend: B clips, T samples.
"""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from .frontend import Frontend, checked, silence_padding

MIN_SAMPLES = 400
"""The receptive field of one token of wav2vec 2.0 and HuBERT: shorter clips are padded to it."""


class Waveform(Frontend):
    """Samples as they are, silent behind each clip's end; a step is a sample.

    Args:
        sample_rate_hz: of the waveform.
    """

    def __init__(self, sample_rate_hz: int = 16000) -> None:
        super().__init__()
        self.sample_rate_hz = sample_rate_hz
        self.hop_s = 1 / sample_rate_hz

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The front end whose numbers an encoder's config holds."""
        return cls(config.sample_rate_hz)

    def steps_for(self, samples_B: Tensor) -> Tensor:
        """Samples, int64; short clips are padded to one token's receptive field."""
        return samples_B.long().clamp(min=MIN_SAMPLES)

    @torch.no_grad()
    def forward(self, wav_BT: Tensor, length_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The waveform in float32 and each clip's samples; see `Frontend.forward`."""
        length_B = checked(wav_BT, length_B)
        wav_BT = silence_padding(wav_BT.float().clone(), length_B)
        if wav_BT.shape[1] < MIN_SAMPLES:
            wav_BT = F.pad(wav_BT, (0, MIN_SAMPLES - wav_BT.shape[1]))
        return wav_BT, self.steps_for(length_B)

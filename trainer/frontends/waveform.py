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
"""The receptive field of one token of wav2vec 2.0 and HuBERT: shorter clips count as so many."""
ROOM_SAMPLES = 720
"""That of two tokens: shorter batches are padded to it. Of one token an exported graph could not
tell whether it is one for all clips."""


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
        samples = wav_BT.shape[1]
        wav_BT = silence_padding(F.pad(wav_BT.float(), (0, ROOM_SAMPLES)), length_B)
        if not torch.compiler.is_exporting():
            # Nobody can ask whether a symbolic length is long enough: a graph pads every batch.
            wav_BT = wav_BT[:, : max(samples, ROOM_SAMPLES)]
        return wav_BT, self.steps_for(length_B)

"""What every front end is: waveform in, what an encoder takes out.

Self-contained (torch only): it is shipped inside exported models, beside the front end that uses
it.

Shape legend: B clips, T samples.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn


class Frontend(nn.Module):
    """Waveforms to what an encoder takes, on the waveform's device.

    A step is what the front end counts in: a frame of a spectrogram, a sample of a waveform.
    Its numbers come from the encoder's config and travel with the checkpoint.
    """

    sample_rate_hz: int
    hop_s: float
    """Seconds from one step to the next."""
    picture_hop_s: float = 0.010
    """Seconds from one column to the next of a picture of what the encoder hears."""
    band_hz: tuple[float, ...] | None = None
    """Centres of the bands that the encoder hears, rising; None: it hears the waveform."""

    @classmethod
    def from_config(cls, config: Any) -> Self:
        """The front end whose numbers an encoder's config holds."""
        raise NotImplementedError

    def steps_for(self, samples_B: Tensor) -> Tensor:
        """Steps of clips of so many samples, int64, as `forward` counts them."""
        raise NotImplementedError

    def forward(self, wav_BT: Tensor, length_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the encoder takes, and how many steps of each clip stand for sound.

        Args:
            wav_BT: float waveform in [-1, 1], zero-padded on the right.
            length_B: valid samples per clip (None: all); what lies behind them is ignored.

        Returns:
            x, [B, steps, ...] float32, and steps_B int64. A clip's own steps are those it has
            alone.

        Raises:
            ValueError: the waveform is not a floating-point [clips, samples].
        """
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Buffers move to other devices, and stay float32 in a model of bfloat16."""
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in before.items():
            moved = getattr(self, name)
            if moved.dtype != tensor.dtype:
                setattr(self, name, tensor.to(moved.device))
        return self


def checked(wav_BT: Tensor, length_B: Tensor | None) -> Tensor:
    """The lengths of the clips: those given, or the whole waveform for each.

    Raises:
        ValueError: the waveform is not a floating-point [clips, samples].
    """
    if wav_BT.dim() != 2 or not wav_BT.is_floating_point():
        raise ValueError(
            f"waveform of shape {tuple(wav_BT.shape)} and {wav_BT.dtype}; expected floating "
            "point in [-1, 1], shape [clips, samples]"
        )
    if length_B is None:
        return torch.full(wav_BT.shape[:1], wav_BT.shape[1], device=wav_BT.device)
    return length_B


def eager_cpu(x: Tensor) -> bool:
    """Whether looking at a value costs nothing and small pieces stay in the cache."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def silence_padding(wav_BT: Tensor, length_B: Tensor) -> Tensor:
    """Zero, in place, what lies behind a clip's end."""
    if eager_cpu(wav_BT):
        for wav_T, length in zip(wav_BT, length_B.tolist(), strict=True):
            wav_T[length:].zero_()
        return wav_BT
    padding_BT = torch.arange(wav_BT.shape[1], device=wav_BT.device) >= length_B[:, None]
    return wav_BT.masked_fill_(padding_BT, 0.0)


def means(wav_BT: Tensor, length_B: Tensor) -> Tensor:
    """Mean of each clip's own samples, [B]."""
    if eager_cpu(wav_BT):
        # Over a slice, so that it rounds as it does for the clip alone.
        lengths = [max(1, length) for length in length_B.tolist()]
        each = [wav_T[:length].mean() for wav_T, length in zip(wav_BT, lengths, strict=True)]
        return torch.stack(each)
    wav_BT = silence_padding(wav_BT.clone(), length_B)
    return (wav_BT.sum(1, dtype=torch.float64) / length_B.clamp(min=1)).float()

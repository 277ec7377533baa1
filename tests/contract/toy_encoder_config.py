"""Numbers of the toy encoder: what a newcomer writes first. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from dawnchorus.trainer.encoders.base_config import EncoderConfig
from dawnchorus.trainer.encoders.ranges import Count, Range, check_ranges


@dataclass(frozen=True, kw_only=True)
class ToyConfig(EncoderConfig):
    """A residual network over groups of log-mel frames, with batch norms."""

    title: ClassVar[str] = "Toy"
    frontend_fields: ClassVar[tuple[str, ...]] = (
        "frontend", "sample_rate_hz", "mel_bins", "mel_mean", "mel_std",
    )  # fmt: skip

    name: Literal["toy"] = "toy"
    """Which encoder; the other keys are its own."""
    layers: Count = 3
    """Residual blocks."""
    dim: Count = 24
    """Channels of a token."""
    frames: Count = 16
    """Frames of a token."""
    frontend: Literal["beats"] = "beats"
    """Which front end."""
    sample_rate_hz: Count = 16000
    """Sampling rate, in Hz."""
    mel_bins: Count = 128
    """Mel bins."""
    mel_mean: float = 15.4
    """Mean of the log-mel."""
    mel_std: Annotated[float, Range(gt=0)] = 6.6
    """Standard deviation of the log-mel."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def hop_s(self) -> float:
        """Seconds per frame."""
        return 0.010

    @property
    def tokens_text(self) -> str:
        """See `EncoderConfig.tokens_text`."""
        return f"1 per {10 * self.frames} ms"

    def summary(self) -> dict[str, str]:
        """See `EncoderConfig.summary`."""
        return {"Blocks": f"{self.layers} of {self.dim} channels"}

    @property
    def largest_block(self) -> int:
        """A linear layer without bias and a batch norm."""
        return self.dim**2 + 2 * self.dim

    @property
    def blocks_parameters(self) -> int:
        """All blocks."""
        return self.layers * self.largest_block

    @property
    def parameters(self) -> int:
        """With the first projection and the last norm."""
        return (self.frames * self.mel_bins + 1) * self.dim + 2 * self.dim + self.blocks_parameters

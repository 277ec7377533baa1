"""The numbers of an EfficientNet and of the front end that feeds it; imports no torch.

Exported models have a copy of this file, with `efficientnet.py`, `base_config.py` and `ranges.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

from .base_config import EncoderConfig
from .ranges import Bins, Hertz, Range, ShareBelowOne, Size, check_ranges

DIVISOR = 8
"""Channels are multiples of this (Tan and Le 2019, their released code)."""
STEM = 32
"""Channels of the first convolution of B0."""
SQUEEZE = 0.25
"""Channels of the squeeze, as a share of the channels that enter the block."""


class Stage(NamedTuple):
    """One stage of EfficientNet: blocks of one kind. The first block may halve the map."""

    blocks: int
    kernel: int
    stride: int
    expansion: int
    channels: int


B0 = (
    Stage(1, 3, 1, 1, 16),
    Stage(2, 3, 2, 6, 24),
    Stage(2, 5, 2, 6, 40),
    Stage(3, 3, 2, 6, 80),
    Stage(3, 5, 1, 6, 112),
    Stage(4, 5, 2, 6, 192),
    Stage(1, 3, 1, 6, 320),
)
"""EfficientNet-B0 (Tan and Le, arXiv 1905.11946, table 1)."""


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig(EncoderConfig):
    """The architecture of an EfficientNet and the numbers of its front end.

    The defaults are EfficientNet-B0 with AVEX's front end.
    """

    title: ClassVar[str] = "EfficientNet"
    frontend_fields: ClassVar[tuple[str, ...]] = (
        "frontend", "sample_rate_hz", "mel_bins", "n_fft", "hop_samples",
    )  # fmt: skip
    training_only: ClassVar[frozenset[str]] = frozenset(
        {"pretrained", "drop_path", "grad_checkpoint"}
    )

    name: Literal["efficientnet"] = "efficientnet"
    """Which encoder; the other keys are its own."""
    width: Annotated[float, Range(gt=0, le=100)] = 1.0
    """Factor of B0's channels. B0 and B1 1.0 (Tan and Le 2019)."""
    depth: Annotated[float, Range(gt=0, le=100)] = 1.0
    """Factor of B0's blocks per stage, rounded up. B0 1.0, B1 1.1."""
    dim: Size = 1280
    """Width of a token: channels of the last convolution. B0 and B1 1280."""
    pretrained: Literal["imagenet"] | None = None
    """First weights of a new run. imagenet: B0 or B1 trained on ImageNet, which timm fetches (AVEX
    starts from them). null: random. `init_from`, where it is given, has precedence."""
    drop_path: ShareBelowOne = 0.0
    """Probability that the last block of the network is skipped for a clip in training. It rises
    linearly from 0 at the first block. torchvision and AVEX 0.2. Drawn for each clip."""
    grad_checkpoint: bool = False
    """Recompute each stage in the backward pass: less memory, about a third more compute."""
    frontend: Literal["minmax_mel"] = "minmax_mel"
    """The front end: log-mel, scaled to [0, 1] over each clip (AVEX)."""
    sample_rate_hz: Hertz = 16000
    """Sampling rate the encoder expects, in Hz. AVEX: 16,000."""
    mel_bins: Bins = 128
    """Mel bins from 0 Hz to half the sampling rate. AVEX: 128."""
    n_fft: Size = 800
    """Samples of a window and of its spectrum. AVEX: 800."""
    hop_samples: Size = 160
    """Samples from one frame to the next. AVEX: 160."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.n_fft % 2:
            raise ValueError(f"n_fft is {self.n_fft}; it must be a multiple of 2")

    def channels(self, of_b0: int) -> int:
        """Return B0's channels times `width`, rounded to a multiple of 8, but not below 90 %."""
        wanted = of_b0 * self.width
        rounded = max(DIVISOR, int(wanted + DIVISOR / 2) // DIVISOR * DIVISOR)
        return rounded + DIVISOR if rounded < 0.9 * wanted else rounded

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages at this width and depth."""
        return tuple(
            stage._replace(
                blocks=math.ceil(stage.blocks * self.depth), channels=self.channels(stage.channels)
            )
            for stage in B0
        )

    @property
    def layers(self) -> int:
        """Number of blocks that run one after the other: the stages and the last convolution."""
        return len(B0) + 1

    @property
    def reduction(self) -> int:
        """Frames and mel bins that one token stands for."""
        return 2 * math.prod(stage.stride for stage in B0)

    @property
    def bands(self) -> int:
        """Tokens per time column."""
        return -(-self.mel_bins // self.reduction)

    @property
    def hop_s(self) -> float:
        """Seconds from one frame to the next."""
        return self.hop_samples / self.sample_rate_hz

    @property
    def tokens_text(self) -> str:
        """See `EncoderConfig.tokens_text`."""
        return f"{self.bands} per {self.reduction * self.hop_s * 1000:g} ms"

    def summary(self) -> dict[str, str]:
        """See `EncoderConfig.summary`."""
        blocks = sum(stage.blocks for stage in self.stages)
        return {
            "Layers": f"{blocks} blocks in {len(B0)} stages, {self.dim} channels at the end",
            "Tokens": f"one per {self.reduction} frames x {self.reduction} mel bins",
        }

    @property
    def parameters(self) -> int:
        """Parameters of the encoder, without building it."""
        stem = self.channels(STEM)
        return 9 * stem + 2 * stem + self.blocks_parameters

    @property
    def blocks_parameters(self) -> int:
        """Parameters of all stages and of the last convolution."""
        return sum(self._each())

    @property
    def largest_block(self) -> int:
        """Parameters of the largest stage."""
        return max(self._each())

    def _each(self) -> list[int]:
        """Parameters of each stage, and of the last convolution."""
        found, before = [], self.channels(STEM)
        for stage in self.stages:
            more = (stage.blocks - 1) * _block_parameters(stage, stage.channels)
            found.append(_block_parameters(stage, before) + more)
            before = stage.channels
        return [*found, (before + 2) * self.dim]


def squeezed(channels: int) -> int:
    """Return the channels of the squeeze in a block that so many channels enter."""
    return max(1, round(channels * SQUEEZE))


def _block_parameters(stage: Stage, before: int) -> int:
    """Count the convolutions without biases, two numbers per channel of a norm, and the squeeze
    with biases.
    """
    wide, squeeze = before * stage.expansion, squeezed(before)
    expand = (before + 2) * wide if stage.expansion > 1 else 0
    depthwise = (stage.kernel**2 + 2) * wide
    squeezing = (wide + 1) * squeeze + (squeeze + 1) * wide
    return expand + depthwise + squeezing + (wide + 2) * stage.channels

"""The numbers of a BEATs encoder and of the front end that feeds it; imports no torch.

Exported models have a copy of this file, beside `beats.py` and `ranges.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from .base_config import EncoderConfig
from .ranges import Bins, Hertz, Positive, Range, ShareBelowOne, Size, check_ranges


@dataclass(frozen=True, kw_only=True)
class BeatsConfig(EncoderConfig):
    """The architecture of a BEATs encoder and the numbers of its front end.

    The defaults are BEATs base and the configuration of the released self-supervised
    checkpoints (iteration 3).
    """

    title: ClassVar[str] = "BEATs"
    maskable: ClassVar[bool] = True
    frontend_fields: ClassVar[tuple[str, ...]] = (
        "frontend", "sample_rate_hz", "mel_bins", "mel_mean", "mel_std",
    )  # fmt: skip
    training_only: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "attention_dropout", "activation_dropout", "input_dropout", "layer_drop",
         "grad_checkpoint"}
    )  # fmt: skip

    name: Literal["beats"] = "beats"
    """Which encoder; the other keys are its own."""
    layers: Size = 12
    """Transformer layers. Base 12, large 24."""
    dim: Size = 768
    """Width of a token. Base 768, large 1024."""
    ffn_dim: Size = 3072
    """Hidden width of the feed-forward part."""
    heads: Size = 12
    """Attention heads; must divide `dim`."""
    patch_dim: Size = 512
    """Channels of the patch convolution, projected to `dim` where the two differ."""
    patch: Size = 16
    """Side of a square patch, in frames and in mel bins."""
    conv_pos: Size = 128
    """Kernel of the convolutional position embedding, in tokens."""
    conv_pos_groups: Size = 16
    """Groups of the convolutional position embedding; must divide `dim`."""
    num_buckets: Annotated[int, Range(ge=4, le=100_000, multiple_of=4)] = 320
    """Buckets of the relative position bias, half of them per direction."""
    max_distance: Size = 800
    """Distance in tokens from which all positions share the last bucket. 800 in every released
    checkpoint; Microsoft's code has 1280 as its default."""
    dropout: ShareBelowOne = 0.1
    """Dropout on the output of attention and feed-forward, and after the position embedding. 0.1 is
    what the released iter3+ checkpoints store, as for the three rates below and `layer_drop`."""
    attention_dropout: ShareBelowOne = 0.1
    """Dropout on attention weights."""
    activation_dropout: ShareBelowOne = 0.0
    """Dropout after the activation of the feed-forward part."""
    input_dropout: ShareBelowOne = 0.1
    """Dropout on the projected patches."""
    layer_drop: ShareBelowOne = 0.05
    """Probability of skipping a layer in a training step (the same layers on all ranks)."""
    grad_checkpoint: bool = False
    """Recompute each layer in the backward pass: less memory, about a third more compute."""
    frontend: Literal["beats", "eat"] = "beats"
    """Which variant of the log-mel front end."""
    sample_rate_hz: Hertz = 16000
    """Sampling rate the encoder expects, in Hz."""
    mel_bins: Bins = 128
    """Mel bins; a multiple of `patch`."""
    mel_mean: float = 15.41663
    """Mean of the natural-log mel, which the front end subtracts. Microsoft's number, which belongs
    to the weights; it is not documented where it was measured."""
    mel_std: Positive = 6.55582
    """Standard deviation of the natural-log mel; the front end divides by twice this."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for name, divisor in (("dim", "heads"), ("dim", "conv_pos_groups"), ("mel_bins", "patch")):
            if getattr(self, name) % getattr(self, divisor):
                raise ValueError(
                    f"{name} ({getattr(self, name)}) must be a multiple of "
                    f"{divisor} ({getattr(self, divisor)})"
                )
        if self.max_distance <= self.num_buckets // 4:
            raise ValueError(f"max_distance must exceed num_buckets / 4 = {self.num_buckets // 4}")

    @classmethod
    def base(cls, **changes: Any) -> BeatsConfig:
        """BEATs base: 12 layers of 768 (90 M parameters)."""
        return cls(**changes)

    @classmethod
    def large(cls, **changes: Any) -> BeatsConfig:
        """OpenBEATs large: 24 layers of 1024 (about 310 M parameters)."""
        return cls(**{"layers": 24, "dim": 1024, "ffn_dim": 4096, "heads": 16, **changes})

    @property
    def alpha(self) -> float:
        """DeepNorm weight of the residual, (2 N)^(1/4) for N layers."""
        return math.sqrt(math.sqrt(2 * self.layers))

    @property
    def beta(self) -> float:
        """DeepNorm gain of the initial value, output and feed-forward weights, (8 N)^(-1/4)."""
        return 1 / math.sqrt(math.sqrt(8 * self.layers))

    @property
    def bands(self) -> int:
        """Tokens per time column."""
        return self.mel_bins // self.patch

    @property
    def hop_s(self) -> float:
        """Seconds from one frame to the next: 10 ms in whole samples."""
        return int(self.sample_rate_hz * 0.010) / self.sample_rate_hz

    @property
    def tokens_text(self) -> str:
        """See `EncoderConfig.tokens_text`."""
        return f"{self.bands} per {self.patch * self.hop_s * 1000:g} ms"

    def summary(self) -> dict[str, str]:
        """See `EncoderConfig.summary`."""
        return {
            "Layers": f"{self.layers} of {self.dim} channels, {self.heads} heads",
            "Tokens": f"one per {self.patch} x {self.patch} patch of {self.mel_bins} mel bins",
        }

    @property
    def parameters(self) -> int:
        """Parameters of the encoder, without building it."""
        patches = self.patch_dim * self.patch**2 + 2 * self.patch_dim
        if self.patch_dim != self.dim:
            patches += (self.patch_dim + 1) * self.dim
        # Weight norm has a length for each place of the kernel, beside the direction.
        position = (self.dim**2 // self.conv_pos_groups + 1) * self.conv_pos + self.dim
        return patches + position + 2 * self.dim + self.blocks_parameters

    @property
    def blocks_parameters(self) -> int:
        """Parameters of all layers, with their one position table."""
        return self.stack_parameters(self.layers, self.dim)

    @property
    def largest_block(self) -> int:
        """Parameters of the first layer, which holds the position table."""
        return self.stack_parameters(1, self.dim)

    def stack_parameters(self, layers: int, dim: int, heads: int | None = None) -> int:
        """Parameters of a stack of such layers of another width, with its one position table."""
        heads = heads or self.heads
        attention = 4 * (dim + 1) * dim + 8 * (dim // heads + 1) + heads
        feed_forward = (dim + 1) * self.ffn_dim + (self.ffn_dim + 1) * dim
        return layers * (attention + feed_forward + 4 * dim) + self.num_buckets * heads

"""The numbers of a HuBERT encoder; imports no torch.

Exported models have a copy of this file, beside `hubert.py`, `base_config.py` and `ranges.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from .base_config import EncoderConfig
from .ranges import Hertz, Share, ShareBelowOne, Size, check_ranges

KERNELS = (10, 3, 3, 3, 3, 2, 2)
"""Kernels of the convolutions over samples. wav2vec 2.0, HuBERT and AVES have the same kernels and
strides."""
STRIDES = (5, 2, 2, 2, 2, 2, 2)
TOKEN_SAMPLES = 320
"""Samples from one token to the next: the product of the strides."""
RECEPTIVE_SAMPLES = 400
"""Samples that decide one token (its receptive field)."""


@dataclass(frozen=True, kw_only=True)
class HubertConfig(EncoderConfig):
    """Architecture of a HuBERT: convolutions over samples, then a transformer.

    The defaults are HuBERT base, the architecture of AVES and BirdAVES too. It has one group norm,
    in the first convolution, and layer norms after each part (one of wav2vec 2.0's two kinds).
    """

    title: ClassVar[str] = "HuBERT"
    coverable: ClassVar[bool] = True
    training_only: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "attention_dropout", "activation_dropout", "input_dropout", "layer_drop",
         "stem_gradient", "grad_checkpoint"}
    )  # fmt: skip

    name: Literal["hubert"] = "hubert"
    """Which encoder; the other keys are its own."""
    layers: Size = 12
    """Transformer layers. Base 12, BirdAVES large 24."""
    dim: Size = 768
    """Width of a token. Base 768, BirdAVES large 1024."""
    ffn_dim: Size = 3072
    """Hidden width of the feed-forward part. Base 3072, BirdAVES large 4096."""
    heads: Size = 12
    """Attention heads; must divide `dim`. Base 12, BirdAVES large 16."""
    conv_dim: Size = 512
    """Channels of the convolutions over samples."""
    conv_pos: Size = 128
    """Kernel of the convolutional position embedding, in tokens."""
    conv_pos_groups: Size = 16
    """Groups of the convolutional position embedding; must divide `dim`."""
    dropout: ShareBelowOne = 0.1
    """Dropout on the output of attention and feed-forward, and after the position embedding. 0.1 is
    the value of AVES' published configuration, which the four rates below follow too."""
    attention_dropout: ShareBelowOne = 0.1
    """Dropout on attention weights."""
    activation_dropout: ShareBelowOne = 0.0
    """Dropout after the activation of the feed-forward part."""
    input_dropout: ShareBelowOne = 0.1
    """Dropout on the projected output of the convolutions over samples."""
    layer_drop: ShareBelowOne = 0.05
    """Probability of skipping a layer in a training step (the same layers on all ranks)."""
    stem_gradient: Share = 1.0
    """Factor of the gradient into the convolutions over samples. HuBERT's pre-training: 0.1. With 0
    they do not learn."""
    grad_checkpoint: bool = False
    """Recompute each layer in the backward pass: less memory, about a third more compute."""
    frontend: Literal["waveform"] = "waveform"
    """The front end: the waveform itself."""
    sample_rate_hz: Hertz = 16000
    """Sampling rate the encoder expects, in Hz."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for divisor in ("heads", "conv_pos_groups"):
            if self.dim % getattr(self, divisor):
                raise ValueError(
                    f"dim ({self.dim}) must be a multiple of {divisor} ({getattr(self, divisor)})"
                )

    @classmethod
    def base(cls, **changes: Any) -> HubertConfig:
        """HuBERT base and AVES: 12 layers of 768 (94 M parameters)."""
        return cls(**changes)

    @property
    def hop_s(self) -> float:
        """Seconds from one sample to the next."""
        return 1 / self.sample_rate_hz

    @property
    def tokens_text(self) -> str:
        """See `EncoderConfig.tokens_text`."""
        return f"1 per {TOKEN_SAMPLES / self.sample_rate_hz * 1000:g} ms"

    def summary(self) -> dict[str, str]:
        """See `EncoderConfig.summary`."""
        return {
            "Layers": f"{self.layers} of {self.dim} channels, {self.heads} heads",
            "Tokens": f"one per {TOKEN_SAMPLES} samples, by {len(KERNELS)} convolutions",
        }

    @property
    def parameters(self) -> int:
        """Parameters of the encoder, without building it."""
        c, d = self.conv_dim, self.dim
        stem = c * KERNELS[0] + 2 * c + sum(c * c * kernel for kernel in KERNELS[1:])
        project = 2 * c + (c + 1) * d
        # Weight norm has a length for each place of the kernel, beside the direction.
        position = (d**2 // self.conv_pos_groups + 1) * self.conv_pos + d
        return stem + project + position + 2 * d + self.blocks_parameters

    @property
    def largest_block(self) -> int:
        """Parameters of a layer."""
        d, f = self.dim, self.ffn_dim
        return 4 * (d + 1) * d + (d + 1) * f + (f + 1) * d + 4 * d

    @property
    def blocks_parameters(self) -> int:
        """Parameters of all layers."""
        return self.layers * self.largest_block


def tokens_of(samples: Any) -> Any:
    """Return the tokens of so many samples (an int or an integer tensor), without padding."""
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples

"""The numbers of a vision transformer over a spectrogram, and of its front end; imports no torch.

Shipped inside exported models, beside `vit.py` and `ranges.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from .base_config import EncoderConfig
from .ranges import Bins, Hertz, NotNegative, Positive, Range, ShareBelowOne, Size, check_ranges

_ONLY_MEL_DB = ("n_fft", "hop_samples", "low_hz", "top_db", "peak_normalise")


@dataclass(frozen=True, kw_only=True)
class VitConfig(EncoderConfig):
    """Architecture of a vision transformer (ViT) and the numbers of the front end that feeds it.

    The defaults are EAT base, as it was pre-trained on AudioSet (EAT's code,
    `config/pretraining_AS2M.yaml`). The models of the MAE family have `norm: pre`.
    """

    title: ClassVar[str] = "ViT"
    maskable: ClassVar[bool] = True
    feed_forward_taps: ClassVar[bool] = True
    frontend_fields: ClassVar[tuple[str, ...]] = (
        "frontend", "sample_rate_hz", "mel_bins", "mel_mean", "mel_std", "n_fft", "hop_samples",
        "low_hz", "top_db", "peak_normalise",
    )  # fmt: skip
    training_only: ClassVar[frozenset[str]] = frozenset({"drop_path", "grad_checkpoint"})

    name: Literal["vit"] = "vit"
    """Which encoder; the other keys are its own."""
    layers: Size = 12
    """Transformer layers. Base 12, large 24."""
    dim: Annotated[int, Range(ge=4, le=100_000, multiple_of=4)] = 768
    """Width of a token. Base 768, large 1024. A multiple of 4: sines and cosines of two axes."""
    ffn_dim: Size = 3072
    """Hidden width of the feed-forward part: 4 times `dim` in every published model."""
    heads: Size = 12
    """Attention heads; must divide `dim`. Base 12, large 16."""
    patch: Size = 16
    """Side of a square patch, in frames and in mel bins."""
    cls_token: bool = True
    """Whether a token that stands for the whole clip goes in front of the others. EAT predicts the
    clip's mean target from it; AudioMAE, Bird-MAE and XenoMAE have one as well."""
    norm: Literal["post", "pre"] = "post"
    """Where the layer norms of a block stand. post: after each sum, and one in front of the first
    block (EAT). pre: before attention and before the feed-forward part, and one after the last
    block (the MAE family). Their first weights differ too: see `Vit.reset_parameters`."""
    norm_eps: Positive = 1e-6
    """Epsilon of the layer norms (EAT, MAE: 1e-6)."""
    qk_norm: bool = False
    """Normalise the queries and keys of each head (XenoMAE), which keeps scores small."""
    qk_norm_eps: Positive = 1e-6
    """qk_norm only: epsilon of these norms (timm: that of the others; XenoMAE: 1e-5)."""
    positions: Literal["sincos", "learned"] = "sincos"
    """sincos: fixed sines and cosines of time and frequency, for clips of any length (EAT, the MAE
    family). learned: a table for `position_times` columns, which begins as these."""
    position_times: Size | None = None
    """learned only: columns that the table has; longer clips are refused."""
    drop_path: ShareBelowOne = 0.0
    """Probability that a training step leaves out a part of the last block (attention or
    feed-forward), falling to 0 in a straight line towards the first; the same parts for all clips
    and on all ranks (stochastic depth, Huang et al. 2016). EAT and MAE pre-training: 0."""
    grad_checkpoint: bool = False
    """Recompute each layer in the backward pass: less memory, about a third more compute."""
    frontend: Literal["eat", "beats", "mel_db"] = "eat"
    """Variant of the spectrogram. eat, beats: Kaldi's log-mel, normalised by `mel_mean` and
    `mel_std` (AudioMAE and Bird-MAE: eat). mel_db: decibels, 80 of them scaled to [-1, 1]
    (XenoMAE); it has the five numbers below `mel_std`."""
    sample_rate_hz: Hertz = 16000
    """Sampling rate the encoder expects, in Hz."""
    mel_bins: Bins = 128
    """Mel bins; a multiple of `patch`."""
    mel_mean: float = -4.268
    """Mean of the log-mel that the front end subtracts (EAT, on AudioSet)."""
    mel_std: Positive = 4.569
    """Standard deviation of the log-mel; the front end divides by twice this (EAT, on AudioSet)."""
    n_fft: Size | None = None
    """mel_db only: samples of a window; null: the power of 2 from 25 ms on, which is 1,024 at
    32 kHz (XenoMAE)."""
    hop_samples: Size | None = None
    """mel_db only: samples from one frame to the next; null: 10 ms, which is 320 at 32 kHz
    (XenoMAE)."""
    low_hz: NotNegative = 50.0
    """mel_db only: lower edge of the lowest filter, in Hz (XenoMAE: 50)."""
    top_db: Positive = 80.0
    """mel_db only: decibels below a clip's loudest point that count, and the width that is scaled
    to 2 (XenoMAE: 80)."""
    peak_normalise: bool = True
    """mel_db only: divide each clip by its highest sample first (XenoMAE)."""

    def __post_init__(self) -> None:
        check_ranges(self)
        for name, divisor in (("dim", "heads"), ("mel_bins", "patch")):
            if getattr(self, name) % getattr(self, divisor):
                raise ValueError(
                    f"{name} ({getattr(self, name)}) must be a multiple of "
                    f"{divisor} ({getattr(self, divisor)})"
                )
        if (self.positions == "learned") != (self.position_times is not None):
            raise ValueError(
                "position_times is the length of a table of learned positions: set it with "
                "positions=learned, and leave it out (null) with positions=sincos"
            )

        changed = [f for f in _ONLY_MEL_DB if getattr(self, f) != getattr(VitConfig, f)]
        if self.frontend != "mel_db" and changed:
            raise ValueError(
                f"{', '.join(changed)}: for frontend=mel_db only; the front end "
                f"{self.frontend!r} does not know them"
            )

    @classmethod
    def base(cls, **changes: Any) -> VitConfig:
        """EAT base: 12 layers of 768 (85 M parameters)."""
        return cls(**changes)

    @classmethod
    def large(cls, **changes: Any) -> VitConfig:
        """EAT large: 24 layers of 1024 (303 M parameters)."""
        return cls(**{"layers": 24, "dim": 1024, "ffn_dim": 4096, "heads": 16, **changes})

    @property
    def bands(self) -> int:
        """Tokens per time column."""
        return self.mel_bins // self.patch

    @property
    def prefix(self) -> int:
        """Tokens in front that stand for the whole clip."""
        return int(self.cls_token)

    @property
    def hop_s(self) -> float:
        """Seconds from one frame to the next."""
        return self.hop / self.sample_rate_hz

    @property
    def hop(self) -> int:
        """Samples from one frame to the next: 10 ms in whole samples, if nothing else is said."""
        return self.hop_samples or int(self.sample_rate_hz * 0.010)

    @property
    def fft_samples(self) -> int:
        """Samples of a window of the front end `mel_db`."""
        return self.n_fft or 1 << max(int(self.sample_rate_hz * 0.025) - 1, 1).bit_length()

    @property
    def tokens_text(self) -> str:
        """See `EncoderConfig.tokens_text`."""
        text = f"{self.bands} per {self.patch * self.hop_s * 1000:g} ms"
        return text + (", and one for the clip" if self.cls_token else "")

    def summary(self) -> dict[str, str]:
        """See `EncoderConfig.summary`."""
        return {
            "Layers": f"{self.layers} of {self.dim} channels, {self.heads} heads, {self.norm}-norm",
            "Tokens": f"one per {self.patch} x {self.patch} patch of {self.mel_bins} mel bins"
            + (", and one for the clip" if self.cls_token else ""),
        }

    @property
    def parameters(self) -> int:
        """Parameters of the encoder, without building it."""
        patches = (self.patch**2 + 1) * self.dim
        table = 0
        if self.position_times is not None:
            table = (self.prefix + self.position_times * self.bands) * self.dim
        one_norm = 2 * self.dim
        return patches + self.prefix * self.dim + table + one_norm + self.blocks_parameters

    @property
    def blocks_parameters(self) -> int:
        """Parameters of all layers."""
        return self.stack_parameters(self.layers, self.dim)

    @property
    def largest_block(self) -> int:
        """Parameters of a layer."""
        return self.stack_parameters(1, self.dim)

    def stack_parameters(self, layers: int, dim: int, heads: int | None = None) -> int:
        """Parameters of a stack of such layers of another width; its positions are fixed."""
        hidden = self.ffn_dim * dim // self.dim
        attention = (3 * dim + dim) * (dim + 1)
        feed_forward = (dim + 1) * hidden + (hidden + 1) * dim
        qk_norm = 4 * (dim // (heads or self.heads)) if self.qk_norm else 0
        return layers * (attention + feed_forward + 4 * dim + qk_norm)

"""The numbers of masked-token pre-training; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dawnchorus.trainer.encoders.base_config import EncoderConfig
from dawnchorus.trainer.encoders.ranges import (
    Count,
    NotNegative,
    Range,
    ShareBelowOne,
    check_ranges,
)
from dawnchorus.trainer.objectives.base_config import ObjectiveConfig
from dawnchorus.trainer.objectives.tokenizers.random_projection_config import (
    RandomProjectionConfig,
)
from dawnchorus.trainer.registry import TOKENIZERS

if TYPE_CHECKING:
    AnyTokenizer = RandomProjectionConfig
else:
    AnyTokenizer = TOKENIZERS.union("random_projection")

_LEAST_PERPLEXITY = 8.0
"""Fewer codes in effective use than this are a collapse. It hardly depends on the codebook's size:
with the published projection, ESC-10 and Xeno-canto clips have a perplexity of 12 to 32 of 1024
codes, by seed (about 150 to 230 with `whiten: 0.75`), and of 5 to 18 of 128."""


@dataclass(frozen=True, kw_only=True)
class MaskedTokensConfig(ObjectiveConfig):
    """Masked-token pre-training (BEATs), with a random-projection tokenizer (iteration 1) or one
    that was learnt from an earlier encoder (`learned`, iteration 2 and on).
    """

    needs_masking: ClassVar[bool] = True
    metrics: ClassVar[dict[str, str]] = {"loss": "min", "masked_accuracy": "max"}
    """Figures of a validation that may choose the best checkpoint, the usual one first, and whether
    more is better. (`unigram_nll` and its like say what the data is like, not the model.)"""

    name: Literal["masked_tokens"] = "masked_tokens"
    """Which objective this is."""
    mask_ratio: Annotated[float, Range(gt=0, lt=1)] = 0.75
    """Share of the valid tokens that the encoder does not see (BEATs: 0.75)."""
    keep_multiple_of: Count = 8
    """The number of visible tokens of a full-length clip is rounded to a multiple of this: 128
    instead of 124 of 496, because attention kernels want multiples of 8."""
    masks_per_clip: Count = 1
    """Masked views k per clip. The clip is read, transformed and tokenised once, so that more views
    cost no input; BEATs has 1, EAT 16."""
    position_mode: Literal["true", "compact"] = "true"
    """true: visible tokens keep their places in the grid, for the position convolution and the
    relative bias, as at inference. compact: they count as contiguous (ESPnet; what Microsoft did is
    not known)."""
    predictor_layers: Count = 3
    """Layers of the predictor (ESPnet: 3)."""
    predictor_dim: Count | None = None
    """Width of the predictor; null: the encoder's (ESPnet)."""
    label_smoothing: ShareBelowOne = 0.0
    """Label smoothing of the cross-entropy. ESPnet has 0.1; BEATs does not say. Above 0 the loss is
    no longer comparable with `unigram_nll`."""
    clean_targets: bool = False
    """Make the codes of the sound without the noise of `augment`, which only the encoder hears.
    false: of what the encoder hears, as in the code of BEATs and EAT, where one spectrogram serves
    both; they add no noise. AVEX does in pre-training too, and does not say what its targets hear.
    true costs a second log-mel."""
    min_perplexity: NotNegative | None = None
    """Training does not start when the perplexity of the codes over the first clips is lower; null:
    8, or an eighth of a smaller codebook."""
    tokenizer: AnyTokenizer = field(default_factory=RandomProjectionConfig)
    """The tokenizer that makes the targets; without a `name`, the random projection."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def hears_clean(self) -> bool:
        """See `ObjectiveConfig.hears_clean`."""
        return self.clean_targets

    def parameters(self, encoder: EncoderConfig, classes: int) -> int:
        """What is trained beside the encoder: the predictor. `classes` plays no part."""
        width, codes = self.predictor_dim or encoder.dim, self.tokenizer.codebook_size
        ends = (encoder.dim + 1) * width + (width + 1) * codes + 3 * width
        return ends + encoder.stack_parameters(self.predictor_layers, width)

    @property
    def reads(self) -> dict[str, str]:
        """See `ObjectiveConfig.reads`."""
        return {f"tokenizer.{key}": path for key, path in self.tokenizer.reads.items()}

    def frozen_parameters(self, encoder: EncoderConfig) -> int:
        """The tokenizer's."""
        return self.tokenizer.frozen_parameters(encoder)

    @property
    def least_perplexity(self) -> float:
        """The threshold of `MaskedTokens.prepare`."""
        if self.min_perplexity is not None:
            return self.min_perplexity
        return min(_LEAST_PERPLEXITY, self.tokenizer.codebook_size / 8)

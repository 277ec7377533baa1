"""The numbers of utterance-frame pre-training (EAT); imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dawnchorus.trainer.encoders.ranges import Count, NotNegative, Range, Share, check_ranges
from dawnchorus.trainer.objectives.base_config import ObjectiveConfig

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base_config import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class UtteranceFrameConfig(ObjectiveConfig):
    """Utterance-frame pre-training (EAT): predict what a slow copy of the encoder makes of the
    whole clip, from a fifth of it. The defaults are those of EAT base (paper, and
    `config/pretraining_AS2M.yaml` of its code).
    """

    needs_masking: ClassVar[bool] = True
    metrics: ClassVar[dict[str, str]] = {
        "loss": "min", "frame_loss": "min", "utterance_loss": "min",
    }  # fmt: skip
    """Figures of a validation that may choose the best checkpoint, the usual one first, and whether
    more is better."""

    name: Literal["utterance_frame"] = "utterance_frame"
    """Which objective this is."""
    mask_ratio: Annotated[float, Range(gt=0, lt=1)] = 0.8
    """Share of the valid tokens that the encoder does not see. EAT base 0.8, large 0.75."""
    mask_block: Count = 5
    """Side, in tokens, of the squares that stay visible (EAT: 5)."""
    mask_adjust: NotNegative = 0.07
    """Squares are drawn for this much more than the visible share, because they overlap. EAT base
    0.07, large 0.1. What is then too much or too little is mended token by token."""
    keep_multiple_of: Count = 1
    """The number of visible tokens of a full-length clip is rounded to a multiple of this. EAT: 1,
    which gives 102 of 512."""
    masks_per_clip: Count = 16
    """Masked views k per clip (EAT: 16). The teacher hears the clip once."""
    frame_weight: NotNegative = 1.0
    """Weight of the frame loss: the mean over all masked tokens of the squared error of a token,
    summed over its channels and divided by the square root of their number (EAT: 1)."""
    utterance_weight: NotNegative = 1.0
    """Weight of the utterance loss: the same error of the clip's vector, as a mean over views.
    The paper says 1. Its code multiplies the mean by the views that a GPU holds at once, which are
    192 with 12 clips of 16 views: set 192 to train as it does. Here the batch decides nothing."""
    target: Literal["feed_forward", "block"] = "feed_forward"
    """What of the teacher's blocks is predicted. feed_forward: the output of their feed-forward
    parts, before it is added (EAT). block: their outputs."""
    average_layers: Count | None = None
    """The target is the mean over so many last blocks of the teacher; null: all of them (EAT)."""
    teacher_decay: Share = 0.9998
    """Weight of the past in the teacher's moving average, per step, at the first (EAT)."""
    teacher_end_decay: Share = 0.99999
    """The same from step `teacher_anneal_steps` on (EAT); in between along a straight line."""
    teacher_anneal_steps: Count = 100_000
    """Steps from `teacher_decay` to `teacher_end_decay`. EAT base 100,000, large 150,000."""
    decoder_layers: Count = 6
    """Convolutions of the decoder. EAT base 6, large 3."""
    decoder_dim: Count | None = None
    """Channels of the decoder; null: those of the encoder (EAT)."""
    decoder_kernel: Annotated[int, Range(ge=1)] = 3
    """Side of the decoder's kernels, in tokens; odd. EAT base 3, large 5."""
    decoder_groups: Count = 16
    """Groups of the decoder's convolutions (EAT: 16); must divide its channels."""
    filler_std: NotNegative = 0.01
    """Standard deviation of the noise that the decoder gets at masked places (EAT: 0.01)."""
    clean_targets: bool = False
    """The teacher hears the sound without the noise of `augment`, which only the encoder hears.
    false: both hear the same (EAT, whose code adds no noise). true costs a second spectrogram."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.decoder_kernel % 2 == 0:
            raise ValueError(f"decoder_kernel is {self.decoder_kernel}; it must be odd")
        if self.frame_weight == self.utterance_weight == 0:
            raise ValueError("frame_weight and utterance_weight are both 0: nothing is learnt")

    @property
    def hears_clean(self) -> bool:
        """See `ObjectiveConfig.hears_clean`."""
        return self.clean_targets

    @property
    def visible_share(self) -> float:
        """Share of the tokens for which squares are drawn."""
        return 1 - self.mask_ratio + self.mask_adjust

    def parameters(self, encoder: EncoderConfig, classes: int) -> int:
        """What is trained beside the encoder: the decoder. `classes` plays no part."""
        del classes
        width, kernel = self.decoder_dim or encoder.dim, self.decoder_kernel**2
        first = encoder.dim // self.decoder_groups * kernel * width + width
        others = (width // self.decoder_groups * kernel * width + width) * (self.decoder_layers - 1)
        return first + others + (width + 1) * encoder.dim

    def frozen_parameters(self, encoder: EncoderConfig) -> int:
        """The teacher's."""
        return encoder.parameters

    def refuses(self, encoder: EncoderConfig) -> list[str]:
        """See `ObjectiveConfig.refuses`."""
        problems = super().refuses(encoder)
        if self.target == "feed_forward" and not encoder.feed_forward_taps:
            problems.append(
                f"objective.target=feed_forward needs an encoder that shows its feed-forward "
                f"parts, and encoder {encoder.name} ({encoder.title}) does not: set it to block"
            )
        if encoder.maskable:
            for name, width in (("encoder.dim", encoder.dim), ("decoder_dim", self.decoder_dim)):
                if width is not None and width % self.decoder_groups:
                    problems.append(
                        f"objective.decoder_groups is {self.decoder_groups}; it must divide "
                        f"{name} ({width})"
                    )
        return problems

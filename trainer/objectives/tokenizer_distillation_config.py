"""The numbers of self-distilled tokenizer training; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from dawnchorus.trainer.encoders.ranges import Count, NotNegative, Range, Share, check_ranges
from dawnchorus.trainer.objectives.base_config import ObjectiveConfig

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base_config import EncoderConfig
    from dawnchorus.trainer.recipe import Recipe

START = "start"
"""The teacher that is a copy of the encoder as it begins."""


@dataclass(frozen=True, kw_only=True)
class TokenizerDistillationConfig(ObjectiveConfig):
    """Training of a tokenizer (BEATs, iteration 2 and on): name each token with one of some codes,
    from which the output of an earlier encoder, the teacher, can be told.

    The encoder of the recipe becomes the tokenizer's. Paper: Chen et al., arXiv 2212.09058,
    section 3.3; the code of its tokenizers is published (Microsoft), that of their training is not,
    so numbers that only training needs are those of ESPnet (`egs2/audioset/ssl1`).
    """

    metrics: ClassVar[dict[str, str]] = {"loss": "min", "cosine": "max", "perplexity": "max"}
    """Figures of a validation that may choose the best checkpoint, the usual one first, and whether
    more is better."""

    name: Literal["tokenizer_distillation"] = "tokenizer_distillation"
    """Which objective this is."""
    teacher: str | None = None
    """A run, checkpoint or export whose encoder is the teacher, frozen; it must have the same front
    end and the same tokens. `start`: the recipe's own encoder as it begins, which makes sense with
    `init_from`. BEATs: the encoder of the iteration before; for its last tokenizers ("iter3+") that
    encoder after it was fine-tuned with labels. It has to be given."""
    codebook_size: Annotated[int, Range(ge=2)] = 1024
    """Number of codes. BEATs: 1024."""
    codebook_dim: Annotated[int, Range(ge=2)] = 256
    """Width of a code. BEATs: 256."""
    codebook_decay: Share = 0.99
    """Weight of the past in the codes' moving average, per step (Microsoft's code: 0.99)."""
    revive_below: NotNegative = 0.01
    """A code whose share of the tokens (a moving average) is below this part of an even share takes
    the place of a token of the step, 64 codes a step at most. Jukebox (arXiv 2005.00341) does so
    below one token per batch; BEATs' code does not: 0."""
    commitment_weight: NotNegative = 1.0
    """Weight of the mean square, over the channels of a code, of the difference between a token and
    its code, by which tokens are drawn to their codes. Microsoft's code 1, ESPnet 10; the paper's
    formula has the sum over channels, which is 256 here."""
    estimator_layers: Count = 3
    """Layers, of the encoder's kind, that tell the teacher's output from the codes (BEATs: 3)."""
    centre_targets: bool = False
    """Take the mean of the teacher's tokens over the first clips off its output. Tokens of a norm
    after the last block share a large mean: little training tells that apart from nothing, a few
    codes do for it, and the loss looks excellent (`mean_cosine` says by how much). false: BEATs."""
    clean_targets: bool = False
    """The teacher hears the sound without the noise of `augment`, which only the tokenizer hears.
    false: both hear the same (BEATs and ESPnet add no noise). true costs a second log-mel."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def hears_clean(self) -> bool:
        """See `ObjectiveConfig.hears_clean`."""
        return self.clean_targets

    @property
    def reads(self) -> dict[str, str]:
        """See `ObjectiveConfig.reads`."""
        return {} if self.teacher in (None, START) else {"teacher": str(self.teacher)}

    def parameters(self, encoder: EncoderConfig, classes: int) -> int:
        """What is trained beside the encoder: projection and estimator. `classes` plays no part.

        The estimator has the teacher's width, which is taken to be the encoder's.
        """
        del classes
        dim, width = encoder.dim, self.codebook_dim
        project = (dim + 1) * (dim + width)
        ends = (width + 1) * dim + 2 * dim
        return project + ends + encoder.stack_parameters(self.estimator_layers, dim)

    def frozen_parameters(self, encoder: EncoderConfig) -> int:
        """The teacher's, which is taken to be as large as the encoder."""
        return encoder.parameters

    def refuses(self, encoder: EncoderConfig) -> list[str]:
        """See `ObjectiveConfig.refuses`."""
        if encoder.maskable:
            return []
        return [
            f"objective {self.name} makes its estimator of layers of the encoder's kind, and "
            f"encoder {encoder.name} ({encoder.title}) gives none: choose another encoder"
        ]

    def forbids(self, recipe: Recipe) -> list[str]:
        """See `ObjectiveConfig.forbids`."""
        problems = super().forbids(recipe)
        if self.teacher is None:
            problems.append(
                "objective.teacher: whose output is to be told from the codes? Give a run, a "
                f"checkpoint or an export; or `{START}`, the encoder of `init_from`"
            )
        if recipe.optim.ema_decay is not None:
            problems.append(
                f"optim.ema_decay must be null with objective {self.name}: the codes follow the "
                "weights of each step, and would not fit their average"
            )
        return problems

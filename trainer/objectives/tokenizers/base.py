"""What every tokenizer does.

Shape legend: B clips, T frames, F mel bins, N tokens (n = bands x t + f, as in the encoder).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from dawnchorus.trainer.objectives.tokenizers.base_config import TokenizerConfig

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base import Encoder, Grid
    from dawnchorus.trainer.objectives.base import Context


class Tokenizer(nn.Module, ABC):
    """Log-mel in, one code per patch out. No optimiser moves its tensors, which are buffers or
    want no gradient, and every checkpoint carries them.

    Args:
        config: the tokenizer's numbers; `config.codebook_size` codes exist.
        patch: side of a patch, in frames and mel bins; the encoder's.
    """

    def __init__(self, config: TokenizerConfig, *, patch: int = 16) -> None:
        super().__init__()
        self.config = config
        self.patch = patch

    @classmethod
    def build(cls, config: Any, encoder: Encoder, context: Context) -> Self:
        """The tokenizer for an encoder that is to be trained.

        Args:
            config: the `objective.tokenizer` section of the recipe.
            encoder: one that is `Maskable`.
            context: what may be asked for, such as an earlier encoder.

        Raises:
            RecipeError: the numbers of tokenizer and encoder do not go together.
            CheckpointError: a file that it is made of cannot be read.
        """
        del context
        return cls(config, patch=encoder.config.patch)

    @abstractmethod
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Learn from the corpus what the codes need, once, before the first step.

        Args:
            batches: normalised log-mel [B, T, F] and valid tokens [B, N]; every rank must pass the
                same ones.
        """

    @abstractmethod
    def forward(self, mel_BTF: Tensor, steps_B: Tensor | None = None) -> Tensor:
        """Codes of a batch, in the order of the encoder's tokens.

        Args:
            mel_BTF: normalised log-mel.
            steps_B: frames of each clip that stand for sound (None: all of them), for a tokenizer
                whose codes depend on more than their own patch.

        Returns:
            [B, N], int64; unspecified where the token is padding.
        """

    @abstractmethod
    def flops(self, grid: Grid) -> float:
        """Floating-point operations for a clip that fills `grid`."""

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What to change when the codebook is badly used: a sentence without its full stop."""

"""What every tokenizer does.

Shape legend: B clips, T frames, F mel bins, N tokens (n = bands x t + f, as in the encoder).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn

from dawnchorus.trainer.objectives.tokenizers.base_config import TokenizerConfig


class Tokenizer(nn.Module, ABC):
    """Log-mel in, one code per patch out. Its tensors are buffers: no optimiser moves them, and
    every checkpoint carries them.

    Args:
        config: the tokenizer's numbers; `config.codebook_size` codes exist.
        patch: side of a patch, in frames and mel bins; the encoder's.
    """

    def __init__(self, config: TokenizerConfig, *, patch: int = 16) -> None:
        super().__init__()
        self.config = config
        self.patch = patch

    @abstractmethod
    def fit(self, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Learn from the corpus what the codes need, once, before the first step.

        Args:
            batches: normalised log-mel [B, T, F] and valid tokens [B, N]; every rank must pass the
                same ones.
        """

    @abstractmethod
    def forward(self, mel_BTF: Tensor) -> Tensor:
        """Codes [B, N], int64, of normalised log-mel, in the order of the encoder's tokens."""

    @abstractmethod
    def flops(self, places: int) -> float:
        """Floating-point operations for a clip of `places` tokens."""

    @property
    @abstractmethod
    def remedy(self) -> str:
        """What to change when the codebook is badly used: a sentence without its full stop."""

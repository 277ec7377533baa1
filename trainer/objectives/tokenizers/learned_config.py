"""The numbers of a learned tokenizer; imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from dawnchorus.trainer.objectives.tokenizers.base_config import TokenizerConfig

if TYPE_CHECKING:
    from dawnchorus.trainer.encoders.base_config import EncoderConfig


@dataclass(frozen=True, kw_only=True)
class LearnedConfig(TokenizerConfig):
    """A tokenizer that was learnt from an earlier encoder: BEATs' second iteration and later."""

    name: Literal["learned"] = "learned"
    """Which tokenizer this is."""
    path: str
    """A run of `tokenizer_distillation` or one of its checkpoints, or a tokenizer of Microsoft's
    (`Tokenizer_iter3.pt` and its like). Its front end must have the encoder's numbers, and
    `codebook_size` must be the number of its codes."""

    @property
    def reads(self) -> dict[str, str]:
        """See `TokenizerConfig.reads`."""
        return {"path": self.path}

    def frozen_parameters(self, encoder: EncoderConfig) -> int:
        """Its encoder's, which is taken to be as large as the one that is trained."""
        return encoder.parameters

"""How evenly a tokenizer uses its codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from dawnchorus.trainer.objectives.base import FeatureBatch, StepOutput


@dataclass(frozen=True)
class CodebookUsage:
    """How evenly a tokenizer uses its codes."""

    count_V: Tensor
    """Occurrences of each code, int64."""

    @property
    def tokens(self) -> int:
        """Tokens counted."""
        return int(self.count_V.sum())

    @property
    def unique(self) -> int:
        """Codes that occur at all."""
        return int((self.count_V > 0).sum())

    @property
    def entropy_nats(self) -> float:
        """Entropy of the code distribution, at most ln V; 0 of nothing."""
        share_V = self.count_V.double() / max(self.tokens, 1)
        return float(-torch.xlogy(share_V, share_V).sum())

    @property
    def perplexity(self) -> float:
        """exp(entropy): as many equally frequent codes would be as hard to guess."""
        return float(torch.tensor(self.entropy_nats).exp())

    def as_dict(self) -> dict[str, float]:
        """The figures, as plain numbers."""
        return {
            "tokens": self.tokens,
            "codes_used": self.unique,
            "codes": len(self.count_V),
            "entropy_nats": self.entropy_nats,
            "perplexity": self.perplexity,
        }


def codebook_usage(code_BN: Tensor, valid_BN: Tensor | None, codebook_size: int) -> CodebookUsage:
    """Count codes (int64, any shape) where `valid_BN` (bool, same shape; None: everywhere)."""
    weight = torch.ones_like(code_BN) if valid_BN is None else valid_BN.long()
    count_V = torch.zeros(codebook_size, dtype=torch.int64, device=code_BN.device)
    return CodebookUsage(count_V.index_add(0, code_BN.flatten(), weight.flatten()))


def perplexity(share_V: Tensor) -> Tensor:
    """exp(entropy) of shares that add up to 1: a scalar, on their device."""
    return (-torch.xlogy(share_V, share_V).sum()).exp()


class UsageScorer:
    """`codes_used` and `perplexity` over a validation's tokens (see `objectives.base.Scorer`)."""

    def __init__(self) -> None:
        self._count_V: Tensor | None = None

    def update(self, output: StepOutput, batch: FeatureBatch) -> None:
        """Take a batch in."""
        assert output.code_count_V is not None
        before = self._count_V
        self._count_V = output.code_count_V if before is None else before + output.code_count_V

    def sync(self) -> None:
        """Add up what the ranks have; every rank has had as many batches."""
        if dist.is_initialized() and self._count_V is not None:
            dist.all_reduce(self._count_V)

    def finish(self, figures: dict[str, float]) -> dict[str, float]:
        """The given figures, these two among them."""
        if self._count_V is None:
            return figures
        usage = CodebookUsage(self._count_V.cpu())
        return figures | {"codes_used": usage.unique, "perplexity": usage.perplexity}

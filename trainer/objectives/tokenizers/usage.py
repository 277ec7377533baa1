"""How evenly a tokenizer uses its codes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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

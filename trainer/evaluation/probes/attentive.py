"""Probes that attend to tokens: one learned query, or self-attention on a mix of layers.

Shape legend: B clips, L layers, T tokens, D channels, C classes, H heads, E channels per head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from dawnchorus.trainer.encoders.base import attend
from dawnchorus.trainer.evaluation.probes.attentive_config import (
    AttentiveConfig,
    AttentiveLayersConfig,
)
from dawnchorus.trainer.evaluation.probes.token_fitting import TokenProbe, place_tokens
from dawnchorus.trainer.evaluation.tokens import TokenShape


class OneQuery(nn.Module):
    """A learned query attends to the tokens; keys and values have no bias, and what it finds goes
    through a norm to the classifier (arXiv 2504.12880).
    """

    def __init__(self, shape: TokenShape, classes: int, config: AttentiveConfig) -> None:
        super().__init__()
        dim = shape.dim
        self.heads, self.prefix, self.dropout = config.heads_of(dim), shape.prefix, config.dropout
        self.query_D = nn.Parameter(torch.randn(dim) * 0.02)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, tok_BLTD: Tensor, valid_BT: Tensor) -> Tensor:
        """Logits [B, C], of the last of the layers."""
        tok_BTD, valid_BT = place_tokens(tok_BLTD[:, -1], valid_BT, self.prefix)
        query = self.query_D.expand(len(tok_BTD), 1, -1)
        found_BHTE = attend(
            _heads(query, self.heads),
            _heads(self.key(tok_BTD), self.heads),
            _heads(self.value(tok_BTD), self.heads),
            valid_BT[:, None, None, :],
            self.dropout if self.training else 0.0,
        )
        logit_BC: Tensor = self.classifier(self.norm(rearrange(found_BHTE, "b h 1 e -> b (h e)")))
        return logit_BC


class LayerAttention(nn.Module):
    """A softmax-weighted sum of the layers' tokens, self-attention with a residual and a norm, the
    mean of the valid tokens, the classifier (arXiv 2605.10494).

    Where layers differ in width, a linear projection widens the narrower ones.
    """

    def __init__(self, shape: TokenShape, classes: int, config: AttentiveLayersConfig) -> None:
        super().__init__()
        dim = shape.dim
        self.heads, self.dropout = config.heads_of(dim), config.dropout
        self.mix_L = nn.Parameter(torch.zeros(shape.layers))
        self.widen = nn.ModuleList(
            nn.Identity() if width == dim else nn.Linear(width, dim) for width in shape.widths
        )
        self.widths = shape.widths
        self.qkv = nn.Linear(dim, 3 * dim)
        # The start of torch.nn.MultiheadAttention, which the source uses.
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.out.bias)
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, tok_BLTD: Tensor, valid_BT: Tensor) -> Tensor:
        """Logits [B, C]."""
        valid_BT = place_tokens(tok_BLTD[:, 0], valid_BT, 0)[1]
        share_L = self.mix_L.softmax(0)
        mixed_BTD = torch.zeros_like(tok_BLTD[:, 0])
        for number, (width, widen) in enumerate(zip(self.widths, self.widen, strict=True)):
            mixed_BTD = mixed_BTD + share_L[number] * widen(tok_BLTD[:, number, :, :width])
        q, k, v = (_heads(x, self.heads) for x in self.qkv(mixed_BTD).chunk(3, -1))
        dropout = self.dropout if self.training else 0.0
        found = rearrange(
            attend(q, k, v, valid_BT[:, None, None, :], dropout), "b h t e -> b t (h e)"
        )
        tok_BTD = self.norm(mixed_BTD + self.out(found))
        tok_BTD = F.dropout(tok_BTD, self.dropout, self.training)
        weight_BT1 = valid_BT.unsqueeze(-1).to(tok_BTD.dtype)
        mean_BD = (tok_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)
        logit_BC: Tensor = self.classifier(F.dropout(mean_BD, self.dropout, self.training))
        return logit_BC


def _heads(x_BTD: Tensor, heads: int) -> Tensor:
    x_BHTE: Tensor = rearrange(x_BTD, "b t (h e) -> b h t e", h=heads)
    return x_BHTE


class Attentive(TokenProbe):
    """See `OneQuery`."""

    config: AttentiveConfig

    def build(self, shape: TokenShape, classes: int) -> nn.Module:
        """See `TokenProbe.build`."""
        return OneQuery(shape, classes, self.config)


class AttentiveLayers(TokenProbe):
    """See `LayerAttention`."""

    config: AttentiveLayersConfig

    def build(self, shape: TokenShape, classes: int) -> nn.Module:
        """See `TokenProbe.build`."""
        return LayerAttention(shape, classes, self.config)

"""The layer-wise prototype probe.

Shape legend: B clips, L layers, T tokens, D channels, C classes, K prototypes per class, P = C K
prototypes, Q prototypes of a chunk, M = B T tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dawnchorus.trainer.evaluation.probes.prototypes_config import PrototypesConfig
from dawnchorus.trainer.evaluation.probes.token_fitting import TokenProbe, place_tokens
from dawnchorus.trainer.evaluation.tokens import TokenShape

_TINY = 1e-12


class _GreatestCosine(torch.autograd.Function):
    """The greatest cosine of each prototype with the valid tokens of each clip, [B, P].

    All cosines at once are B T P numbers: 30 GB where there are 10,000 classes. So prototypes are
    compared a chunk at a time, and the backward pass needs only where the greatest one was.
    """

    @staticmethod
    def forward(
        ctx: Any, tok_BTD: Tensor, valid_BT: Tensor, proto_PD: Tensor, chunk: int
    ) -> Tensor:
        unit_BDT = F.normalize(tok_BTD, dim=-1, eps=_TINY).transpose(1, 2)
        found, places = [], []
        for proto_QD in torch.split(proto_PD, chunk):
            cos_BQT = F.normalize(proto_QD, dim=-1, eps=_TINY) @ unit_BDT
            cos_BQT.masked_fill_(~valid_BT.unsqueeze(1), -torch.inf)
            value_BQ, place_BQ = cos_BQT.max(2)
            found.append(value_BQ)
            places.append(place_BQ.int())
        ctx.save_for_backward(tok_BTD, proto_PD, torch.cat(places, 1))
        # The backward pass has D numbers for each pair where this one has T.
        ctx.chunk = max(1, chunk * tok_BTD.shape[1] // tok_BTD.shape[2])
        return torch.cat(found, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_BP,) = grads
        tok_BTD, proto_PD, place_BP = ctx.saved_tensors
        clips, tokens, _ = tok_BTD.shape
        unit_MD = F.normalize(tok_BTD, dim=-1, eps=_TINY).flatten(0, 1)
        grad_unit_MD = torch.zeros_like(unit_MD)
        grad_proto_PD = torch.empty_like(proto_PD)
        first_B1 = tokens * torch.arange(clips, device=place_BP.device).unsqueeze(1)
        chunks = zip(
            torch.split(proto_PD, ctx.chunk), torch.split(grad_BP, ctx.chunk, 1),
            torch.split(place_BP, ctx.chunk, 1), torch.split(grad_proto_PD, ctx.chunk), strict=True,
        )  # fmt: skip
        for proto_QD, grad_BQ, place_BQ, into_QD in chunks:
            # A cosine's gradient goes to the one token where it was greatest.
            row_BQ, unit_QD = first_B1 + place_BQ, F.normalize(proto_QD, dim=-1, eps=_TINY)
            grad_BQD = grad_BQ.unsqueeze(-1) * unit_QD
            grad_unit_MD.index_add_(0, row_BQ.flatten(), grad_BQD.flatten(0, 1))
            grad_QD = torch.einsum("bq,bqd->qd", grad_BQ, unit_MD[row_BQ])
            into_QD.copy_(_through_norm(grad_QD, proto_QD))
        grad_unit_BTD = grad_unit_MD.view_as(tok_BTD)
        return _through_norm(grad_unit_BTD, tok_BTD), None, grad_proto_PD, None


def _through_norm(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient of x from that of x / |x|, along the last axis."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=_TINY)
    unit = x / length
    through: Tensor = (grad - unit * (unit * grad).sum(-1, keepdim=True)) / length
    return through


def greatest_cosine(tok_BTD: Tensor, valid_BT: Tensor, proto_PD: Tensor, chunk: int) -> Tensor:
    """The greatest cosine of each prototype with the valid tokens of each clip.

    Args:
        tok_BTD: tokens.
        valid_BT: bool, at least one true in each row.
        proto_PD: prototypes.
        chunk: prototypes that are compared at once; it changes memory, not figures.

    Returns:
        [B, P].
    """
    found_BP: Tensor = _GreatestCosine.apply(  # type: ignore[no-untyped-call]
        tok_BTD, valid_BT, proto_PD, chunk
    )
    return found_BP


class LayerPrototypes(nn.Module):
    """See `PrototypesConfig`."""

    def __init__(self, shape: TokenShape, classes: int, config: PrototypesConfig) -> None:
        super().__init__()
        self.classes, self.chunk, self.prefix = classes, config.chunk, shape.prefix
        self.mix_L = nn.Parameter(torch.zeros(shape.layers))
        self.gain_LD = nn.Parameter(torch.ones(shape.layers, shape.dim))
        self.shift_LD = nn.Parameter(torch.zeros(shape.layers, shape.dim))
        self.proto_PD = nn.Parameter(torch.randn(classes * config.per_class, shape.dim) * 0.02)
        bound = 1 / math.sqrt(config.per_class)
        self.mixer_CK = nn.Parameter(torch.empty(classes, config.per_class).uniform_(-bound, bound))
        self.bias_C = nn.Parameter(torch.empty(classes).uniform_(-bound, bound))
        self.widths = shape.widths

    def tokens(self, tok_BLTD: Tensor, valid_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The mixed tokens of places less the CLS token or their mean, and which are valid."""
        share_L1 = self.mix_L.softmax(0).unsqueeze(1)
        gain_LD = share_L1 * self.gain_LD
        mixed_BTD = (share_L1 * self.shift_LD).sum(0)
        for number, width in enumerate(self.widths):
            # The tokens are frozen, so only the gain needs a gradient.
            with torch.no_grad():
                normed = F.layer_norm(tok_BLTD[:, number, :, :width], (width,))
                normed = F.pad(normed, (0, tok_BLTD.shape[-1] - width))
            mixed_BTD = mixed_BTD + normed * gain_LD[number]
        place_BTD, valid_BT = place_tokens(mixed_BTD, valid_BT, self.prefix)
        if self.prefix:
            return place_BTD - mixed_BTD[:, :1], valid_BT
        weight_BT1 = valid_BT.unsqueeze(-1).to(place_BTD.dtype)
        mean_B1D = (place_BTD * weight_BT1).sum(1, keepdim=True) / weight_BT1.sum(1, keepdim=True)
        return place_BTD - mean_B1D, valid_BT

    def forward(self, tok_BLTD: Tensor, valid_BT: Tensor) -> Tensor:
        """Logits [B, C]."""
        place_BTD, valid_BT = self.tokens(tok_BLTD, valid_BT)
        alike_BP = greatest_cosine(place_BTD, valid_BT, self.proto_PD, self.chunk)
        alike_BCK = alike_BP.view(len(alike_BP), self.classes, -1)
        return torch.einsum("bck,ck->bc", alike_BCK, self.mixer_CK) + self.bias_C


class Prototypes(TokenProbe):
    """See `PrototypesConfig`."""

    config: PrototypesConfig

    def build(self, shape: TokenShape, classes: int) -> nn.Module:
        """See `TokenProbe.build`."""
        return LayerPrototypes(shape, classes, self.config)

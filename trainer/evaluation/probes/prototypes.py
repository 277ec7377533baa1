"""The layer-wise prototype probe.

Shape legend: B clips, L layers, T tokens, D channels, C classes, K prototypes per class, P = C K
prototypes, Q prototypes of a chunk.
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
        unit_BTD = F.normalize(tok_BTD, dim=-1, eps=_TINY)
        found, places = [], []
        for proto_QD in torch.split(proto_PD, chunk):
            cos_BTQ = unit_BTD @ F.normalize(proto_QD, dim=-1, eps=_TINY).T
            cos_BTQ.masked_fill_(~valid_BT.unsqueeze(-1), -torch.inf)
            value_BQ, place_BQ = cos_BTQ.max(1)
            found.append(value_BQ)
            places.append(place_BQ.int())
        ctx.save_for_backward(tok_BTD, proto_PD, torch.cat(places, 1))
        ctx.chunk = chunk
        return torch.cat(found, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad_BP,) = grads
        tok_BTD, proto_PD, place_BP = ctx.saved_tensors
        unit_BTD = F.normalize(tok_BTD, dim=-1, eps=_TINY)
        grad_unit_BTD = torch.zeros_like(tok_BTD)
        grad_proto_PD = torch.empty_like(proto_PD)
        chunks = zip(
            torch.split(proto_PD, ctx.chunk), torch.split(grad_BP, ctx.chunk, 1),
            torch.split(place_BP, ctx.chunk, 1), torch.split(grad_proto_PD, ctx.chunk), strict=True,
        )  # fmt: skip
        for proto_QD, grad_BQ, place_BQ, into_QD in chunks:
            # The gradient of each cosine, at the token where it was greatest.
            at_BTQ = grad_BQ.new_zeros(*tok_BTD.shape[:2], grad_BQ.shape[1])
            at_BTQ.scatter_(1, place_BQ.long().unsqueeze(1), grad_BQ.unsqueeze(1))
            grad_unit_BTD += at_BTQ @ F.normalize(proto_QD, dim=-1, eps=_TINY)
            grad_QD = at_BTQ.flatten(0, 1).T @ unit_BTD.flatten(0, 1)
            into_QD.copy_(_through_norm(grad_QD, proto_QD))
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
